"""New tokens: old rows stay to the byte, new ones are where their ids say, and the result is a plain folder."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
import torch
import transformers
from changes import CHANGES
from changes_of_tokens import WORDS
from safetensors.torch import save_file
from token_bases import ROWS, equal_bytes, tensors, tokenizer
from transformers import AutoConfig, AutoTokenizer

import hf_init
from hf_init import Recipe, Rule

NEW = {"abcab": ROWS, "hello": ROWS + 1, "<tool>": ROWS + 2, "<x>": ROWS + 3}
UNTIED, ENCODED = "tokens, untied with a bias", "tokens of an encoder-decoder"
ROWS_OF_TABLE = [name for name, change in CHANGES.items() if change.options.get("add_tokens") == WORDS]
PHI = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")


@pytest.fixture
def phi(bases):
    return bases("phi with tokens")


# What is old: see the laws.


@pytest.mark.parametrize("row", ROWS_OF_TABLE)
def test_plain_transformers_loads_the_tokenizer_that_goes_with_the_rows(results, row):
    after = AutoTokenizer.from_pretrained(results(row).out)
    assert {text: after.convert_tokens_to_ids(text) for text in NEW} == NEW
    assert after.encode("hello<tool>", add_special_tokens=False) == [ROWS + 1, ROWS + 2]
    assert after.decode([ROWS + 1, ROWS + 2], skip_special_tokens=True) == "hello"
    rows = results(row).model.get_input_embeddings().weight.shape[0]
    assert rows == results(row).model.config.get_text_config().vocab_size >= ROWS + 4
    if "for each layer" in row:
        assert AutoConfig.from_pretrained(results(row).out).vocab_size_per_layer_input == rows
    assert AutoTokenizer.from_pretrained(results(row).base).convert_tokens_to_ids("hello") != ROWS + 1


class Masked(transformers.PhiForCausalLM):
    """Never says some of its tokens, however likely they are."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits[..., : ROWS - 5] = -1e4
        return output


NORMAL = {"recipe": Recipe([Rule("normal(std=5)", name="lm_head.weight")])}
MEAN = {"recipe": Recipe([Rule("mean", name="lm_head.bias")])}
FINITE = {"repetition_penalty": 1.3, "suppress_tokens": [5], "min_length": 0, "no_repeat_ngram_size": 0}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("llama", {}, "greedy kept"),
        ("phi", {}, "greedy kept"),
        ("bart", {}, "greedy kept"),
        ("phi", {"guarantee": "learning", "row_scheme": "subtokens(weights=last)"}, "greedy kept"),
        ("phi", {"guarantee": "distribution"}, "distribution kept"),
        ("phi", {"guarantee": "distribution", "row_scheme": "subtokens"}, "gives 'abcab', 'hello'.* no mean row"),
        ("phi", {"row_scheme": "subtokens(norm=median)"}, "in lm_head.weight no mixture of old rows"),
        ("phi", NORMAL, r"normal\(std=5\) gives 'abcab', 'hello'"),
        ("phi", MEAN, "takes other shares of old rows than lm_head"),
        ("llama", {"row_scheme": "mean(noise=2)"}, "no mixture"),
        ("phi", {"reinit_rows": [5]}, "rows of old tokens are re-initialized"),
    ],
    ids=str,
)
def test_greedy_decoding_is_said_to_stay_where_it_does(bases, name, options, said):
    base = bases(f"{name} with tokens")
    model = hf_init.from_pretrained(None, base, add_tokens=WORDS, **options)
    (note,) = (each for each in model.init_plan.notes if "guarantee" in each)
    assert re.search(said, note) and note.startswith("guarantee") is (" kept" in said), note
    ids, texts, logits = torch.randint(7, ROWS, (16, 4), generator=torch.Generator().manual_seed(0)), [], []
    for each in (type(model).from_pretrained(base).eval(), model.eval()):
        texts.append(each.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=2))
        with torch.no_grad():
            logits.append(each(input_ids=ids).logits[..., :ROWS])
    assert torch.equal(*texts) or " kept" not in said
    torch.testing.assert_close(*logits, rtol=1e-5, atol=100 if "reinit_rows" in options else 1e-5)
    assert options is not NORMAL or int(texts[1].max()) >= ROWS, "it can change"


def test_greedy_decoding_is_not_said_to_stay_where_a_model_scores_some_tokens_otherwise(phi, tmp_path):
    plan = hf_init.plan(phi, Masked, add_tokens=WORDS)
    assert [note for note in plan.notes if "no guarantee: greedy" in note and "it isn't shown that Masked" in note]
    copy = shutil.copytree(phi, tmp_path / "copy")
    (copy / "generation_config.json").write_text(json.dumps(FINITE))
    assert [
        n for n in hf_init.plan(copy, add_tokens=WORDS).notes if "config's suppress_tokens, repetition_penalty" in n
    ]


def test_a_model_in_memory_has_the_tokenizer(results):
    model = results(UNTIED).model
    assert model.init_tokenizer.convert_tokens_to_ids("<x>") == ROWS + 3 and model.init_plan.notes


# What is new.


def rows_of(folder, table, dim=0):
    return tensors(folder)[table].movedim(dim, 0)[ROWS : ROWS + 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_new_rows_of_words_are_pairwise_distinct_in_every_dtype(bases, tmp_path, dtype):
    source = tmp_path / "base"
    shutil.copytree(bases("llama with tokens"), source, copy_function=shutil.copyfile)
    save_file({key: t.to(dtype) for key, t in tensors(source).items()}, source / "model.safetensors", {"format": "pt"})
    words = ["abcab", "hello", "abcabx", *(f"word{k}" for k in range(60)), *(f"<|{k}|>" for k in range(9))]
    hf_init.extend(source, tmp_path / "out", add_tokens=words[:63], special_tokens=words[63:])
    new = tensors(tmp_path / "out")["model.embed_tokens.weight"][ROWS:]
    assert new.dtype == dtype and len({row.numpy().tobytes() for row in new.view(torch.uint8)}) == len(words)


def test_input_rows_are_as_long_as_old_ones_and_output_rows_are_a_mixture_that_leads_with_the_first_piece(phi, results):
    before = tensors(phi)
    pieces = tokenizer().encode("abcab", add_special_tokens=False)
    assert len(pieces) == 2
    weights = torch.tensor([0.0, -1.0]).softmax(0)
    for table in ("lm_head.weight", "lm_head.bias"):
        want = (weights.reshape(-1, *[1] * (before[table].ndim - 1)) * before[table][pieces]).sum(0)
        torch.testing.assert_close(rows_of(results(UNTIED).out, table)[0], want)
    table = "model.embed_tokens.weight"
    row, mean = rows_of(results(UNTIED).out, table)[0], before[table][pieces].mean(0)
    assert torch.cosine_similarity(row, mean, dim=0) > 0.999
    torch.testing.assert_close(row.norm(), before[table].norm(dim=1).median())


def near_uniform(many):
    """Weights that lean to the first by 5 % a place."""
    return torch.tensor([-0.05 * k for k in range(many)]).softmax(0)


def test_a_tied_table_takes_a_convex_mean_and_its_bias_the_same_weights(bases, results):
    before = tensors(bases("bart with tokens"))
    pieces = tokenizer().encode("hello", add_special_tokens=False)
    lengths = torch.tensor([float(len(tokenizer().decode([piece]).strip())) for piece in pieces])
    weights = near_uniform(len(pieces)) * lengths
    for table, dim in (("model.shared.weight", 0), ("final_logits_bias", 1)):
        old = before[table].movedim(dim, 0)[pieces]
        torch.testing.assert_close(rows_of(results(ENCODED).out, table, dim)[1], weights / weights.sum() @ old)


def test_a_control_token_is_the_mean_row_and_a_described_one_the_mean_of_its_description(phi, results):
    before = tensors(phi)
    head = rows_of(results(UNTIED).out, "lm_head.weight")
    torch.testing.assert_close(head[2], before["lm_head.weight"].mean(0))
    pieces = tokenizer().encode("the tab", add_special_tokens=False)
    torch.testing.assert_close(head[3], near_uniform(len(pieces)) @ before["lm_head.weight"][pieces])
    row, mean = (
        rows_of(results(UNTIED).out, "model.embed_tokens.weight")[2],
        before["model.embed_tokens.weight"].mean(0),
    )
    distance = float((row - mean).norm())
    assert 0.02 < distance < 0.4 * float(before["model.embed_tokens.weight"].norm(dim=1).median())


def test_rows_depend_on_their_own_text_and_on_no_other_token(phi, results, tmp_path):
    hf_init.extend(phi, tmp_path / "out", add_tokens=WORDS[::-1], seed=3)
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    for table in PHI:
        first, second = tensors(results(UNTIED).out)[table], tensors(tmp_path / "out")[table]
        for text, id_ in NEW.items():
            assert equal_bytes(first[id_], second[after.convert_tokens_to_ids(text)]), (table, text)


@pytest.mark.parametrize(("name", "multiple"), [("phi", None), ("qwen", 8), ("bart", None)])
def test_two_extensions_in_a_row_are_one(bases, tmp_path, name, multiple):
    """The second mustn't take the first's rows for trained ones, nor split its tokens into the first's."""
    first, second = ["abcab", {"token": "<tool>", "special": True}], ["abcabx", {"token": "<|t|>", "special": True}]
    words: Any = {"seed": 5, "pad_to_multiple_of": multiple}
    hf_init.extend(bases(f"{name} with tokens"), tmp_path / "one", add_tokens=first + second + ["abcabxy"], **words)
    hf_init.extend(bases(f"{name} with tokens"), tmp_path / "a", add_tokens=first, **words)
    hf_init.extend(tmp_path / "a", tmp_path / "b", add_tokens=second, **words)
    shutil.rmtree(tmp_path / "a")
    hf_init.extend(tmp_path / "b", tmp_path / "c", add_tokens=["abcabxy"], **words)
    one, three = tensors(tmp_path / "one"), tensors(tmp_path / "c")
    assert all(equal_bytes(one[key], three[key]) for key in one)
    for path in (tmp_path / "one").iterdir():
        if path.name not in ("hf_init.json", "README.md", "BASE_README.md"):
            assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes(), path.name


def test_rows_that_were_trained_since_count_as_trained(phi, tmp_path):
    hf_init.extend(phi, tmp_path / "a", add_tokens=["abcab"])
    data = tensors(tmp_path / "a")
    for table in PHI:
        data[table][ROWS] += 1
    save_file(data, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    plan = hf_init.plan(tmp_path / "a", add_tokens=["abcabx"])
    (fill,) = plan["lm_head.weight"].new
    assert fill.scheme.pieces[0][0] == ROWS  # type: ignore[attr-defined]


def test_a_later_extension_may_drop_a_table_of_an_earlier_one(phi, tmp_path):
    hf_init.extend(phi, tmp_path / "a", add_tokens=["abcab"])
    hf_init.extend(tmp_path / "a", tmp_path / "b", "PhiModel", drop=["lm_head.*"], add_tokens=["hello"])
    notes = hf_init.plan(tmp_path / "b", add_tokens=["abcabx"]).notes
    assert any("2 rows of an earlier extension were never trained" in note for note in notes)


# Padding, shrinking, rows made again.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"add_tokens": ["hello"]}, "padding"),
        ({"add_tokens": ["hello"], "pad_to_multiple_of": 64}, f"{ROWS + 20} to 319 are no token's"),
        ({"allow_shrink": True, "pad_to_multiple_of": 2}, "of the base go"),
    ],
)
def test_rows_without_a_token_are_spoken_of(bases, options, said):
    assert any(said in note for note in hf_init.plan(bases("qwen with tokens"), **options).notes)


def test_nothing_shrinks_unasked(bases):
    assert hf_init.plan(bases("qwen with tokens"), pad_to_multiple_of=1).counts["resized"] == 0
