"""What new tokens do to a model: the numbers are those of their definitions, and training leaves the rest alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import token_bases
from token_bases import TEXTS, TOKENS

import hf_init
from hf_init import HfInitError, compare_schemes, probe_vocabulary
from hf_init.cli import main


@pytest.fixture(scope="module")
def bases(bases: Callable[[str], Path]) -> Callable[[str], Path]:
    """The base of this name that has a tokenizer."""
    return lambda name: bases(f"{name} with tokens")


# --- the probe ---


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen", "phi"))])
def test_the_probe_names_the_guarantee_that_holds(name, bases, tmp_path):
    hf_init.extend(bases(name), tmp_path / "greedy", add_tokens=TOKENS)
    hf_init.extend(bases(name), tmp_path / "kept", add_tokens=TOKENS, guarantee="distribution")
    greedy, kept = (probe_vocabulary(bases(name), tmp_path / out, TEXTS) for out in ("greedy", "kept"))
    assert "greedy kept" in greedy.guarantees and greedy.changed == 0
    assert "distribution kept" in kept.guarantees and kept.most_mass <= kept.bound * 1.0001
    for report in (greedy, kept):
        assert report.new == 2 and report.old == token_bases.ROWS and report.most_kl == 0
        assert report.base_reading.bytes == report.new_reading.bytes == sum(len(text.encode()) for text in TEXTS)
        assert report.new_reading.tokens < report.old_reading.tokens == report.base_reading.tokens == report.positions
        # The loss in old tokens grows by what the new ones take, unless their rows took the place of padding.
        assert name == "qwen" or report.old_reading.loss > report.base_reading.loss


@pytest.mark.slow
def test_rows_that_win_are_seen(bases, tmp_path):
    hf_init.extend(bases("llama"), tmp_path / "out", add_tokens=TOKENS, row_scheme="gaussian(scale=20)")
    report = probe_vocabulary(bases("llama"), tmp_path / "out", TEXTS)
    assert report.changed > 0 and report.guarantees == () and "train the new rows" in report.conclusion
    assert not report and repr(report).endswith("nothing kept>")
    with pytest.raises(HfInitError, match="neither the distribution nor the greedy choice is kept"):
        report.raise_if_failed()


@pytest.mark.slow
def test_an_unchanged_model_changes_nothing(bases):
    report = probe_vocabulary(bases("llama"), bases("llama"))
    assert (report.new, report.mass, report.most_kl, report.changed) == (0, 0, 0, 0)
    assert report.base_reading == report.new_reading and report.positions > 500


def test_another_tokenizer_is_probed_where_old_tokens_are_left(bases, tmp_path):
    token_bases.tokenizer(["cat"], ()).save_pretrained(tmp_path / "other")
    hf_init.extend(bases("llama"), tmp_path / "out", tokenizer=str(tmp_path / "other"))
    report = probe_vocabulary(bases("llama"), tmp_path / "out", ["z y x"])
    assert report.positions == report.old_reading.tokens > 0


@pytest.mark.parametrize(
    ("texts", "message"), [([], "seen none"), ([" "], "seen none"), ("one", "put it in a list"), ([1], "seen int")]
)
def test_texts_that_can_t_be_read_are_refused(texts, message, bases):
    with pytest.raises(HfInitError, match=message):
        probe_vocabulary(bases("llama"), bases("llama"), texts)


def test_what_is_no_language_model_is_refused(bases, minilm, tmp_path):
    for folder in (minilm, bases("t5")):
        with pytest.raises(HfInitError, match="only a causal language model can be probed"):
            probe_vocabulary(folder, folder)
    with pytest.raises(HfInitError, match="no such folder"):
        probe_vocabulary(bases("llama"), str(tmp_path / "missing"))


@pytest.mark.slow
def test_the_command_line_ranks_every_scheme_on_a_file_of_texts(bases, tmp_path, capsys):
    """Of an untied model, and then of a tied one."""
    (tmp_path / "texts").write_text("\n\n".join(TEXTS))
    argv = ["plan", str(bases("phi")), "--add-tokens", "cat, sat", "--compare-schemes", str(tmp_path / "texts")]
    assert main([*argv, "--steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert "2 tokens with new rows" in out and "resize_token_embeddings(mean_resizing=False)" in out and "step 2" in out
    assert "gaussian" in out and "nan" not in out
    assert "hf-init: auto: done" in err
    (tmp_path / "tokens.json").write_text(json.dumps([{"token": "<cat>", "description": "a cat", "special": True}]))
    argv[1:4] = [str(bases("llama")), "--add-tokens-file", str(tmp_path / "tokens.json"), "--special-tokens", "cat"]
    (tmp_path / "texts").write_text("\n\n".join(TEXTS).replace("the cat", "<cat>"))
    assert main([*argv, "--steps", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["comparison"]
    assert said["ranked"] and said["base"] > 0 and len(said["runs"]) == len(said["ranked"])
    assert all(math.isfinite(bits) for run in said["runs"] for bits in run["bits"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "9"], "--steps is for --compare-schemes"),
        (
            ["--compare-schemes", "texts", "--row-scheme", "mean", "--rules", "a=zeros"],
            "leave out --row-scheme, --rules",
        ),
        (["--compare-schemes", "texts"], "texts can't be read"),
    ],
)
def test_options_that_a_comparison_would_pass_over_are_refused(bases, capsys, options, message):
    assert main(["plan", str(bases("llama")), "--add-tokens", "cat", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"seeds": ()}, "there are 0 seeds"),
        ({"texts": ["the cat"]}, "1 passages of at most"),
        ({"schemes": {"mine": None}}, "'mine' has no options"),
        ({"tokens": ["abc"]}, "abc"),
    ],
)
def test_what_can_t_be_compared_is_refused(words, message, bases):
    with pytest.raises(HfInitError, match=message):
        compare_schemes(bases("llama"), **{"tokens": TOKENS, "texts": TEXTS, **words})


def test_tables_besides_the_embedding_and_the_output_are_refused(bases):
    with pytest.raises(HfInitError, match=r"embed_tokens_per_layer.*can't be compared"):
        compare_schemes(bases("gemma3n"), TOKENS, TEXTS, 1, {"auto": {}}, longest=24)
