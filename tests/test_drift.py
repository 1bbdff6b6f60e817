"""What a training run did: laws of ``measure_drift`` on files made by hand, and on a real fine-tune."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hf_init
from hf_init._drift.cast import cast_values
from hf_init._drift.drift import measure_drift, verify_after_training
from hf_init._drift.frozen_globs import FrozenGlobs
from hf_init._errors import CheckpointError, HfInitError, PlanError, ProofError

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


def test_a_checkpoint_has_not_drifted_from_itself(run):
    report = verify_after_training(run.start, run.start)
    assert report.ok
    assert report.counts["identical"] == 104
    assert [t.status for t in report.tensors if t.origin == "new"] == ["untrained", "untrained"]
    assert not any(t.change.elements for t in report.tensors)


@pytest.mark.parametrize("base", ["base", "start"])
@pytest.mark.parametrize("trained", ["trained", "sharded"])
def test_a_real_run_moved_its_top_layer_and_its_head(run, base, trained):
    """From the source and from the extended folder, saved in one file and in shards: the same verdict."""
    frozen = ["kept", "!bert.encoder.layer.5.*"]
    report = verify_after_training(getattr(run, trained), getattr(run, base), plan=run.start, frozen=frozen)
    assert report.ok
    moved = {t.name for t in report.tensors if t.status == "trained"}
    assert moved == {t.name for t in report.tensors if ".layer.5." in t.name}
    assert len(moved) == 16
    assert by_name(report, "classifier.weight").status == "new"
    assert by_name(report, "embeddings.position_ids").status == "missing"
    layer = next(group for group in report.layers() if group.index == 5)
    assert 0 < layer.relative < 0.2
    assert all(group.relative == 0 for group in report.layers() if group.index != 5)


def test_the_extended_base_tells_how_far_the_head_moved_and_the_source_only_that_it_did(run):
    near, far = measure_drift(run.start, run.trained), measure_drift(run.base, run.trained, run.start)
    assert by_name(near, "classifier.weight").change.relative > 0.01
    assert by_name(far, "classifier.weight").change is None
    assert by_name(far, "classifier.weight").status == "new"


def test_with_recompute_the_source_tells_how_far_too(run):
    from hf_init._load.recompute import recomputer

    again = measure_drift(run.base, run.trained, run.start, recompute=recomputer(run.start))
    near = measure_drift(run.start, run.trained)
    for name in ("classifier.weight", "classifier.bias"):
        assert by_name(again, name).change == by_name(near, name).change


def test_everything_kept_was_not_frozen_in_that_run(run):
    report = verify_after_training(run.trained, plan=run.start)
    assert not report.ok
    assert len(report.failures) == 16
    with pytest.raises(ProofError, match=r"16 FAILED.*\n  bert\.encoder\.layer\.5\..*moved at row 0.*largest"):
        report.raise_if_failed()


def test_one_flipped_bit_in_a_frozen_tensor_is_found_and_named(run, tmp_path):
    tensors = load_file(run.trained / "model.safetensors")
    tensors[QUERY] = tensors[QUERY].copy()
    tensors[QUERY].view(np.uint32)[7, 11] ^= 1
    folder = save(tmp_path / "flipped", tensors)
    report = verify_after_training(folder, plan=run.start, frozen=["kept", "!bert.encoder.layer.5.*"])
    (failure,) = report.failures
    assert (failure.name, failure.status, failure.change.elements, failure.change.rows) == (QUERY, "moved", 1, 1)
    assert failure.change.first["index"] == [7, 11]
    assert 0 < failure.change.largest < 1e-6
    with pytest.raises(ProofError, match=rf"{QUERY}: moved at row 7, index \[7, 11\] \(1 row changed\)"):
        report.raise_if_failed()


def test_a_report_prints_and_round_trips_through_json(run):
    report = measure_drift(run.start, run.trained)
    text = str(report)
    assert "16 trained" in text
    assert "bert.encoder.layer.5" in text
    assert "<table>" in report._repr_html_()
    data = json.loads(json.dumps(report.to_json()))
    assert data["schema"] == "hf_init.drift/1" and data["ok"] is bool(report) is True
    assert repr(report) == f"<DriftReport: {text.splitlines()[0]}>"
    assert data["counts"] == report.counts
    assert {t["name"] for t in data["tensors"]} == {t.name for t in report.tensors}


def test_the_picture_shows_a_cell_for_each_layer_and_kind(run, tmp_path):
    from hf_init._drift.grid import CHANGED, FAILED, STAYED, bars, grids

    report = measure_drift(run.start, run.trained, frozen="kept")
    (grid,) = grids(report.tensors)
    assert (grid.stack, grid.layers, len(grid.kinds)) == ("bert.encoder.layer", (0, 1, 2, 3, 4, 5), 16)
    assert (grid.state[:, :5] == STAYED).all()
    assert (grid.state[:, 5] == FAILED).all()
    assert (grids(measure_drift(run.start, run.trained).tensors)[0].state[:, 5] == CHANGED).all()
    assert [bar.label for bar in bars(report.tensors) if bar.new] == ["classifier.bias", "classifier.weight"]
    picture = report.draw(tmp_path / "drift.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(HfInitError, match=r"\.png"):
        report.draw(tmp_path / "drift.pdf")


def test_progress_counts_every_byte_that_is_compared(run):
    seen: list[int] = []
    report = measure_drift(run.start, run.trained, progress=seen.append)
    assert sum(seen) == report.bytes_compared


def test_a_trainers_folder_is_its_last_checkpoint(tmp_path):
    base = save(tmp_path / "base", {"w": ramp(3)})
    for step, value in ((5, 1), (40, 3), (200, 2)):
        save(tmp_path / "out" / f"checkpoint-{step}", {"w": ramp(3) * value})
    report = measure_drift(base, tmp_path / "out")
    assert report.trained.endswith("checkpoint-200")
    assert report.tensors[0].change.relative == 1.0
    assert "last checkpoint" in report.notes[0]


def test_without_a_plan_names_decide_and_the_report_says_what_that_cannot_tell(tmp_path):
    base = save(tmp_path / "base", {"a": ramp(4, 2), "b": ramp(3), "gone": ramp(2)})
    trained = save(tmp_path / "trained", {"a": ramp(6, 2), "b": ramp(3) + 1, "added": ramp(2)})
    report = verify_after_training(trained, base)
    assert [t.name for t in report.failures] == ["b"]
    assert by_name(report, "a", "kept").status == "identical"
    assert by_name(report, "a", "new").status == "new"
    assert by_name(report, "gone").status == "missing"
    assert by_name(report, "added").status == "new"
    assert any("no plan" in note for note in report.notes)


def test_without_a_plan_and_a_common_name_there_is_nothing_to_compare(minilm, run):
    with pytest.raises(CheckpointError, match="no tensor's name in common"):
        measure_drift(minilm, run.trained)


def test_a_row_that_moved_is_told_from_those_that_stayed(tmp_path):
    """Kept rows in another order and a new one, by the plan."""
    base = save(tmp_path / "base", {"emb": ramp(3, 2)})
    plan = resized_plan(base)
    start = np.concatenate([ramp(3, 2)[[2, 0]], np.zeros((1, 2), np.float32)])
    moved = start + np.array([[0, 0], [0, 1], [5, 5]], np.float32)
    report = measure_drift(base, save(tmp_path / "trained", {"emb": moved}), plan, frozen="kept")
    kept, new = by_name(report, "emb", "kept"), by_name(report, "emb", "new")
    assert (kept.status, kept.change.elements, kept.change.first["index"]) == ("moved", 1, [1, 1])
    assert new.status == "new"
    assert measure_drift(base, save(tmp_path / "same", {"emb": start}), plan, frozen="kept").ok


def resized_plan(base: Path):
    from hf_init._checkpoint.checkpoint import Checkpoint
    from hf_init._plan import BaseRecord, Manifest, Plan

    rows = {"dim": 0, "index": [0, 1]}, {"dim": 0, "index": [2, 0]}
    entry = {
        "name": "emb",
        "status": "resized",
        "shape": [3, 2],
        "dtype": "float32",
        "kept": [{"region": rows[0], "source": "emb", "source_region": rows[1]}],
        "new": [{"region": {"start": [2, 0], "stop": [3, 2]}, "scheme": {"name": "zeros"}}],
    }
    plan = Plan.from_json({"architecture": "Tiny", "seed": 0, "tensors": [entry], "unused": []})
    return Manifest(plan, BaseRecord(str(base), Checkpoint.open(base).fingerprint()), {}, "a test")


def test_a_frozen_new_part_of_which_nothing_is_known_is_no_proof(tmp_path):
    base = save(tmp_path / "base", {"emb": ramp(3, 2)})
    trained = save(tmp_path / "trained", {"emb": ramp(3, 2)[[2, 0, 1]]})
    report = measure_drift(base, trained, resized_plan(base), frozen="emb")
    assert [(t.portion, t.status) for t in report.failures] == [("new", "unproved")]


def test_new_values_that_never_moved_are_a_warning(run):
    assert any("still as it was made: classifier" in warning for warning in measure_drift(run.base, run.start).warnings)
    assert not any("still as it was made" in warning for warning in measure_drift(run.start, run.trained).warnings)


def test_values_that_are_no_numbers_are_a_warning(tmp_path):
    base, broken = save(tmp_path / "base", {"w": ramp(3)}), ramp(3)
    broken[1] = np.nan
    report = measure_drift(base, save(tmp_path / "broken", {"w": broken}))
    assert by_name(report, "w").change.not_finite == 1
    assert any("diverged" in warning for warning in report.warnings)
    assert not measure_drift(base, save(tmp_path / "fine", {"w": ramp(3) * 2})).warnings


def test_a_frozen_tensor_saved_in_another_dtype_must_equal_the_exact_cast(tmp_path):
    values = np.array([1 / 3, -2.5, 1e-3], np.float32)
    base = save(tmp_path / "base", {"w": values})
    narrow = save(tmp_path / "narrow", {"w": values.astype(np.float16)})
    report = measure_drift(base, narrow, frozen="kept")
    assert report.ok
    assert any("exact cast" in note for note in report.notes)
    off = values.astype(np.float16)
    off.view(np.uint16)[2] += 1
    assert not measure_drift(base, save(tmp_path / "off", {"w": off}), frozen="kept").ok
    assert measure_drift(
        narrow, save(tmp_path / "wide", {"w": values.astype(np.float16).astype(np.float32)}), frozen="kept"
    ).ok


def test_a_rounding_on_the_way_is_recognised(tmp_path):
    base = save(tmp_path / "base", {"w": ramp(5) / 3})
    rounded = save(tmp_path / "rounded", {"w": (ramp(5) / 3).astype(np.float16).astype(np.float32)})
    (failure,) = measure_drift(base, rounded, frozen="kept").failures
    assert "rounded to float16" in failure.reason
    (other,) = measure_drift(base, save(tmp_path / "other", {"w": ramp(5) / 2}), frozen="kept").failures
    assert other.reason == ""


def test_another_kind_of_dtype_cannot_be_compared_and_fails_where_it_is_frozen(tmp_path):
    base = save(tmp_path / "base", {"w": np.arange(3), "v": ramp(2)})
    trained = save(tmp_path / "trained", {"w": ramp(3), "v": ramp(2)})
    (failure,) = measure_drift(base, trained, frozen="kept").failures
    assert "no exact cast" in failure.reason
    assert measure_drift(base, trained).ok


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")])
def test_casts_are_those_of_torch(dtypes):
    import torch

    bits = torch.arange(-(1 << 31), 1 << 31, 65_521, dtype=torch.int64).to(torch.int32).view(torch.float32)
    before, after = (getattr(torch, name) for name in dtypes)
    source = bits[torch.isfinite(bits)].to(before)
    mine = cast_values(_codes(source), *dtypes)
    np.testing.assert_array_equal(mine, _codes(source.to(after)))


def _codes(values) -> np.ndarray:
    import torch

    widths = {2: torch.uint16, 4: torch.uint32}
    return values.contiguous().view(widths[values.element_size()]).numpy()


def test_what_is_frozen_is_said_in_words_of_which_the_last_counts(run):
    frozen = FrozenGlobs.of(["kept", "!*.bias", "special.bias"])
    assert frozen.holds(("a.weight",), "kept")
    assert not frozen.holds(("a.bias",), "kept")
    assert frozen.holds(("special.bias",), "new")
    assert not FrozenGlobs.of("none").holds(("a",), "kept")
    with pytest.raises(PlanError, match=r"frozen: 'no\.such\.\*' names no tensor"):
        measure_drift(run.start, run.trained, frozen="no.such.*")
    with pytest.raises(PlanError, match="no word of it"):
        measure_drift(run.start, run.trained, frozen=[3])


def test_a_plan_of_another_model_and_of_other_shapes_is_refused(run, tmp_path):
    other = save(tmp_path / "other", {"w": ramp(3)})
    with pytest.raises(PlanError, match="is of another model"):
        measure_drift(other, run.trained, run.start)
    grown = save(tmp_path / "grown", {"classifier.weight": ramp(5, 384)})
    with pytest.raises(CheckpointError, match=r"classifier\.weight has the shape \[5, 384\], the plan says \[2, 384\]"):
        measure_drift(run.start, grown)
    with pytest.raises(PlanError, match="expected a Plan"):
        measure_drift(run.start, run.trained, 3)


def test_a_frozen_tensor_that_is_gone_is_a_failure(run, tmp_path):
    tensors = load_file(run.trained / "model.safetensors")
    del tensors[QUERY]
    report = verify_after_training(save(tmp_path / "less", tensors), run.start, frozen=QUERY)
    assert [(t.name, t.status) for t in report.failures] == [(QUERY, "missing")]


def test_nothing_of_it_needs_torch():
    import subprocess

    code = "import sys, hf_init._drift; assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
