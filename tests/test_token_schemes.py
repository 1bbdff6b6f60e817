"""Which scheme makes the rows of new tokens, and rows from elsewhere: donors, files, another tokenizer."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from token_bases import ROWS, base, equal_bytes, tensors, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_init
from hf_init import Recipe, Rule, schemes
from hf_init.cli import main


@pytest.fixture
def phi(bases):
    return bases("phi with tokens")


# Which scheme.


LEAN = "weights=characters_first, alpha=0.05"


@pytest.mark.parametrize(
    ("guarantee", "tied", "untied", "said"),
    [
        ("greedy", f"subtokens({LEAN})", "subtokens(weights=exp_first)", "greedy kept"),
        ("distribution", "mean", "mean", "at most"),
        ("learning", f"subtokens({LEAN})", "subtokens(weights=exp_first)", "fastest to learn"),
    ],
)
def test_each_guarantee_has_its_schemes_and_is_named(bases, guarantee, tied, untied, said):
    for name, table, scheme in (("llama", "model.embed_tokens.weight", tied), ("phi", "lm_head.weight", untied)):
        plan = hf_init.plan(bases(f"{name} with tokens"), add_tokens=["hello"], guarantee=guarantee)
        assert [str(fill.scheme) for fill in plan[table].new] == [scheme]
        assert [note for note in plan.notes if said in note]


def test_the_distribution_is_kept_within_its_bound(phi, tmp_path):
    words = [f"word{k}" for k in range(40)]
    hf_init.extend(phi, tmp_path / "out", add_tokens=words, guarantee="distribution")
    ids = torch.randint(7, ROWS, (8, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        probabilities = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=ids).logits.softmax(-1)
    assert float(probabilities[..., ROWS:].sum(-1).max()) <= 40 / (ROWS + 40) + 1e-6


def test_a_rule_that_names_the_table_wins_and_a_row_scheme_in_it_is_bound(phi, tmp_path):
    recipe = Recipe([Rule("normal(std=0.5)", name="lm_head.weight"), Rule("gaussian", name="*embed_tokens*")])
    plan = hf_init.plan(phi, add_tokens=["hello", "abcab"], recipe=recipe)
    assert str(plan["lm_head.weight"].new[0].scheme) == "normal(std=0.5)"
    scheme = plan["model.embed_tokens.weight"].new[0].scheme
    assert scheme.table == "model.embed_tokens.weight" and scheme.keys == ("hello", "abcab")  # type: ignore[attr-defined]
    assert str(plan["lm_head.bias"].new[0].scheme) == "subtokens(weights=exp_first)"


def test_words_choose_the_scheme_of_each_side(phi, tmp_path):
    words: Any = {"input_rows": {"copy": {"token": "abc"}}, "output_rows": "subtokens(weights=characters)"}
    hf_init.extend(phi, tmp_path / "out", add_tokens=["abcab"], **words)
    before, after = tensors(phi), tensors(tmp_path / "out")
    abc, ab = (tokenizer().convert_tokens_to_ids(text) for text in ("abc", "ab"))
    assert equal_bytes(after["model.embed_tokens.weight"][ROWS], before["model.embed_tokens.weight"][abc])
    for table in ("lm_head.weight", "lm_head.bias"):
        torch.testing.assert_close(after[table][ROWS], before[table][abc] * 0.6 + before[table][ab] * 0.4)
    assert hf_init.verify(tmp_path / "out", recompute=True).ok


def test_rows_from_elsewhere_go_to_their_tokens_and_leave_the_bias_to_the_mean(phi, tmp_path):
    rows = torch.arange(64.0).reshape(2, 32)
    save_file({"rows": rows}, tmp_path / "rows.safetensors")
    from_file = {"from_file": {"path": str(tmp_path / "rows.safetensors")}}
    for name, scheme in {"file": from_file, "memory": schemes.FromTensor(values=rows)}.items():
        hf_init.extend(phi, tmp_path / name, add_tokens=["hello", "abcab"], row_scheme=scheme)
        after = tensors(tmp_path / name)
        for table in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(after[table][ROWS:], rows)
        torch.testing.assert_close(after["lm_head.bias"][ROWS], tensors(phi)["lm_head.bias"].mean())


def test_a_donor_s_tokenizer_says_which_rows_are_shared(phi, tmp_path):
    hf_init.extend(phi, tmp_path / "donor", add_tokens=["hello"], seed=1)
    words: Any = {"output_rows": {"omp": {"donor": str(tmp_path / "donor"), "k": 4}}}
    plan = hf_init.plan(phi, add_tokens=["hello"], **words)
    scheme = plan["lm_head.weight"].new[0].scheme
    assert scheme.rows == (ROWS,) and len(scheme.shared) == ROWS  # type: ignore[attr-defined]
    hf_init.extend(phi, tmp_path / "out", add_tokens=["hello"], **words)
    row, want = (tensors(tmp_path / folder)["lm_head.weight"][ROWS] for folder in ("out", "donor"))
    torch.testing.assert_close(row, want, rtol=1e-3, atol=1e-3)
    with pytest.raises(hf_init.HfInitError, match="the donor has no token 'abcabx'"):
        hf_init.plan(phi, add_tokens=["abcabx"], **words)


def pursued(atoms, row, many):
    """Orthogonal matching pursuit as textbooks have it: the nearest atom to what is left, then least squares again."""
    units, chosen, left = torch.nn.functional.normalize(atoms.double(), dim=1), [], row.double()
    for _ in range(many):
        nearest = (units @ left).abs()
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        weights = torch.linalg.lstsq(atoms[chosen].T.double(), row.double()[:, None]).solution[:, 0]
        left = row.double() - weights @ atoms[chosen].double()
    return chosen, weights.float()


def test_a_real_donor_of_another_kind_shares_words_and_gives_the_row_that_least_squares_gives(minilm, tmp_path):
    """MiniLM's WordPiece has whole words, which the byte-level base spells with the space in front of them."""
    words = ["home", "garden", "river", "street", "stone", "winter"]
    source = base("llama", tmp_path / "base")
    larger = tokenizer(extra=[f"\u0120{word}" for word in words])
    data = tensors(source)
    data["model.embed_tokens.weight"] = torch.randn(len(larger), 32, generator=torch.Generator().manual_seed(0))
    save_file(data, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": len(larger)}))
    larger.save_pretrained(source)
    scheme: Any = {"omp": {"donor": str(minilm), "donor_table": "embeddings.word_embeddings.weight"}}
    hf_init.extend(source, tmp_path / "out", add_tokens=[" house"], row_scheme=scheme)
    theirs, ours = AutoTokenizer.from_pretrained(minilm), larger.get_vocab()
    (fill,) = hf_init.Plan.load(tmp_path / "out")["model.embed_tokens.weight"].new
    shared = dict(fill.scheme.shared)  # type: ignore[attr-defined]
    assert fill.scheme.rows == (theirs.convert_tokens_to_ids("house"),)  # type: ignore[attr-defined]
    assert {theirs.convert_tokens_to_ids(w): ours[f"\u0120{w}"] for w in ("the", *words)}.items() <= shared.items()
    assert shared[theirs.convert_tokens_to_ids("##ab")] == ours["ab"]
    table = tensors(minilm)["embeddings.word_embeddings.weight"]
    found, row = tensors(tmp_path / "out")["model.embed_tokens.weight"][len(larger)], table[fill.scheme.rows[0]]  # type: ignore[attr-defined]
    # The nearest of the shared words is chosen first, and 64 of them leave what least squares on those 64 leave.
    atoms = table[list(shared)]
    nearest = int((torch.nn.functional.normalize(atoms, dim=1) @ row).abs().argmax())
    assert theirs.convert_ids_to_tokens(list(shared)[nearest]) == "home"
    chosen, weights = pursued(atoms, row, 64)
    want = weights @ data["model.embed_tokens.weight"][[list(shared.values())[at] for at in chosen]]
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_minilm_as_a_donor_for_smollm2_shares_a_third_of_its_tokens(smollm2, minilm):
    scheme: Any = {"omp": {"donor": str(minilm), "donor_table": "embeddings.word_embeddings.weight"}}
    plan = hf_init.plan(smollm2, add_tokens=[" unspecified", "terminates"], row_scheme=scheme)
    (fill,) = plan["model.embed_tokens.weight"].new
    assert len(fill.scheme.shared) > 17_000  # type: ignore[attr-defined]


# On the command line, and in a script.


def test_the_command_line_adds_tokens_and_probes_them(bases, tmp_path, capsys):
    (tmp_path / "tokens.json").write_text(
        json.dumps(
            [{"token": "<tool>", "description": "the tab", "special": True}, {"token": "<end>", "special": True}]
        )
    )
    (tmp_path / "texts").write_text("abc the abc\n\nhe the <tool> he")
    out = tmp_path / "out"
    options = ["--add-tokens-file", tmp_path / "tokens.json", "--pad-to-multiple-of", 64, "--json"]
    assert main([*map(str, ["extend", bases("llama with tokens"), out, *options, "--probe", tmp_path / "texts"])]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["probe"]["new"] == 2 and "greedy kept" in said["probe"]["guarantees"] and said["verify"]["ok"]
    assert said["probe"]["words"] == 4 and said["probe"]["split_words"] == {}
    assert any("guarantee: greedy kept" in note for note in said["plan"]["notes"])
    after = AutoTokenizer.from_pretrained(out)
    assert {"<tool>", "<end>"} <= {*after.all_special_tokens, *map(str, after.added_tokens_decoder.values())}
    assert len(tensors(out)["model.embed_tokens.weight"]) % 64 == 0


def test_words_worth_a_token_are_found_and_save_tokens_in_another_text(bases, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "scripts" / "evidence"))
    script = importlib.import_module("domain_vocabulary")
    monkeypatch.delitem(sys.modules, "domain_vocabulary")
    assert script.worth_a_token([" abcabc" * 3 + " the" * 9 + " rare"], tokenizer(), 9) == [(" abcabc", 6)]
    (tmp_path / "text").write_text(
        "\n\n".join(["the photoelectron hit the metal surface and the photoelectron left " * 2] * 8)
    )
    argv = [bases("llama with tokens"), tmp_path / "out", "--text", tmp_path / "text", "--words", 5, "--probed", 2]
    monkeypatch.setattr("sys.argv", ["domain_vocabulary.py", *map(str, argv)])
    assert script.main() == 0
    said = capsys.readouterr().out
    saved = float(re.findall(r"([\d.]+)% saved", said)[0])
    assert "' photoelectron'" in said and saved > 20 and "greedy kept" in said


# Another tokenizer.


def test_a_token_of_another_tokenizer_starts_as_its_pieces_under_the_old_one(phi, results):
    hello = results("another tokenizer").model.init_tokenizer.convert_tokens_to_ids("hello")
    pieces = tokenizer().encode("hello", add_special_tokens=False)
    weights = torch.tensor([float(-k) for k in range(len(pieces))]).softmax(0)
    rows = tensors(results("another tokenizer").out)["lm_head.weight"]
    torch.testing.assert_close(rows[hello], weights @ tensors(phi)["lm_head.weight"][pieces])


def test_another_tokenizer_renumbers_the_ids_in_the_configs_and_names_what_goes(phi, bases, tmp_path):
    backend = json.loads(tokenizer().backend_tokenizer.to_str())
    texts = [text for text in backend["model"]["vocab"] if text not in ("abc", "<image>")]
    backend["model"]["vocab"] = {text: id_ for id_, text in enumerate(reversed(texts))}
    backend["model"]["merges"] = []
    backend["added_tokens"] = [
        {**token, "id": backend["model"]["vocab"][token["content"]]} for token in backend["added_tokens"]
    ]
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer().backend_tokenizer).from_str(json.dumps(backend)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    made.save_pretrained(tmp_path / "other")
    plan = hf_init.plan(bases("gemma3 with tokens"), tokenizer=tmp_path / "other", allow_shrink=True)
    assert any("2 tokens of the base go: '<image>', 'abc'" in note for note in plan.notes)
    assert any("image_token_id" in note or "image_token_index" in note for note in plan.notes)
    hf_init.extend(phi, tmp_path / "out", tokenizer=tmp_path / "other", allow_shrink=True)
    config, generation = (
        json.loads((tmp_path / "out" / n).read_text()) for n in ("config.json", "generation_config.json")
    )
    last = len(texts) - 1
    for said in (config, generation):
        assert [said[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [last, last - 1, last - 2]
    assert config["vocab_size"] == len(texts)
