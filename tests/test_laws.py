"""The promises as laws: each must hold for every row of the table (``changes.py``), on the public surface alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bases import BASES
from change import Change
from changes import CHANGES
from results import Result, digests, flipped, spread, stored, tensors
from torch import nn
from watched import heard

import hf_init

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def result(request: pytest.FixtureRequest, results: Callable[[str], Result]) -> Iterator[Result]:
    """A row, of which all laws are asked before the next one's: what was read of its files isn't held any longer."""
    found = results(request.param)
    yield found
    found.forget()


QUICK = {name for name, change in [*CHANGES.items()][::6] if not change.slow}
"""The rows that the quick suite runs: those that stand together are alike."""


def over(which: Callable[[Change], object] = lambda change: True) -> pytest.MarkDecorator:
    """Over every row that a law speaks of."""
    rows = [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name, change in CHANGES.items()
        if which(change)
    ]
    return pytest.mark.parametrize("result", rows, indirect=True, scope="module")


law = over()


# Nothing pretrained moves, and nothing is new unasked.


@law
def test_every_kept_byte_is_at_its_place(result):
    assert result.expected.keys() == result.written.keys()
    for name, tensor in result.expected.items():
        if tensor.status == "kept":
            assert result.written[name] == tensor.source, name
        elif tensor.source is not None:
            found, kept = result.written[name], tensor.origins >= 0
            assert found.dtype == tensor.source.dtype and found.bits.shape == tensor.origins.shape, name
            assert np.array_equal(found.bits[kept], tensor.source.bits.reshape(-1)[tensor.origins[kept]]), name


@law
def test_every_word_of_the_row_is_about_something(result):
    change = result.change
    prefixed = {prefix + name for prefix, folder in result.parts.items() for name in tensors(folder)}
    for glob in (*change.new, *change.moved, *change.ignored):
        assert any(fnmatchcase(name, glob) for name in result.written), glob
    for glob in change.gone:
        assert any(fnmatchcase(name, glob) for name in prefixed), glob


@law
def test_the_plan_says_what_was_done(result):
    document = result.plan.to_json()
    said = {each["name"]: each["status"] for each in document["tensors"] if each["status"] != "tied"}
    skipped = {name: said.pop(name) for name in [*said] if result.skips(name)}
    statuses = {name: "carried" if result.ignores(name) else each.status for name, each in result.expected.items()}
    assert said == statuses
    assert skipped == dict.fromkeys(result.change.skipped, "new")
    unused = {name.removeprefix("base.") for name in document["unused"]}
    assert {name for name in unused if not name.startswith("take.")} == result.gone()
    assert {**document["counts"], "tensors": len(document["tensors"])} == result.report.counts


@law
def test_a_plan_is_the_same_whoever_makes_it(result):
    again = hf_init.plan(result.base, result.change.target, **result.options)
    assert result.plan == again == hf_init.Plan.load(result.out) == result.model.init_plan
    assert result.plan.to_json() == again.to_json() and str(result.plan) == str(again)


# Memory is disk, and both are plain.


@law
def test_memory_is_what_is_on_disk(result):
    plain = result.plainly()
    assert result.model.training is plain.training is False
    for tensors_of in (lambda m: m.named_parameters(remove_duplicate=False), lambda m: m.named_buffers()):
        mine, theirs = dict(tensors_of(result.model)), dict(tensors_of(plain))
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].requires_grad is theirs[name].requires_grad, name
            assert result.skips(name) or stored(mine[name]) == stored(theirs[name]), name
    at_saving = dict.fromkeys(("_name_or_path", "architectures", "auto_map"))
    assert {**result.model.config.to_dict(), **at_saving} == {**plain.config.to_dict(), **at_saving}


@over(lambda change: not change.skipped)
def test_the_model_saves_what_is_on_disk(result, tmp_path):
    result.model.save_pretrained(tmp_path)
    assert tensors(tmp_path) == {name: each for name, each in result.written.items() if not result.ignores(name)}
    saved, written = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, result.out))
    assert saved == written


@over(lambda change: not change.skipped)
def test_plain_transformers_loads_it_in_silence(result):
    with heard() as said, warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = result.plainly(output_loading_info=True)
    assert not any(info.values()), info
    assert said == []


@law
def test_files_beside_the_weights_come_along_and_no_others_do(result):
    beside = {name: folder / name for folder in reversed(result.parts.values()) for name in files(folder)}
    there = files(result.out)
    saved = TOKENIZER if result.options.keys() & VOCABULARY else set()
    assert there - beside.keys() <= {"generation_config.json", *saved}
    for name in beside.keys() - saved - {"config.json", "generation_config.json"}:
        assert (result.out / name).read_bytes() == beside[name].read_bytes(), name


def files(folder: Path) -> set[str]:
    """The files of a folder but the weights, which may be divided anew, and what is ours: manifest, card, heads."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    ours = (".safetensors", "hf_init.json", "_multi_head.py", "README.md")
    return {name for name in found if not any(each in name for each in ours)}


VOCABULARY = {"add_tokens", "tokenizer", "reinit_rows", "allow_shrink"}
TOKENIZER = {
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.json", "vocab.txt"
}  # fmt: skip


# Everything is proved, and proved again later.


@law
def test_the_manifest_is_small_and_names_no_place_of_this_machine(result):
    text = (result.out / "hf_init.json").read_text()
    assert len(text) < 200_000, "whatever the vocabulary"
    folders = [result.out.parents[1], *result.parts.values(), *map(result.bases, result.change.taken)]
    assert not any(str(place) in text for folder in folders for place in (folder, folder.resolve()))
    manifest = json.loads(text)
    del manifest["base"]
    if "take_heads" in result.options:  # a note says where a head was taken from
        del manifest["plan"]["notes"]
    text, places = json.dumps(manifest), (result.out, result.out.parent.parent, Path.cwd(), Path.home())
    assert [place for place in map(str, places) if place in text] == []


@law
def test_a_load_proves_every_kept_byte(result):
    kept = {
        name: (each.origins >= 0).sum() * each.source.bits.itemsize
        for name, each in result.expected.items()
        if each.source
    }
    assert result.model.init_report.bytes_proved == sum(n for name, n in kept.items() if not result.ignores(name))


@law
def test_it_is_proved_from_the_manifest_and_every_new_value_can_be_made_again(result):
    for proved in (result.report, result.recomputed, hf_init.verify(result.out, result.compared, everything=True)):
        assert proved.ok and proved.complete and not proved.differences
        assert proved.counts == result.report.counts


@law
def test_one_flipped_bit_of_the_result_is_named_with_both_values(result, tmp_path):
    for k, at in enumerate(result.places()):
        out = flipped(result.out, tmp_path / f"{k}", at.name, at.place)
        (difference,) = hf_init.verify(out, result.compared, everything=True).differences
        assert difference["name"] == at.name
        where = np.unravel_index(at.place, at.expected.origins.shape)
        assert [*map(int, where)] == difference.get("index", [*where])
        seen, expected = difference["seen"], difference["expected"]
        if at.expected.source is None or at.origin < 0:  # known by its digest
            assert (len(seen), len(expected)) == (64, 64) and seen != expected
        else:
            was = at.expected.source.number(at.origin)
            assert (seen, expected) == (tensors(out)[at.name].number(at.place), was) and seen != expected


@law
def test_one_flipped_bit_of_the_base_is_named_too(result, tmp_path):
    at = next(at for at in result.places() if at.origin >= 0)
    base = flipped(at.expected.folder, tmp_path / "base", at.expected.key, at.origin)
    other = result.compared
    if isinstance(other, dict):
        other = {prefix: base if Path(each) == at.expected.folder else each for prefix, each in other.items()}
    differences = hf_init.verify(result.out, base if other == result.base else other, everything=True).differences
    assert at.name in {difference["name"] for difference in differences}
    for difference in differences:  # more than one where a tensor is kept at two places
        assert difference["seen"] == at.expected.source.number(at.origin) != difference["expected"]
        assert difference["expected"] == tensors(base)[at.expected.key].number(at.origin)


# The caller, the base, and what else is new.


@law
def test_the_caller_and_the_base_stay_as_they_are(result):
    for verb, (before, after) in result.worlds.items():
        assert before.keys() == after.keys()
        assert [what for what in before if before[what] != after[what]] == [], verb


@law
def test_the_order_and_the_shards_change_no_value(result, tmp_path):
    """The base's tensors backwards in three files, the result in small ones; and it is proved without its base."""
    parts = {prefix: spread(folder, tmp_path / f"base{k}") for k, (prefix, folder) in enumerate(result.parts.items())}
    base = parts if isinstance(result.base, dict) else parts[""]
    out = result.extend(tmp_path / "out", base, max_shard_size="30KB", digest=True)
    assert tensors(out) == result.written
    assert hf_init.verify(out, False).ok


@over(lambda change: not change.heads and not change.by_class_name)
def test_a_tensor_more_changes_no_other(result):
    class More(result.cls):
        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            self.unrelated = nn.Linear(3, 2)
            self.post_init()

    allowed = {"allow_new": ["unrelated.*", "classifier.*", "scores.*"]} if "allow_new" in result.options else {}
    more, model = result.load(More, **allowed).state_dict(), result.model.state_dict()
    assert more.keys() - model.keys() == {"unrelated.weight", "unrelated.bias"}
    assert [name for name in model if not result.skips(name) and stored(more[name]) != stored(model[name])] == []


@over(lambda change: change.heads and "export_head" not in change.options)
def test_a_head_more_changes_no_other(result):
    heads = {**result.options.get("add_heads", {}), "unrelated": {"kind": "regression"}}
    more, model = result.load(add_heads=heads).state_dict(), result.model.state_dict()
    (new,) = {name.rpartition(".")[0] for name in more.keys() - model.keys()}
    assert new in ("heads.unrelated.classifier", "heads.unrelated.score")
    assert [name for name in model if stored(more[name]) != stored(model[name])] == []


@law
def test_another_seed_changes_every_drawn_value_and_no_other(result, tmp_path):
    before, after = result.written, tensors(result.extend(tmp_path / "out", seed=99))
    same = {name: before[name].bits == after[name].bits for name in before}
    for name, region, scheme in result.regions():
        if not result.skips(name) and is_drawn(scheme, before[name].bits[region]):
            assert same[name][region].mean() < 0.1, name
            same[name][region] = True
    assert [name for name, each in same.items() if not each.all()] == []


DERIVED = {
    "zeros", "ones", "constant", "subtokens", "log_prior", "fitted", "distilled", "near_identity", "resample"
}  # fmt: skip


def is_drawn(scheme: dict[str, Any], bits: np.ndarray) -> bool:
    """Whether a region has random values; what the model itself gives, it has where they aren't all one."""
    if scheme["name"] == "model":
        return np.unique(bits).size > 1
    return scheme["name"] not in DERIVED and scheme.get("noise") != 0


# Other processes.


@pytest.mark.slow
def test_another_process_makes_the_same(results, bases, tmp_path):
    """Every row in the opposite order, after other hashes and on several threads."""
    rows = [name for name, change in CHANGES.items() if not change.slow]
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    arguments = json.dumps(rows[::-1]), json.dumps({name: str(bases(name)) for name in BASES})
    command = [sys.executable, "-W", "error", "-c", MAKE, tmp_path, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {name: digests(results(name).written) for name in rows}


@pytest.mark.slow
def test_a_process_without_hf_init_loads_the_same(results, warm):
    rows = [name for name, change in CHANGES.items() if not change.skipped]
    known = {name: results(name) for name in rows if results(name).cls.__module__ != "bases"}
    folders = {name: [str(result.out), result.cls.__name__] for name, result in known.items()}
    done = warm.run(LOAD, json.dumps(folders))
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, result in known.items():
        assert theirs[name] == digests({key: stored(value) for key, value in result.model.state_dict().items()}), name


MAKE = """
import json, sys
from pathlib import Path
import hf_init
from changes import CHANGES
from results import asked, digests, tensors

scratch, made = Path(sys.argv[1]), {}
bases = {name: Path(folder) for name, folder in json.loads(sys.argv[3]).items()}.__getitem__
for name in json.loads(sys.argv[2]):
    (scratch / name).mkdir()
    base, _, _, options = asked(CHANGES[name], bases, scratch / name)
    hf_init.extend(base, scratch / name / "out", CHANGES[name].target, **options)
    made[name] = digests(tensors(scratch / name / "out"))
print(json.dumps(made))
"""
LOAD = """
import hashlib, json, sys, warnings

warnings.simplefilter("error")
sys.modules["hf_init"] = None
import torch, transformers


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


found = {}
for name, (folder, cls) in json.loads(sys.argv[1]).items():
    auto = cls == "MultiHead"
    cls = transformers.AutoModel if auto else getattr(transformers, cls)
    model, info = cls.from_pretrained(folder, output_loading_info=True, **({"trust_remote_code": True} if auto else {}))
    assert not any(info.values()), (name, info)
    found[name] = {key: digest(value) for key, value in model.state_dict().items()}
print(json.dumps(found))
"""
