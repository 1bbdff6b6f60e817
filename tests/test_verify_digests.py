"""Proofs without the base: digests, new values that are made again, and files that are linked to their base."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from made_results import (
    MANIFEST,
    SINGLE,
    F,
    base_tensors,
    differences,
    edit,
    entry_of,
    flipped,
    floats,
    in_plan,
    manifest_of,
    places,
    rewrite,
    set_entry,
    sha256,
    the_difference,
    write,
)
from made_results import digested as digested
from made_results import made as made
from refusals import refusal

import hf_init
from hf_init import HfInitError

# Made again.


@pytest.fixture
def drawn(tmp_path) -> Path:
    from small_model import extend_small, small_base

    extend_small(small_base(tmp_path / "base"), tmp_path / "out")
    return tmp_path / "out"


def test_new_values_are_made_again_and_told_from_their_digests(drawn, tmp_path, capsys):
    file = drawn / "model-00002-of-00003.safetensors"
    assert hf_init.verify(drawn, recompute=True).ok
    manifest, good = (drawn / MANIFEST).read_text(), file.read_bytes()
    edit(drawn, in_plan(seed=1))
    (first,) = hf_init.verify(drawn, recompute=True).differences
    assert (first["name"], first["reason"], first["index"]) == ("b", "recomputed value differs", [5, 0])
    assert differences(drawn, recompute=True) == {key: [first["reason"]] for key in ("b", "head.weight", "head.bias")}
    (drawn / MANIFEST).write_text(manifest)
    at = places(drawn, file.name)["b"].stop - 4
    file.write_bytes(flipped(good, 8 * at))
    digest = hf_init.verify(drawn).differences[0]["seen"]
    edit(drawn, lambda document: document["digests"].update(b=[digest]))
    assert hf_init.verify(drawn).ok, "a tampered value with a tampered digest"
    difference = the_difference(drawn, recompute=True)
    assert (difference["reason"], difference["index"]) == ("recomputed value differs", [6, 3])
    assert difference["seen"] != difference["expected"]
    file.write_bytes(good)
    assert differences(drawn, recompute=True) == {"b": ["digest of new bytes"]}, "a tampered digest alone"
    for change, words in (
        (set_entry("b", geometry={}), "geometry is {}, expected fan_in"),
        (lambda document: entry_of(document, "b")["new"][0]["scheme"].update(name="nosuch"), "unknown scheme 'nosuch'"),
        (lambda document: entry_of(document, "b")["new"][0]["scheme"].update(std=-1), "std is -1"),
    ):
        (drawn / MANIFEST).write_text(manifest)
        edit(drawn, change)
        assert words in refusal(tmp_path, capsys, "verify", drawn, "--recompute")


def test_a_plan_that_names_a_tensor_the_model_lacks_is_not_made_again(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    hf_init.extend(tiny("bert"), out, "BertForSequenceClassification", num_labels=3)
    edit(out, set_entry("classifier.weight", parameter="classifier.wait"))
    assert "no tensor 'classifier.wait'" in refusal(tmp_path, capsys, "verify", out, "--recompute")


# Without the base.


def test_a_result_with_digests_is_proved_without_its_base(digested, tmp_path):
    base, out = digested
    whole = hf_init.verify(out)
    assert whole.ok and whole.notes == (), "with the base as ever"
    base.rename(tmp_path / "moved")
    for report in (hf_init.verify(out), hf_init.verify(out, False)):
        assert report.ok and report.base is None and report.bytes_compared == 0 and report.counts == whole.counts
        assert report.bytes_digested >= sum(map(len, places(out).values())) and "without the base" in report.notes[0]
        assert "no base, " in str(report) and json.loads(json.dumps(report.to_json()))["base"] is None


def test_a_result_without_digests_is_not(made, tmp_path, capsys):
    assert "again with --digest" in refusal(tmp_path, capsys, "verify", made[1], "--no-base")
    with pytest.raises(HfInitError, match=r"no digests of what was kept.*digest=True"):
        hf_init.verify(made[1], base=False)


def test_the_digests_of_extend_are_those_of_the_bytes(tmp_path):
    from safetensors.numpy import load_file
    from small_model import FILES, extend_small, small_base

    extend_small(small_base(tmp_path / "base"), tmp_path / "out", digest=True)
    document = json.loads((tmp_path / "out" / MANIFEST).read_text())
    tensors = {name: each for file in FILES for name, each in load_file(tmp_path / "out" / file).items()}
    assert document["tensor_digests"] == {name: sha256(each) for name, each in tensors.items()}
    kept = {"a": tensors["a"], "b": tensors["b"][:5], "c": tensors["c"], "e": tensors["e"]}
    assert document["kept_digests"] == {name: [sha256(each)] for name, each in kept.items()}


def test_a_digest_changed_by_hand_is_found_without_the_base(digested):
    _, out = digested
    edit(out, lambda document: document["kept_digests"].update(half=["0" * 64]))
    assert differences(out, False) == {"half": ["digest of kept bytes"]}
    edit(out, lambda document: document["tensor_digests"].update(head="0" * 64))
    assert differences(out, False) == {"half": ["digest of kept bytes"], "head": ["digest of the whole tensor"]}
    with pytest.raises(HfInitError, match="1 difference from what the manifest asks for"):
        hf_init.verify(out, False).raise_if_failed()


def test_digests_tell_which_side_changed(digested):
    base, out = digested
    write(base, {**base_tensors(), "embed": floats(4, 3, start=1), "lm_head": floats(4, 3, start=1)})
    for report in (hf_init.verify(out), hf_init.verify(out, everything=True)):
        assert report.differences[0]["name"] == "model.embed" and "it is the base that has changed" in report.notes[-1]
    write(base, base_tensors())
    rewrite(out, lambda tensors: tensors["model.embed"].fill(7))
    report = hf_init.verify(out)
    assert report.differences and not any("base that has changed" in note for note in report.notes)


# Which base it is, and links to it.


def test_the_base_is_known_by_its_name_in_the_hubs_cache(made, tmp_path):
    base, out = made
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir(parents=True)
    (base / SINGLE).rename(blobs / ("a" * 64))
    (base / SINGLE).symlink_to(blobs / ("a" * 64))
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "a" * 64}))
    assert hf_init.verify(out).ok and hf_init.verify(out).notes == ()
    (tmp_path / "shared" / "blobs").mkdir(parents=True)
    (blobs / ("a" * 64)).rename(tmp_path / "shared" / "blobs" / ("c" * 64))
    (blobs / ("a" * 64)).symlink_to(tmp_path / "shared" / "blobs" / ("c" * 64))
    assert hf_init.verify(out).notes == (), "a shared blob behind the cache's own isn't taken for it"
    edit(out, lambda document: document["base"].update(sha256={SINGLE: "b" * 64}))
    (note,) = hf_init.verify(out).notes
    assert note.startswith(f"{base} is not the base that the result was made from: {SINGLE} has another SHA-256")


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_a_linked_file_is_the_base_s_own_and_compared_with_digests(tiny, tmp_path, link):
    base = tmp_path / "base"
    shutil.copytree(tiny("bert"), base, copy_function=shutil.copyfile)
    nbytes = sum(map(len, places(base).values()))
    report = hf_init.extend(base, tmp_path / "out", link=link)
    assert report.ok and report.bytes_compared == 0 < report.bytes_linked == nbytes
    assert "in files that are its own, by links" in str(report)
    (tmp_path / "out" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "out")
    copied = hf_init.verify(tmp_path / "out")
    assert (copied.bytes_compared, copied.bytes_linked) == (nbytes, 0) and ", by links" not in str(copied)
    report = hf_init.extend(base, tmp_path / "more", link=link, digest=True)
    assert report.ok and report.bytes_linked == report.bytes_compared == 0 and report.bytes_digested == nbytes
    done: list[int] = []
    assert hf_init.verify(tmp_path / "more", progress=done.append).bytes_digested == nbytes == sum(done)
    with (base / SINGLE).open("r+b") as file:  # in place: the result's own bytes, too
        os.pwrite(file.fileno(), b"\xff", places(base)["pooler.dense.bias"].start)
    (difference,) = hf_init.verify(tmp_path / "more").differences
    assert (difference["name"], difference["reason"]) == ("pooler.dense.bias", "digest of kept bytes")
    (tmp_path / "more" / SINGLE).unlink()
    shutil.copy(base / SINGLE, tmp_path / "more")
    assert hf_init.verify(tmp_path / "more").bytes_compared == nbytes, "a copy has its base to be compared with"


def test_a_linked_file_with_digests_that_was_carried_to_another_name_is_found(tmp_path):
    """Digests of what is there say nothing of where it came from; and other bytes of one file are compared."""
    base = write(tmp_path / "base", tensors := {"a": floats(4), "c": floats(4, start=9)})
    (tmp_path / "out").mkdir()
    os.link(base / SINGLE, tmp_path / "out" / SINGLE)
    form = {"status": "kept", "shape": [4], **F}
    entries = [{"name": "a", "source": "c", **form}, {"name": "c", "source": "a", **form}]
    for digest in (True, False):
        manifest_of(base, tmp_path / "out", entries, tensors, digest)
        assert differences(tmp_path / "out") == {name: ["kept bytes differ from the base"] for name in "ac"}
