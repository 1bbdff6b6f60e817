"""What the probe of new tokens is made of: passages, differences of logits, new rows beside the tables, batches."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import token_bases
import torch
import transformers
from token_bases import TEXTS, TOKENS

import hf_init
from hf_init import HfInitError, compare_schemes, probe_vocabulary
from hf_init._probe import compare
from hf_init._probe.compare import LIBRARY, Bench, new_rows, resized_rows
from hf_init._probe.comparison import SchemeComparison, SchemeRun
from hf_init._probe.logit_differences import Differences, TokenIds
from hf_init._probe.probe_report import ProbeReport, Reading
from hf_init._probe.short_training import Passage, batches, readings
from hf_init._probe.texts import passages
from hf_init._probe.train_rows import NewRows, grow_model


@pytest.fixture(scope="module")
def bases(bases: Callable[[str], Path]) -> Callable[[str], Path]:
    """The base of this name that has a tokenizer."""
    return lambda name: bases(f"{name} with tokens")


def model_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


# --- differences ---


LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
NONE = torch.tensor([], dtype=torch.int64)
THREE = TokenIds(torch.arange(3), torch.arange(3), torch.tensor([3]), NONE)


def differences(base: torch.Tensor, out: torch.Tensor, ids: TokenIds = THREE) -> Differences:
    found = Differences()
    found.add(base, out, ids)
    return found


# --- passages ---


@pytest.mark.parametrize("most", [1, 5, 12, 1000])
def test_passages_are_the_text_again_and_short(most):
    text = "  one two  three\nfour\tfive six-seven eight " * 3
    found = [*passages([text, ""], len, most)]
    assert "".join(found) == text and all(len(piece) <= max(most, len(" six-seven")) for piece in found)


def test_a_text_without_a_space_stays_whole():
    assert [*passages(["abcdefgh"], len, 3)] == ["abcdefgh"]


def test_the_same_old_logits_have_no_divergence():
    found = differences(LOGITS, torch.cat([LOGITS, torch.tensor([[-1.0], [-1.0]])], 1))
    mass = [math.exp(-1) / sum(map(math.exp, (*row, -1))) for row in LOGITS.tolist()]
    assert found.kl == found.most_kl == 0 and found.changed == 0 and found.positions == 2
    assert found.mass == pytest.approx(sum(mass)) and found.most_mass == pytest.approx(max(mass))


def test_divergence_is_over_the_old_tokens_renormalised():
    out = torch.cat([LOGITS + torch.tensor([[0.5, 0, 0]]), torch.tensor([[9.0], [9.0]])], 1)
    found = differences(LOGITS, out)
    p, q = LOGITS.double().log_softmax(1), out[:, :3].double().log_softmax(1)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum())) and found.kl > 0


def test_a_new_token_that_wins_is_a_changed_choice_and_so_is_an_old_one():
    assert differences(LOGITS, torch.cat([LOGITS, torch.tensor([[2.5], [2.5]])], 1)).changed == 1
    moved = LOGITS[:, [1, 0, 2]]
    assert differences(LOGITS, torch.cat([moved, torch.full((2, 1), -9.0)], 1)).changed == 1


def test_ids_may_move():
    ids = TokenIds(torch.arange(3), torch.tensor([3, 2, 0]), torch.tensor([1]), NONE)
    out = torch.full((2, 4), -50.0)
    out[:, ids.after] = LOGITS
    found = differences(LOGITS, out, ids)
    assert found.changed == 0 and found.most_kl < 1e-9


def test_a_likeliest_token_that_is_gone_is_a_changed_choice_and_padding_is_no_token():
    base = torch.tensor([[2.0, 1.0, 9.0], [0.0, 1.0, -1.0]])
    two = torch.arange(2)
    assert differences(base, base, TokenIds(two, two, NONE, torch.tensor([2]))).changed == 1
    assert differences(base, base, TokenIds(two, two, NONE, NONE)).changed == 0


def test_positions_are_counted_in_blocks():
    base = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    out = torch.cat([base, base[:, :1]], 1)
    ids = TokenIds(torch.arange(5), torch.arange(5), torch.tensor([5]), NONE)
    whole, parts = differences(base, out, ids), Differences()
    for row in range(200):
        parts.add(base[row : row + 1], out[row : row + 1], ids)
    assert whole.positions == parts.positions == 200 and whole.mass == pytest.approx(parts.mass)


@pytest.mark.slow
def test_the_numbers_are_the_models_own(bases, tmp_path):
    hf_init.extend(bases("llama"), tmp_path / "out", add_tokens=TOKENS)
    report = probe_vocabulary(bases("llama"), tmp_path / "out", ["the cat sat"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode("the cat sat", add_special_tokens=False)
    with torch.no_grad():
        loss = model_of(tmp_path / "out")(input_ids=torch.tensor([[0, *ids]]), labels=torch.tensor([[-100, *ids]])).loss
    assert report.new_reading == Reading(pytest.approx(float(loss) * len(ids), rel=1e-5), len(ids), 11)


def test_a_report_prints_and_is_json(bases, tmp_path):
    hf_init.extend(bases("llama"), tmp_path / "out", add_tokens=TOKENS)
    report = probe_vocabulary(bases("llama"), tmp_path / "out", TEXTS)
    data = json.loads(json.dumps(report.to_json()))
    assert data["guarantees"] == ["greedy kept"] and data["new_reading"]["bits_per_byte"] > 0
    assert "greedy choices that change" in str(report) and "2 new tokens beside 268 old ones" in str(report)
    assert "<table>" in report._repr_html_() and isinstance(report, ProbeReport)
    assert data["schema"] == "hf_init.probe/1" and data["ok"] and report
    report.raise_if_failed()


# --- new rows beside the tables ---


@pytest.mark.parametrize("name", ["llama", "qwen", "phi"])
def test_a_grown_model_computes_what_the_extended_one_does(name, bases, tmp_path):
    hf_init.extend(bases(name), tmp_path / "out", add_tokens=TOKENS)
    wanted, model = model_of(tmp_path / "out"), model_of(bases(name))
    ids = (token_bases.ROWS, token_bases.ROWS + 1)
    inputs, outputs = wanted.get_input_embeddings(), wanted.get_output_embeddings()
    tied = inputs.weight is outputs.weight
    new = NewRows(
        ids,
        inputs.weight.detach()[list(ids)],
        None if tied else outputs.weight.detach()[list(ids)],
        None if outputs.bias is None else outputs.bias.detach()[list(ids)],
    )
    text = torch.tensor([[0, 8, ids[0], 9, ids[1], 10]])
    before = model(input_ids=text.clamp(max=token_bases.ROWS - 1)).logits
    with grow_model(model, new) as rows:
        found = model(input_ids=text).logits
        found[..., 9].sum().backward()
        assert [row.grad is not None for row in rows] == [True] * len(rows)
        assert [p for p in model.parameters() if p.requires_grad] and len(rows) == len({id(row) for row in rows})
    torch.testing.assert_close(found, wanted(input_ids=text).logits[..., : found.shape[-1]], atol=1e-5, rtol=1e-5)
    assert torch.equal(model(input_ids=text.clamp(max=token_bases.ROWS - 1)).logits, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_batches_hold_every_passage_once_a_round_and_predict_each_token():
    made = [Passage("", tuple(range(10 * n, 10 * n + n))) for n in range(1, 6)]
    seen: list[int] = []
    turns = batches(made, 99, 1, seed=0)
    for _ in range(5):
        ids, targets = next(turns)
        assert ids[0, 0] == 99 and torch.equal(ids[0, 1:], targets[0, :-1])
        seen += targets.flatten().tolist()
    assert sorted(seen) == sorted(id_ for passage in made for id_ in passage.ids)
    ids, targets = next(batches(made, 99, 15, seed=0))
    assert ids.shape == targets.shape == (5, 5) and int((targets != -100).sum()) == 15


def test_passages_read_together_are_read_as_each_alone(bases):
    model = model_of(bases("llama"))
    made = [Passage("x" * n, tuple(8 + (3 * n + k) % 200 for k in range(n))) for n in (7, 1, 12, 5)]
    found = readings(model, 0, made, tokens=13)
    for passage, reading in zip(made, found, strict=True):
        ids = torch.tensor([[0, *passage.ids]])
        loss = model(input_ids=ids, labels=torch.tensor([[-100, *passage.ids]])).loss
        assert reading == Reading(
            pytest.approx(float(loss.detach()) * len(passage.ids), rel=1e-5), *[len(passage.ids)] * 2
        )


# --- schemes compared ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen", "phi"])
def test_training_helps_and_changes_nothing_else(name, bases):
    bench = Bench.of(bases(name), TOKENS, TEXTS, 32, 24, 2)
    before = {key: value.clone() for key, value in bench.model.state_dict().items()}
    run = bench.run("auto", {}, 0, (0, 3))
    assert run.bits[3] < run.bits[0] and run == bench.run("auto", {}, 0, (0, 3))
    after = bench.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_a_model_of_bfloat16_trains_rows_of_float32(bases):
    exact, rounded = (Bench.of(bases("phi"), TOKENS, TEXTS, 32, 24, 2, dtype) for dtype in ("float32", "bfloat16"))
    with grow_model(rounded.model, new_rows(rounded._prepared({}, 0), rounded.model)) as rows:
        assert {row.dtype for row in rows} == {torch.float32}
        assert rounded.model(input_ids=torch.tensor([[0, 8]])).logits.dtype == torch.float32
    for name in ("auto", "resize_token_embeddings"):
        runs = [bench.run(name, bench.schemes()[name], 0, (0, 3)) for bench in (exact, rounded)]
        assert runs[1].bits[3] < runs[1].bits[0] == pytest.approx(runs[0].bits[0], rel=0.02)


def test_what_fills_the_same_is_run_once_and_what_is_there_not_again(bases, monkeypatch):
    bench = Bench.of(bases("llama"), TOKENS, TEXTS, 32, 24, 1)
    ran: list[str] = []

    def run(self: Bench, name: str, words: Any, seed: int, steps: Any) -> SchemeRun:
        ran.append(name)
        return SchemeRun(name, seed, {0: len(ran)}, {"table": str(words)} if words is None else {"table": "mean"})

    monkeypatch.setattr(Bench, "run", run)
    monkeypatch.setattr(compare, "_schemes_in", lambda plan: {"table": "mean"})
    chosen = {
        "auto(distribution)": {"guarantee": "distribution"},
        "mean": {"row_scheme": "mean"},
        **dict.fromkeys(LIBRARY),
    }
    found = [*bench.runs(chosen, (0, 1), (0,), [SchemeRun("mean", 1, {0: 9.0}, {"table": "mean"})])]
    assert ran == ["auto(distribution)", *LIBRARY, *LIBRARY]
    assert [(run.scheme, run.seed, run.bits[0]) for run in found if run.scheme not in LIBRARY] == [
        ("auto(distribution)", 0, 1),
        ("mean", 0, 1),
        ("auto(distribution)", 1, 9.0),
    ]


def test_only_passages_with_a_new_token_teach_and_tell(bases):
    bench = Bench.of(bases("llama"), TOKENS, [*TEXTS, "the abc he " * 30], 32, 24, 9)
    assert all({"cat", " sat"} & set(re.findall("cat| sat", each.text)) for each in (*bench.training, *bench.held_out))
    run = bench.run("auto", {}, 0, (0,))
    assert sum(run.nats[0]) / math.log(2) / sum(len(each.text) for each in bench.held_out) == pytest.approx(run.bits[0])


@pytest.mark.slow
def test_step_0_is_the_extended_model_s_own_reading(bases, tmp_path):
    found = compare_schemes(bases("llama"), TOKENS, TEXTS, 1, {"mean": {"row_scheme": "mean"}}, longest=24)
    hf_init.extend(bases("llama"), tmp_path / "out", add_tokens=TOKENS, row_scheme="mean")
    bench = Bench.of(bases("llama"), TOKENS, TEXTS, 32, 24, 24)
    report = probe_vocabulary(bases("llama"), tmp_path / "out", [passage.text for passage in bench.held_out])
    assert found.bits("mean", 0) == [pytest.approx(report.new_reading.bits_per_byte, rel=1e-5)]
    assert found.base == pytest.approx(report.base_reading.bits_per_byte, rel=1e-6)


@pytest.mark.parametrize("mean", [True, False])
def test_the_library_s_rows_are_the_library_s(mean, bases):
    model = model_of(bases("phi"))
    ids = (token_bases.ROWS, token_bases.ROWS + 1)
    like = NewRows(ids, torch.zeros(2, 32), torch.zeros(2, 32), torch.zeros(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = resized_rows(model, like, mean, 7, torch.float32)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model.resize_token_embeddings(token_bases.ROWS + 2, mean_resizing=mean)
    assert torch.equal(found.rows, model.get_input_embeddings().weight[list(ids)])
    assert found.head is not None and torch.equal(found.head, model.lm_head.weight[list(ids)])
    assert found.bias is not None and torch.equal(found.bias, model.lm_head.bias[list(ids)])


def test_a_comparison_ranks_by_the_last_step():
    runs = (
        SchemeRun("a", 0, {0: 1.0, 5: 0.9}),
        SchemeRun("b", 0, {0: 2.0, 5: 0.8}),
        SchemeRun("b", 1, {0: 2.0, 5: 0.82}),
    )
    found = SchemeComparison(runs, 1.5)
    assert found.ranked == ("b", "a") and found.best == "b" and found.mean("b", 5) == pytest.approx(0.81)
    assert found.behind("a", "b", 5) == (pytest.approx(0.09), 0.0)
    assert "0.8100 +-0.0100" in str(found) and "<td>a</td>" in found._repr_html_()
    assert found and repr(found) == "<SchemeComparison: b is best of 2 after 5 steps>"
    assert found.to_json()["schema"] == "hf_init.comparison/1" and found.to_json()["ok"]
    found.raise_if_failed()
    diverged = SchemeComparison((SchemeRun("a", 0, {0: math.nan}),), 1.5)
    with pytest.raises(HfInitError, match="a: the loss isn't a number"):
        diverged.raise_if_failed()
    assert not diverged
    again = [SchemeRun.from_json(run) for run in json.loads(json.dumps(found.to_json()))["runs"]]
    assert tuple(again) == runs


def test_a_difference_has_the_error_of_the_passages_it_was_seen_on():
    """Equal differences have none."""

    def seen(name: str, nats: list[float]) -> SchemeRun:
        return SchemeRun(name, 0, {0: sum(nats) / math.log(2) / (100 * len(nats))}, {}, {0: tuple(nats)})

    ours, theirs = [50.0, 60.0, 70.0, 80.0], [49.0, 56.0, 69.0, 76.0]
    found = SchemeComparison((seen("a", ours), seen("b", theirs), seen("c", [nat - 2 for nat in ours])), 1.0)
    differences = torch.tensor(ours) - torch.tensor(theirs)
    error = float(differences.std() / 2) / math.log(2) / 100  # of the mean of four, in bits per byte
    assert found.behind("a", "b", 0) == (pytest.approx(2.5 / math.log(2) / 100), pytest.approx(error))
    assert found.behind("a", "c", 0) == (pytest.approx(2 / math.log(2) / 100), 0.0)
    assert found.behind("b", "a", 0)[0] == -found.behind("a", "b", 0)[0]
