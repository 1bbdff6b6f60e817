"""What a training run did: on files made by hand, on a real fine-tune, and in the folder of a PEFT adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hf_init
from hf_init import HfInitError, Plan, drift

HEAD = {
    "rules": [
        {"name": "classifier.weight", "scheme": {"normal": {"std": 0.02}}},
        {"name": "classifier.bias", "scheme": "zeros"},
    ],
    "default": "error",
}
QUERY = "bert.encoder.layer.3.attention.self.query.weight"


def save(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def by_name(report, name: str, portion: str = "all"):
    return next(t for t in report.tensors if t.name == name and t.portion == portion)


def ramp(*shape: int) -> np.ndarray:
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


of_a_run = pytest.mark.slow  # of MiniLM


@pytest.fixture(scope="module")
def run(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """MiniLM with a new head, and six AdamW steps of the head and the top layer."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("run")
    hf_init.extend(minilm, folder / "start", "BertForSequenceClassification", labels=["a", "b"], recipe=HEAD)
    model = BertForSequenceClassification.from_pretrained(folder / "start")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("classifier", "bert.encoder.layer.5"))
    texts = [text.__doc__.split("\n")[0] for text in (json.dumps, json.loads, Path.glob, Path.rglob)]
    batch = AutoTokenizer.from_pretrained(folder / "start")(texts, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(6):
        model(**batch, labels=torch.tensor([0, 0, 1, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "trained")
    model.save_pretrained(folder / "sharded", max_shard_size="20MB")
    return SimpleNamespace(base=minilm, start=folder / "start", trained=folder / "trained", sharded=folder / "sharded")


@of_a_run
def test_a_checkpoint_has_not_drifted_from_itself(run):
    report = drift(run.start, run.start, frozen="kept")
    assert report.ok
    assert report.counts["identical"] == 104
    assert [t.status for t in report.tensors if t.origin == "new"] == ["untrained", "untrained"]
    assert not any(t.change.elements for t in report.tensors)


@of_a_run
@pytest.mark.parametrize("base", ["base", "start"])
@pytest.mark.parametrize("trained", ["trained", "sharded"])
def test_a_real_run_moved_its_top_layer_and_its_head(run, base, trained):
    """From the source and from the extended folder, saved in one file and in shards: the same verdict."""
    frozen = ["kept", "!bert.encoder.layer.5.*"]
    report = drift(getattr(run, base), getattr(run, trained), plan=run.start, frozen=frozen)
    assert report.ok
    moved = {t.name for t in report.tensors if t.status == "trained"}
    assert moved == {t.name for t in report.tensors if ".layer.5." in t.name}
    assert len(moved) == 16
    assert by_name(report, "classifier.weight").status == "new"
    assert by_name(report, "embeddings.position_ids").status == "missing"
    layer = next(group for group in report.layers() if group.index == 5)
    assert 0 < layer.relative < 0.2
    assert all(group.relative == 0 for group in report.layers() if group.index != 5)


@of_a_run
def test_the_extended_base_tells_how_far_the_head_moved_and_the_source_only_that_it_did(run):
    near, far = drift(run.start, run.trained), drift(run.base, run.trained, plan=run.start)
    assert by_name(near, "classifier.weight").change.relative > 0.01
    assert by_name(far, "classifier.weight").change is None
    assert by_name(far, "classifier.weight").status == "new"


@of_a_run
def test_everything_kept_was_not_frozen_in_that_run(run):
    report = drift(None, run.trained, plan=run.start, frozen="kept")
    assert not report.ok
    assert len(report.failures) == 16
    with pytest.raises(HfInitError, match=r"16 FAILED.*\n  bert\.encoder\.layer\.5\..*moved at row 0.*largest"):
        report.raise_if_failed()


@of_a_run
def test_one_flipped_bit_in_a_frozen_tensor_is_found_and_named(run, tmp_path):
    tensors = load_file(run.trained / "model.safetensors")
    tensors[QUERY] = tensors[QUERY].copy()
    tensors[QUERY].view(np.uint32)[7, 11] ^= 1
    folder = save(tmp_path / "flipped", tensors)
    report = drift(None, folder, plan=run.start, frozen=["kept", "!bert.encoder.layer.5.*"])
    (failure,) = report.failures
    assert (failure.name, failure.status, failure.change.elements, failure.change.rows) == (QUERY, "moved", 1, 1)
    assert failure.change.first["index"] == [7, 11]
    assert 0 < failure.change.largest < 1e-6
    with pytest.raises(HfInitError, match=rf"{QUERY}: moved at row 7, index \[7, 11\] \(1 row changed\)"):
        report.raise_if_failed()


@of_a_run
def test_a_report_prints_and_round_trips_through_json(run):
    seen: list[int] = []
    report = drift(run.start, run.trained, progress=seen.append)
    assert sum(seen) == report.bytes_compared
    text = str(report)
    assert "16 trained" in text
    assert "bert.encoder.layer.5" in text
    assert "<table>" in report._repr_html_()
    data = json.loads(json.dumps(report.to_json()))
    assert data["schema"] == "hf_init.drift/1" and data["ok"] is bool(report) is True
    assert repr(report) == f"<DriftReport: {text.splitlines()[0]}>"
    assert data["counts"] == report.counts
    assert {t["name"] for t in data["tensors"]} == {t.name for t in report.tensors}


@of_a_run
def test_the_picture_is_a_png(run, tmp_path):
    report = drift(run.start, run.trained, frozen="kept")
    picture = report.draw(tmp_path / "drift.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(HfInitError, match=r"\.png"):
        report.draw(tmp_path / "drift.pdf")


def test_a_trainers_folder_is_its_last_checkpoint(tmp_path):
    base = save(tmp_path / "base", {"w": ramp(3)})
    for step, value in ((5, 1), (40, 3), (200, 2)):
        save(tmp_path / "out" / f"checkpoint-{step}", {"w": ramp(3) * value})
    report = drift(base, tmp_path / "out")
    assert report.trained.endswith("checkpoint-200")
    assert report.tensors[0].change.relative == 1.0
    assert "last checkpoint" in report.notes[0]


def test_without_a_plan_names_decide_and_the_report_says_what_that_cannot_tell(tmp_path):
    base = save(tmp_path / "base", {"a": ramp(4, 2), "b": ramp(3), "gone": ramp(2)})
    trained = save(tmp_path / "trained", {"a": ramp(6, 2), "b": ramp(3) + 1, "added": ramp(2) - 5})
    report = drift(base, trained, frozen="kept")
    assert [t.name for t in report.failures] == ["b"]
    assert by_name(report, "a", "kept").status == "identical"
    assert by_name(report, "a", "new").status == "new"
    assert by_name(report, "gone").status == "missing"
    assert by_name(report, "added").status == "new"
    assert any("no plan" in note for note in report.notes)


@of_a_run
def test_without_a_plan_names_that_differ_by_a_prefix_belong_together(minilm, run):
    """The base has no head, so its names have no ``bert.``: what the plan says of the run is found without it."""
    report = drift(minilm, run.trained)
    moved = {t.name for t in report.tensors if t.status == "trained"}
    assert moved == {t.name for t in report.tensors if ".layer.5." in t.name} and len(moved) == 16
    assert by_name(report, "classifier.weight").status == "new"


def test_without_a_plan_and_a_common_name_there_is_nothing_to_compare(tmp_path):
    base, trained = save(tmp_path / "base", {"a": ramp(4, 2)}), save(tmp_path / "trained", {"b": ramp(3)})
    with pytest.raises(HfInitError, match="no tensor's name in common"):
        drift(base, trained)


def test_a_row_that_moved_is_told_from_those_that_stayed(tmp_path):
    """Kept rows in another order and a new one, by the plan."""
    base = save(tmp_path / "base", {"emb": ramp(3, 2)})
    plan = resized_plan(base)
    start = np.concatenate([ramp(3, 2)[[2, 0]], np.zeros((1, 2), np.float32)])
    moved = start + np.array([[0, 0], [0, 1], [5, 5]], np.float32)
    report = drift(base, save(tmp_path / "trained", {"emb": moved}), plan=plan, frozen="kept")
    kept, new = by_name(report, "emb", "kept"), by_name(report, "emb", "new")
    assert (kept.status, kept.change.elements, kept.change.first["index"]) == ("moved", 1, [1, 1])
    assert new.status == "new"
    assert drift(base, save(tmp_path / "same", {"emb": start}), plan=plan, frozen="kept").ok


def resized_plan(base: Path) -> Plan:
    rows = {"dim": 0, "index": [0, 1]}, {"dim": 0, "index": [2, 0]}
    entry = {
        "name": "emb",
        "status": "resized",
        "shape": [3, 2],
        "dtype": "float32",
        "kept": [{"region": rows[0], "source": "emb", "source_region": rows[1]}],
        "new": [{"region": {"start": [2, 0], "stop": [3, 2]}, "scheme": {"name": "zeros"}}],
    }
    return Plan.from_json({"architecture": "Tiny", "seed": 0, "tensors": [entry], "unused": []})


def test_a_frozen_new_part_of_which_nothing_is_known_is_no_proof(tmp_path):
    base = save(tmp_path / "base", {"emb": ramp(3, 2)})
    trained = save(tmp_path / "trained", {"emb": ramp(3, 2)[[2, 0, 1]]})
    report = drift(base, trained, plan=resized_plan(base), frozen="emb")
    assert [(t.portion, t.status) for t in report.failures] == [("new", "unproved")]


@of_a_run
def test_new_values_that_never_moved_are_a_warning(run):
    assert any("still as it was made: classifier" in warning for warning in drift(run.base, run.start).warnings)
    assert not any("still as it was made" in warning for warning in drift(run.start, run.trained).warnings)


def test_values_that_are_no_numbers_are_a_warning(tmp_path):
    base, broken = save(tmp_path / "base", {"w": ramp(3)}), ramp(3)
    broken[1] = np.nan
    report = drift(base, save(tmp_path / "broken", {"w": broken}))
    assert by_name(report, "w").change.not_finite == 1
    assert any("diverged" in warning for warning in report.warnings)
    assert not drift(base, save(tmp_path / "fine", {"w": ramp(3) * 2})).warnings


def test_a_frozen_tensor_saved_in_another_dtype_must_equal_the_exact_cast(tmp_path):
    values = np.array([1 / 3, -2.5, 1e-3], np.float32)
    base = save(tmp_path / "base", {"w": values})
    narrow = save(tmp_path / "narrow", {"w": values.astype(np.float16)})
    report = drift(base, narrow, frozen="kept")
    assert report.ok
    assert any("exact cast" in note for note in report.notes)
    off = values.astype(np.float16)
    off.view(np.uint16)[2] += 1
    assert not drift(base, save(tmp_path / "off", {"w": off}), frozen="kept").ok
    assert drift(narrow, save(tmp_path / "wide", {"w": values.astype(np.float16).astype(np.float32)}), frozen="kept").ok


def test_a_rounding_on_the_way_is_recognised(tmp_path):
    base = save(tmp_path / "base", {"w": ramp(5) / 3})
    rounded = save(tmp_path / "rounded", {"w": (ramp(5) / 3).astype(np.float16).astype(np.float32)})
    (failure,) = drift(base, rounded, frozen="kept").failures
    assert "rounded to float16" in failure.reason
    (other,) = drift(base, save(tmp_path / "other", {"w": ramp(5) / 2}), frozen="kept").failures
    assert other.reason == ""


def test_another_kind_of_dtype_cannot_be_compared_and_fails_where_it_is_frozen(tmp_path):
    base = save(tmp_path / "base", {"w": np.arange(3), "v": ramp(2)})
    trained = save(tmp_path / "trained", {"w": ramp(3), "v": ramp(2)})
    (failure,) = drift(base, trained, frozen="kept").failures
    assert "no exact cast" in failure.reason
    assert drift(base, trained).ok


@pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("float32", "float16"),
        ("float64", "float16"),
        ("float64", "bfloat16"),
    ],
)
def test_casts_are_those_of_torch(dtypes, tmp_path):
    import torch
    from safetensors.torch import save_file

    bits = torch.arange(-(1 << 31), 1 << 31, 65_521, dtype=torch.int64).to(torch.int32).view(torch.float32)
    ties = torch.tensor([1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)  # in float32
    source = torch.cat([bits[torch.isfinite(bits)].double(), ties]).to(getattr(torch, dtypes[0]))
    save_file({"w": source}, tmp_path / "base.safetensors")
    save_file({"w": source.to(getattr(torch, dtypes[1]))}, tmp_path / "trained.safetensors")
    for name in ("base", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.safetensors").rename(tmp_path / name / "model.safetensors")
    assert drift(tmp_path / "base", tmp_path / "trained", frozen="kept").ok


@of_a_run
@pytest.mark.slow
def test_nothing_of_it_needs_torch(tmp_path):
    base = save(tmp_path / "base", {"w": ramp(3)})
    loaded = "{'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    code = f"import sys, hf_init; print(hf_init.drift(*sys.argv[1:])); assert not {loaded}, {loaded}"
    subprocess.run([sys.executable, "-c", code, str(base), str(base)], check=True)


def test_what_is_frozen_is_said_in_words_of_which_the_last_counts(run, tmp_path):
    names = ("a.weight", "a.bias", "special.bias")
    base, trained = (save(tmp_path / str(k), {name: ramp(3) + k for name in names}) for k in (0, 1))
    for frozen, failed in ((["kept", "!*.bias", "special.bias"], ["a.weight", "special.bias"]), ("none", [])):
        assert sorted(t.name for t in drift(base, trained, frozen=frozen).failures) == failed
    with pytest.raises(HfInitError, match=r"frozen: 'no\.such\.\*' names no tensor"):
        drift(run.start, run.trained, frozen="no.such.*")
    with pytest.raises(HfInitError, match="no word of it"):
        drift(run.start, run.trained, frozen=[3])


@of_a_run
def test_a_plan_of_another_model_and_of_other_shapes_is_refused(run, tmp_path):
    other = save(tmp_path / "other", {"w": ramp(3)})
    with pytest.raises(HfInitError, match="is of another model"):
        drift(other, run.trained, plan=run.start)
    grown = save(tmp_path / "grown", {"classifier.weight": ramp(5, 384)})
    with pytest.raises(HfInitError, match=r"classifier\.weight has the shape \[5, 384\], the plan says \[2, 384\]"):
        drift(run.start, grown)
    with pytest.raises(HfInitError, match="expected a Plan"):
        drift(run.start, run.trained, plan=3)


@of_a_run
def test_a_frozen_tensor_that_is_gone_is_a_failure(run, tmp_path):
    tensors = load_file(run.trained / "model.safetensors")
    del tensors[QUERY]
    report = drift(run.start, save(tmp_path / "less", tensors), frozen=QUERY)
    assert [(t.name, t.status) for t in report.failures] == [(QUERY, "missing")]
