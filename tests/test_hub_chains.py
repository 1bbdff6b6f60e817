"""Results of results, and checkpoints that a scheme reads besides the base: found again without a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_results import HEAD, extend, manifest
from hub_results import cache as cache
from hub_results import files as files
from hub_results import folder as folder
from hub_results import hub as hub
from hub_server import COMMIT, NAME, Hub
from small_model import contents
from token_bases import base as token_base

import hf_init
from hf_init import HfInitError
from hf_init.cli import main

# Results of results.


def rows(base: object, out: Path, count: int) -> Path:
    hf_init.extend(base, out, config={"vocab_size": count}, keep={"*": "leading"}).raise_if_failed()
    return out


@pytest.fixture
def chain(tiny, tmp_path) -> Iterator[tuple[Path, Path, Path, Path]]:
    """A checkpoint, more rows, a head instead of the language model's under other names, another head again."""
    first = tmp_path / "first"
    shutil.copytree(tiny("llama"), first)
    wide = rows(first, tmp_path / "wide", 100)
    hf_init.extend(wide, tmp_path / "head", *HEAD, labels=["a", "b"])
    wider = tmp_path / "wider"
    hf_init.extend(
        tmp_path / "head", wider, *HEAD, labels=["b", "c"], config={"vocab_size": 104}, keep={"*embed*": "leading"}
    )
    yield first, wide, tmp_path / "head", wider


def test_a_result_of_results_is_proved_against_each_that_came_before(chain):
    first, wide, head, wider = chain
    for base in (first, wide, head):
        report = hf_init.verify(wider, base, everything=True)
        assert report.ok and report.base == str(base), report
    assert [each["base"]["name"] for each in manifest(wider)["earlier"]] == ["wide", "first"]
    assert "from which 2 extensions led to head, the base" in str(hf_init.verify(wider, first))
    assert hf_init.verify(wider, first).bytes_compared < hf_init.verify(wider, head).bytes_compared
    shutil.rmtree(head)
    shutil.rmtree(wide)
    assert hf_init.verify(wider).base == str(first), "the nearest that is here"


@pytest.mark.parametrize("row", [3, 97, 99, 103])
def test_a_changed_byte_is_named_whatever_it_is_proved_against(chain, row):
    from safetensors.torch import load_file, save_file

    first, wide, head, wider = chain
    tensors = load_file(wider / "model.safetensors")
    tensors["model.embed_tokens.weight"][row, 5] += 1
    save_file(tensors, wider / "model.safetensors", {"format": "pt"})
    for base in (first, wide, head):
        (difference,) = hf_init.verify(wider, base, everything=True).differences
        assert difference["name"] == "model.embed_tokens.weight"


def test_a_result_of_a_result_of_a_hub_id_is_proved_without_what_lay_between(hub, tmp_path, cache):
    extend(NAME, tmp_path / "between")
    hf_init.extend(tmp_path / "between", tmp_path / "out", *HEAD, labels=["b", "c"]).raise_if_failed()
    hub.push(**{"model.safetensors": b"other"})
    shutil.rmtree(tmp_path / "between")
    for base in (None, NAME, f"{NAME}@{COMMIT}"):
        report = hf_init.verify(tmp_path / "out", base)
        assert report.ok and str(report.base).endswith(COMMIT), report
    cache("empty")
    with pytest.raises(HfInitError, match=rf"between .*is not there\. Say where(.|\n)*--revision {COMMIT}"):
        hf_init.verify(tmp_path / "out")


def test_new_values_are_recomputed_from_the_base_alone(chain):
    first, _, head, wider = chain
    assert hf_init.verify(wider, head, recompute=True).ok
    with pytest.raises(HfInitError, match=r"recompute: new values are made from head"):
        hf_init.verify(wider, first, recompute=True)


def test_what_was_trained_in_between_begins_anew(chain, tmp_path):
    from safetensors.torch import load_file, save_file

    _, wide, _, _ = chain
    tensors = load_file(wide / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, wide / "model.safetensors", {"format": "pt"})
    hf_init.extend(wide, tmp_path / "out", *HEAD, labels=["a", "b"])
    assert "earlier" not in manifest(tmp_path / "out") and hf_init.verify(tmp_path / "out").ok


def test_no_path_of_the_machine_is_in_the_manifest_and_the_machine_remembers(tiny, tmp_path, monkeypatch):
    """A base to which there is no path but from the root is found by what this machine noted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("hf_init._checkpoint.locate.os.path.commonpath", lambda paths: "/")
    out = extend(tiny("llama"), tmp_path / "out")["hf_init.json"].decode()
    assert str(tmp_path) not in out and str(tiny("llama")) not in out and "path" not in json.loads(out)["base"]
    assert hf_init.verify(tmp_path / "out").ok
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(HfInitError, match=r"is not there\. Say where it is now: base=FOLDER"):
        hf_init.verify(tmp_path / "out")
    assert hf_init.verify(tmp_path / "out", tiny("llama")).ok


# Checkpoints that a scheme reads besides the base.


@pytest.mark.parametrize("by_id", [False, True])
def test_a_donor_is_found_again_and_no_path_of_the_machine_says_where(serve, tmp_path, cache, by_id):
    base, donor = token_base("llama", tmp_path / "base"), tmp_path / "donor"
    hf_init.extend(base, donor, add_tokens=["hello"]).raise_if_failed()
    place = str(donor)
    if by_id:
        serve(contents(donor))
        place = NAME
    hf_init.extend(base, tmp_path / "out", add_tokens=["hello"], row_scheme=f"omp(donor={place!r}, k=4)")
    text = (tmp_path / "out/hf_init.json").read_text()
    assert str(tmp_path) not in text and (f'"{NAME}@{COMMIT}"' if by_id else '"../donor"') in text
    if by_id:
        cache("cache")
    assert hf_init.verify(tmp_path / "out", recompute=True).ok


@pytest.mark.parametrize(
    "options", [{"add_tokens": ["hello"]}, {"add_heads": {"tags": "similarity"}}, {"num_labels": 3}]
)
def test_no_file_of_a_result_says_where_its_base_was(serve, tmp_path, options):
    """What changes rewrite, too: tokenizer, config, code."""
    base = token_base("llama", tmp_path / "base")
    serve(contents(base))
    target = "LlamaForSequenceClassification" if "num_labels" in options else None
    outs = []
    for name, place in (("a", NAME), ("b", base)):
        hf_init.extend(place, tmp_path / name, target, **options).raise_if_failed()
        outs.append(contents(tmp_path / name))
        assert not [file for file, data in outs[-1].items() if str(tmp_path).encode() in data]
    assert all(each.pop("hf_init.json") for each in outs) and outs[0] == outs[1]


def test_a_verified_result_goes_to_the_hub_in_one_commit_and_is_compared_there(
    hub, folder, tmp_path, monkeypatch, capsys
):
    def pushed(out: str, repository: str = NAME) -> int:
        options = ["--architecture", *HEAD, "--labels", "a,b", "--push-to-hub", repository, "--token", "hf_x"]
        return main(["extend", str(folder), str(tmp_path / out), *options])

    hub.push(**{"model-00001-of-00002.safetensors": b"of another version"})
    assert pushed("a") == 0
    assert f"uploaded to {NAME} at commit {hub.commit}" in capsys.readouterr().out and len(hub.commits) == 3
    result = contents(tmp_path / "a")
    assert hub.files.items() >= result.items() and "banner.png" in hub.files
    assert "model-00001-of-00002.safetensors" not in hub.files
    monkeypatch.setattr(Hub, "at", lambda hub, revision: {**hub.files, "config.json": b"{}"})
    assert pushed("b") == 2 and "config.json: what org/tiny has" in capsys.readouterr().err
    assert (tmp_path / "b" / "hf_init.json").exists()
    assert pushed("c", "a/b/c") == 2 and not (tmp_path / "c").exists()
