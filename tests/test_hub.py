"""A hub id is what its folder is: what is downloaded, what lands, and proofs on another machine's cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bases import llava_config
from hub_results import BESIDE, HEAD, LEFT, extend, manifest
from hub_results import cache as cache
from hub_results import files as files
from hub_results import folder as folder
from hub_results import hub as hub
from hub_server import COMMIT, NAME
from small_model import contents

import hf_init
from hf_init import HfInitError, finetune
from hf_init.cli import main

NAMED = {"BASE_README.md" if name == "README.md" else name: data for name, data in BESIDE.items()}


def test_what_is_planned_and_extended_by_id_is_what_its_folder_gives(hub, folder, tmp_path):
    by_id, by_folder = (hf_init.plan(base, *HEAD, labels=["a", "b"]) for base in (NAME, folder))
    assert by_id.to_json() == by_folder.to_json() and set(by_id.files.left) == LEFT.keys()
    assert not hub.served.keys() & {*LEFT, "2_Dense/pytorch_model.bin", "README.md", "LICENSE", "pieces"}
    ours, theirs = extend(NAME, tmp_path / "a"), extend(folder, tmp_path / "b")
    records = [json.loads(each.pop("hf_init.json")) for each in (ours, theirs)]
    for out, there in (("a", f"base_model:\n- {NAME}"), ("b", "--base BASE")):
        card = (tmp_path / out / "README.md").read_text()
        assert there in card and "pipeline_tag: token-classification" in card and "[BASE_README.md]" in card
        assert "| score.weight | 2x32 |" in card and "proved" in card and str(tmp_path) not in card
    assert ours == theirs and {name: ours[name] for name in NAMED} == NAMED and not ours.keys() & LEFT.keys()
    assert not hub.served.keys() & LEFT.keys() and hub.served.keys() >= {*by_id.files.carried}
    own, other = (record.pop("base") for record in records)
    assert records[0] == records[1] and own["fingerprint"] == other["fingerprint"]
    assert own["name"] == NAME and own["commit"] == COMMIT and "path" not in own
    assert other["name"] == "folder" and other["path"] == "../folder" and "commit" not in other
    assert str(tmp_path) not in json.dumps([own, other])


def test_nothing_is_downloaded_that_is_not_used(hub, tmp_path):
    hf_init.diff(NAME, NAME)
    assert {*hub.served} == {"config.json", "model.safetensors"}
    hub.served.clear()
    extend(NAME, tmp_path / "out")
    assert {*hub.served} == {*hub.files} - {*LEFT} - {"config.json", "model.safetensors"}


def test_a_result_is_proved_by_the_cache_of_another_machine(hub, tmp_path, cache, capsys):
    extend(NAME, tmp_path / "out")
    hub.push(**{"model.safetensors": b"other"})
    extend(f"{NAME}@{COMMIT}", tmp_path / "again", cache_dir=str(tmp_path / "second"))
    cache("empty")
    assert main(["verify", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"hf download {NAME} --revision {COMMIT}" in said and "--base FOLDER" in said and "Traceback" not in said
    for given in (["--cache-dir", str(tmp_path / "second")], ["--base", str(cache("second"))]):
        if given[0] == "--base":
            given = ["--base", NAME]
        assert main(["verify", str(tmp_path / "out"), *given]) == 0, capsys.readouterr().err
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert hf_init.verify(tmp_path / "out").base == str(tmp_path / f"second/models--org--tiny/snapshots/{COMMIT}")


def test_the_commit_is_that_of_the_plan_though_the_repository_moves(hub, folder, tmp_path, monkeypatch):
    """A push while the plan is made, after its first file, changes nothing of what is written."""
    before = dict(hub.files)
    real = hub.at

    def moving(revision: str) -> dict[str, bytes]:
        found = real(revision)
        if revision == "main" and len(hub.commits) == 1:
            hub.push(**{"config.json": b"{}", "model.safetensors": b"other", "LICENSE": b"other", "new.txt": b"new"})
        return found

    monkeypatch.setattr(hub, "at", moving)
    out = extend(NAME, tmp_path / "out")
    assert len(hub.commits) == 2 and manifest(tmp_path / "out")["base"]["commit"] == COMMIT
    assert {name: out[name] for name in NAMED} == NAMED and before.items() >= BESIDE.items() and "new.txt" not in out
    assert hf_init.verify(tmp_path / "out", NAME).ok, "the id is that commit"
    with pytest.raises(HfInitError, match=r"model\.safetensors"):
        hf_init.verify(tmp_path / "out", f"{NAME}@{hub.commit}")


@pytest.mark.parametrize("lost", ["LICENSE", "2_Dense/pytorch_model.bin", "model.safetensors", "tokenizer.json"])
def test_without_a_network_what_is_missing_is_named_with_the_command(hub, tmp_path, cache, lost):
    hub.push(**{"tokenizer.json": b"{}"})
    extend(NAME, tmp_path / "out")
    (Path(hf_init.verify(tmp_path / "out").base) / lost).unlink()
    cache("cache")
    with pytest.raises(HfInitError) as caught:
        extend(NAME, tmp_path / "other")
    assert f"`hf download {NAME} {lost} --revision {hub.commit}`" in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_a_listing_that_was_never_fetched_is_that_of_the_cache(folder, tmp_path, cache):
    """As after a copy of the cache, or where transformers alone has filled it."""
    snapshot = cache("cache") / f"models--org--tiny/snapshots/{COMMIT}"
    shutil.copytree(folder, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text(COMMIT)
    ours, theirs = extend(NAME, tmp_path / "a"), extend(folder, tmp_path / "b")
    assert ours.pop("hf_init.json") != theirs.pop("hf_init.json") and ours == theirs
    assert manifest(tmp_path / "a")["base"]["commit"] == COMMIT
    assert hf_init.verify(tmp_path / "a").ok
    (note,) = manifest(tmp_path / "a")["plan"]["notes"]
    assert "listing isn't in the cache" in note
    extend(snapshot, tmp_path / "c")
    assert manifest(tmp_path / "c")["base"] == manifest(tmp_path / "a")["base"], "a snapshot says what it is"


def test_every_command_takes_a_hub_id(hub, folder, tmp_path, capsys):
    hub.push(pieces=b"c d")
    out, page = tmp_path / "out", tmp_path / "page.html"
    old, here = ["--revision", COMMIT], str(out)
    assert main(["extend", NAME, here, "--architecture", *HEAD, "--labels", "a,b", *old]) == 0
    runs: dict[tuple[str, ...], int] = {
        ("plan", NAME, *old): 0,
        ("verify", here, "--base", NAME): 0,
        ("verify", here, "--base", f"{NAME}@main"): 0,
        ("verify", here, "--base", NAME, "--recompute", *old): 0,
        ("diff", f"{NAME}@{COMMIT}", NAME): 0,
        ("diff", NAME, here): 1,
        ("drift", NAME, f"{NAME}@{COMMIT}"): 0,
        ("drift", NAME, here, "--frozen", "kept"): 0,
        ("check", NAME): 2,
        ("heads", NAME, *old): 0,
        ("report", NAME, "--out", str(page), *old): 0,
        ("heads", f"{NAME}@{COMMIT}", *old): 2,
        ("heads", f"{NAME}@none"): 2,
    }
    for run, code in runs.items():
        assert main([*run]) == code, (run, capsys.readouterr())
    said = capsys.readouterr().err
    assert "no tokenizer" in said and "two revisions" in said and "tiny" in page.read_text()


def test_a_tower_by_its_id_is_what_its_folder_is(serve, bases, tmp_path, cache):
    """Planned from its header; its commit is in the manifest, for each part its own."""
    hub = serve({**contents(bases("clip")), "source.spm": b"spm", "optimizer.pt": b"x"})
    towers = {"vision_tower.": NAME, "language_model.": bases("llama untied")}
    target: dict[str, Any] = {"architecture": "LlavaForConditionalGeneration", "config": llava_config()}
    plan = hf_init.plan(towers, **target)
    assert hub.served["model.safetensors"] <= 100_001 and plan.files.left == ("optimizer.pt",)
    hf_init.extend(towers, tmp_path / "out", **target).raise_if_failed()
    assert (tmp_path / "out/source.spm").read_bytes() == b"spm" and "optimizer.pt" not in hub.served
    part = manifest(tmp_path / "out")["base"]["parts"]["vision_tower."]
    assert part == {"name": NAME, "commit": COMMIT}
    assert hf_init.verify(tmp_path / "out").ok and hf_init.verify(tmp_path / "out", towers).ok
    cache("empty")
    with pytest.raises(HfInitError, match=f"hf download {NAME} --revision {COMMIT}"):
        hf_init.verify(tmp_path / "out")


def test_a_listing_must_not_lead_out_of_the_repository(serve, files, tmp_path):
    hub = serve({**files, "../../evil.txt": b"x", "a/../../evil.py": b"x", "C:evil.json": b"x"})
    out = extend(NAME, tmp_path / "out")
    assert not any("evil" in name for name in [*out, *hub.served]) and not [*tmp_path.rglob("*evil*")]


def test_a_model_from_an_id_leaves_its_manifest_when_it_is_saved(hub, tmp_path):
    model = hf_init.from_pretrained("LlamaForTokenClassification", NAME, labels=["a", "b"])
    model.save_pretrained(tmp_path / "out")
    finetune.freeze(model).save_manifest(tmp_path / "out")
    assert manifest(tmp_path / "out")["base"]["commit"] == COMMIT and hf_init.verify(tmp_path / "out").ok
    assert finetune.plan_against(model, NAME).counts["kept"] == 20


def test_a_repository_s_subfolder(serve, tiny, tmp_path):
    hub = serve({f"deep/{name}": data for name, data in {**contents(tiny("llama")), **BESIDE}.items()} | LEFT)
    out = extend(NAME, tmp_path / "out", subfolder="deep")
    assert NAMED.keys() <= out.keys() and not hub.served.keys() & LEFT.keys()
    assert manifest(tmp_path / "out")["base"] == {
        **manifest(tmp_path / "out")["base"], "name": NAME, "commit": COMMIT, "subfolder": "deep",
    }  # fmt: skip
    assert hf_init.verify(tmp_path / "out").ok and hf_init.verify(tmp_path / "out", NAME).ok


def test_a_donor_is_planned_from_its_headers_and_named_without_its_place(hub, tiny, tmp_path):
    """By its id with a commit of its own; the revision that is given is the base's."""
    hub.push(pieces=b"c d")
    plans = [
        hf_init.plan(tiny("llama"), take_heads={"words": (place, "")}, name_head="old", revision=COMMIT)
        for place in (f"{NAME}@main", str(tiny("llama")))
    ]
    assert hub.served["model.safetensors"] <= 100_001, "its header"
    places = [note.split(" is that of ")[1].split(",")[0] for plan in plans for note in plan.notes if "words" in note]
    assert places == [f"{NAME}@main", tiny("llama").name]
