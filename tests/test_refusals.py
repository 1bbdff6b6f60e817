"""What is refused, as a table: a base, what is asked of it, and what the one message says, whoever is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from bases import SENTIMENTS, Anchored, Renamed, Tagger, Tolerant, llava_config
from changes import NEW_SENTIMENTS
from refusals import snapshot
from token_bases import ROWS

import hf_init
from hf_init import HfInitError, Recipe, Rule

SEQUENCES, TOPIC = "BertForSequenceClassification", {"kind": "sequence-classification", "labels": ["a", "b"]}
BERT = transformers.BertConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
TIED = r"lm_head\.weight is tied to model\.embed_tokens\.weight, one tensor under two names\. Say it of the first name"
PHI, HEADS = "phi with tokens", "several heads"
SIMILAR, FOUR = {"add_heads": {"x": "similarity"}}, {"num_labels": 4}
DISTILLED = {"add_tokens": ["hello"], "texts": ["a hello"]}
TWO_OF_ROWS = ([[0, 2], [0, 32]], [[0, 2], [0, 32]])


class Unfinished(transformers.LlamaPreTrainedModel):
    """A class that leaves out the end of its constructor."""

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        self.score = torch.nn.Linear(config.hidden_size, 3)


def rule(scheme: str = "normal(std=0.02)", **conditions: Any) -> dict[str, Any]:
    return {"recipe": Recipe([Rule(scheme, **conditions)])}


def kept(how: Any) -> dict[str, Any]:
    return {**FOUR, "keep": {"classifier.weight": how, "classifier.bias": "leading"}}


def of_each(base: str, message: str, option: str, values: list[Any]) -> list[tuple[Any, ...]]:
    return [(base, None, {option: value}, message) for value in values]


LABELS: list[tuple[Any, ...]] = [
    ("sentiment", None, {"labels": ["cat", "dog"]}, r"labels \['neg', 'neu', 'pos'\], and none of \['cat'"),
    ("sentiment", None, {"labels": ["Neg", "x"]}, r"'Neg' \(did you mean 'neg'\?\)"),
    ("sentiment", None, {"num_labels": 5}, "only one side names them.*labels_keep='leading'"),
    ("numbered", None, {"num_labels": 4}, r"classifier\.weight.*neither side names them.*labels_keep='leading'"),
    ("numbered", None, {"labels": SENTIMENTS}, r"classifier\.weight.*only one side names them"),
    ("labels of one name", Tagger, {"labels": ["dog", "N/A"]}, "has more than one label named 'N/A'"),
    ("labels of one name", Tagger, {"rename_labels": {"N/A": "x"}}, "'N/A' is the name of 2 labels"),
    ("anchored", Anchored, {"labels": ["car", "cat"]}, r"anchors.weight: 6x8 has not one slice for each of 2 labels"),
    ("sentiment", None, {"labels_keep": "all"}, "labels_keep: expected one of names, leading, none, not 'all'"),
    ("sentiment", None, {"rename_labels": {"ng": "x"}}, r"no label 'ng' \(did you mean 'neg'\?\); its labels: \['neg'"),
    ("sentiment", None, {"rename_labels": {"neg": "x", "pos": "x"}}, "2 labels would be named 'x'"),
    ("sentiment", None, {"rename_labels": {"neg": "pos"}}, "2 labels would be named 'pos'"),
    ("sentiment", None, {"rename_labels": {"neg": " "}}, "'neg' -> ' ': expected a name"),
    ("sentiment", None, {"rename_labels": {"neg": "x"}, "labels": ["pos"]}, "'x' is none of the requested labels"),
    ("sentiment", None, {"rename_labels": ["neg"]}, "rename_labels: expected"),
    ("bert", SEQUENCES, {"rename_labels": {"LABEL_0": "x"}}, "no trained row for any label of this head"),
    ("sentiment", None, {"labels": ["a", "a"]}, "labels: named twice: a"),
    ("sentiment", None, {"labels": ["neg"], "entities": ["PER"]}, "labels and entities: give one"),
    ("sentiment", "BertModel", {"labels": ["a"]}, "BertModel has no tensor with a row for each label"),
    ("bert", None, {"num_labels": 3}, "BertModel has no.*is meant: architecture='BertForSequenceClassification' or"),
    ("sentiment", "BertForMaskedLM", {"labels": ["a"]}, "cls.predictions.*has a row for each token instead"),
    ("ctc", None, {"labels": ["a", "b"]}, r"lm_head\.weight has a row for each token instead.*tokenizer=DIR"),
    ("choice", SEQUENCES, {"labels": ["b", "c"], "labels_keep": "leading"}, "kind, that of BertForMultipleChoice"),
    *of_each("tags", "entities", "entities", ["PER", [], [""], [1], ["PER", "PER"], ["B-PER"], ["O"]]),
    ("sentiment", None, {"labels": SENTIMENTS, "label_counts": [1, 2, 3]}, "no label is new, and trained biases stay"),
    ("sentiment", None, {"labels": NEW_SENTIMENTS, "label_counts": [1, 2, 3]}, "3 numbers for 5 labels"),
    ("sentiment", None, {"labels": ["neg", "x"], "label_counts": [1, 0]}, "no example of 'x'"),
    ("sentiment", None, {"labels": ["neg", "x"], "label_counts": {"neg": 1}}, r"\['x'\] have no number"),
    ("sentiment", None, {"labels": ["neg", "xy"], "label_counts": {"neg": 1, "xyy": 2}}, "'xyy' .did you mean 'xy'"),
    *((
        "sentiment", None, {"labels": ["neg", "x"], "label_counts": counts}, "label_counts: expected",
    ) for counts in ("12", 3, [], [True, 1], [math.nan, 1], [math.inf, 1], ["1", 1], [-1, 1], {"neg": None, "x": 1})),
    ("sentiment", None, {"labels": ["neg", "x"], "target_mean": 1.0}, "target_mean: the head doesn't regress"),
    ("bert", SEQUENCES, {"num_labels": 1, "label_counts": [1]}, "the head regresses.*say target_mean"),
    (
        "sentiment", None,
        {"labels": ["neg", "x"], "label_counts": [1, 9], "config": {"problem_type": "multi_label_classification"}},
        "give the share of the examples",
    ),
    (
        "sentiment", None, {"labels": ["neg", "x"], "label_counts": [1, 9], **rule("ones", name="classifier.bias")},
        "rule 1.*gives it ones, so label_counts or target_mean would have no effect",
    ),
    (
        "llama", "LlamaForSequenceClassification", {"labels": SENTIMENTS, "label_counts": [1, 2, 3]},
        "the head of LlamaForSequenceClassification has no bias",
    ),
    (
        "yolos", None, {"labels": ["a", "b"], "labels_keep": "none", "label_counts": [3, 1]},
        "a row for no object after those of the labels",
    ),
    (
        "roberta", "RobertaForSequenceClassification", {"recipe": {"default": "zeros"}},
        r"classifier\.dense\.weight and classifier\.out_proj\.weight are both closed",
    ),
    (
        "masked", SEQUENCES,
        {"recipe": Recipe([Rule("zeros", name=f"*{n}.*") for n in ("pooler.dense", "classifier")])},
        r"bert\.pooler\.dense\.weight and classifier\.weight are both closed",
    ),
]  # fmt: skip
SHAPES: list[tuple[Any, ...]] = [
    ("bert", SEQUENCES, {"config": {"max_position_embeddings": 96}}, r"64x32 in the checkpoint, 96x32 asked for"),
    (
        "bert", SEQUENCES,
        {"config": {"max_position_embeddings": 32}, "keep": {"*position_embeddings.weight": "leading"}},
        "would lose elements of 64x32 in 32x32",
    ),
    ("sentiment", None, kept([0, 1]), "the map has 2 rows, the target 4"),
    ("sentiment", None, kept([0, 1, 2, 5]), r"reads rows \[5\], the source has rows 0 to 2"),
    ("sentiment", None, kept([0, 1, None, None]), "source rows 2 would have no place: place them, or say drop"),
    ("sentiment", None, kept({"index": [0, 1, 2, None], "dim": 1}), "don't fit into 4x32"),
    ("sentiment", None, kept({"boxes": [([[0, 3], [0, 32]], [[0, 2], [0, 32]])]}), "2x32 doesn't fit into one of 3x32"),
    ("sentiment", None, kept({"boxes": [([[0, 5], [0, 32]],) * 2]}), r"\[0:5, 0:32\] lies outside the target, 4x32"),
    ("sentiment", None, kept({"boxes": [TWO_OF_ROWS]}), "32 source elements would have no place"),
    ("sentiment", None, kept({"boxes": [TWO_OF_ROWS, ([[1, 3], [0, 32]],) * 2]}), "boxes of the target overlap"),
    *((
        "sentiment", None, kept(how), "unknown correspondence"
    ) for how in ("tail", [0, -1, 2, None], [0, True, 2, None], {"rows": [0]}, 7)),
]  # fmt: skip
PARTS: list[tuple[Any, ...]] = [
    ("llama trunk", "LlamaForCausalLM", rule(name="lm_head.weight"), r"^rule 1 \(name='lm_head\.weight'\): " + TIED),
    (
        "llama trunk", "LlamaForCausalLM",
        {"recipe": Recipe([Rule("zeros", name=n) for n in ("lm_*", "lm_head.weight")])},
        r"rule 1 \(name='lm_\*'\): .*rule 2 \(name='lm_head\.weight'\): ",
    ),
    ("llama trunk", "LlamaForCausalLM", {"keep": {"lm_head.weight": "none"}}, r"^keep 'lm_head\.weight': " + TIED),
    ("llama trunk", Unfinished, {}, r"^Unfinished doesn't end its __init__ with self\.post_init\(\).*; add it$"),
    ("llama trunk", "BertForMaskedLM", {}, "a class for model_type 'bert', and the checkpoint is 'llama'"),
    ("llama trunk", "LlamaForCausalLM", {"config": BERT}, "LlamaForCausalLM is a class for model_type 'llama'"),
    ("llama trunk", None, {"config": BERT}, "LlamaModel is a class for model_type 'llama'"),
    ("llama trunk", "BertForMaskedLM", {"config": BERT}, "nothing of .* has a place in BertForMaskedLM .*different"),
    ("llama trunk", "LlamaForCausalLM", {"config": {"model_type": "bert"}}, "model_type: 'bert' can't be made of"),
    ("llama trunk", "AutoModelForObjectDetection", {}, "has no class for model_type 'llama'; these fit: "),
]  # fmt: skip
MISSING: list[tuple[Any, ...]] = [
    *((
        "misnamed head", target, {"recipe": recipe},
        r"holds 2 tensors that have no place.*head.out.bias -> classifier.bias, head.out.weight -> classifier.weight\. "
        r"If they are the same.*key_mapping=\{'\^head\\\\\.out\\\\\.': 'classifier\.'\}.*drop=\['head\.\*'\]$",
    ) for recipe in (None, "auto", {"default": "zeros"}) for target in (None, "AutoModelForSequenceClassification")),
    ("no head", None, {}, r"lacks 2 of its tensors.*Nothing in the checkpoint is left over"),
    ("no pooler's bias", None, {}, r"lacks 1 of its tensors, which would start anew: bert\.pooler\.dense\.bias"),
    ("no classifier's bias and no pooler", Tolerant, {}, "lacks 2 of its tensors"),
    *((
        "sentiment", Renamed, labels, r"classifier\.weight -> scores\.weight.*key_mapping.*drop=\['classifier\.\*'\]",
    ) for labels in ({}, {"labels": ["neg", "pos"]})),
    *((
        f"misnamed head of {whose}", SEQUENCES, {}, r"head\.out\.weight -> classifier\.weight",
    ) for whose in ("a trunk", "nobody", "somebody")),
    ("bert", SEQUENCES, {"allow_new": ["classifier.weight"]}, r"1 tensors would be new.*classifier\.bias$"),
    ("bert", SEQUENCES, {"allow_new": ["clasifier.*"]}, r"doesn't name them.*nothing new is named by 'clasifier\.\*'"),
    ("bert", SEQUENCES, {"allow_new": []}, "2 tensors would be new"),
    ("bert", SEQUENCES, {"allow_new": [], **rule("zeros", name="classifier.*")}, "allow_new"),
    ("bert", SEQUENCES, rule("zeros", name="clasifier.*"), "matches no tensor"),
    (
        "sentiment", None, {"labels": [*SENTIMENTS, "x"], "allow_new": ["bert.*"]},
        r"wholly or in part.*classifier\.bias, classifier\.weight",
    ),
    *of_each("sentiment", "allow_new: expected a list of globs", "allow_new", [3, [1], [""], {"a": 1}, [None]]),
]  # fmt: skip
SEVERAL: list[tuple[Any, ...]] = [
    (HEADS, None, {"add_heads": {"topic": "similarity"}}, "two heads of one name: topic"),
    (HEADS, None, {"add_heads": {"my head": "similarity"}}, "must be an identifier"),
    (HEADS, None, {"add_heads": {"keys": "similarity"}}, "one that a module has"),
    (HEADS, None, {"add_heads": {"x": "ranking"}}, "'ranking' is no kind of head"),
    (HEADS, None, {"remove_heads": ["topic", "entities", "meaning"]}, "no head would be left"),
    (HEADS, None, {"remove_heads": ["nope"]}, "no head 'nope'; its heads: entities, meaning, topic"),
    (HEADS, None, {"rename_heads": {"nope": "x"}}, "rename_heads: no head 'nope'"),
    (HEADS, None, {"rename_heads": {"topic": "x"}, "remove_heads": ["topic"]}, "both removed and renamed"),
    (HEADS, None, {"export_head": "meaning"}, "transformers has no class for a similarity head on BertConfig"),
    (HEADS, None, {"export_head": "nope"}, "has no head 'nope'"),
    (HEADS, None, {"export_head": "topic", **SIMILAR}, "so add has no meaning"),
    (HEADS, None, {"name_head": "x"}, "have names; change one with rename_heads"),
    (HEADS, "BertModel", SIMILAR, "is MultiHead, not "),
    (HEADS, None, {**SIMILAR, "labels": ["a", "b"]}, "labels: say it of each head"),
    (HEADS, None, {**SIMILAR, "config": {"hiden_size": 3}}, "BertConfig takes no 'hiden_size'"),
    (
        HEADS, None,
        {"add_heads": {"x": {"kind": "regression", "recipe": {"rules": [{"name": "no.*", "scheme": "zeros"}]}}}},
        r"name='heads.x.no.\*'\) matches no tensor",
    ),
    (HEADS, None, {"add_heads": ["topic"]}, "add_heads: expected {NAME: KIND"),
    ("bert", None, {"name_head": "x", **SIMILAR}, "has no head to name"),
    ("two towers of one model", None, SIMILAR, "CLIPModel gives no last_hidden_state"),
]  # fmt: skip
TOKENS: list[tuple[Any, ...]] = [
    (PHI, None, {"add_tokens": "hello"}, r"add_tokens: expected a list of tokens.*not 'hello'"),
    (PHI, None, {"add_tokens": [7]}, r"add_tokens: expected texts, or mappings.*not 7"),
    (
        PHI, None, {"add_tokens": [{"token": "x1", "descriptoin": "y"}]},
        r"expected texts, or mappings with token, description",
    ),
    (PHI, None, {"add_tokens": ["hello", ""]}, "token 2 is empty"),
    (PHI, None, {"add_tokens": ["hello", "x1"], "special_tokens": ["x1"]}, "named twice: 'x1'"),
    (
        PHI, None, {"add_tokens": ["abc", "<s>"]},
        r"'abc' \(id \d+\), '<s>' \(id 0\): one token of the tokenizer already",
    ),
    (PHI, None, {"add_tokens": [" the"]}, r"' the' \(id \d+\): one token of the tokenizer already"),
    (PHI, None, {"add_tokens": [{"token": "x1", "description": " "}]}, "an empty description for 'x1'"),
    (PHI, None, {"pad_to_multiple_of": 10**10}, "more than 100000000 of one size are asked for: lm_head.bias"),
    (PHI, None, {"add_tokens": ["a\udcff"]}, r"add_tokens: 'a\\udcff': not Unicode"),
    (PHI, None, {"pad_token": "\ud800"}, "pad_token: expected the text of a token, not"),
    (PHI, None, {"pad_to_multiple_of": 0}, "pad_to_multiple_of: expected a whole number of at least 1, not 0"),
    (PHI, None, {"pad_to_multiple_of": True}, "pad_to_multiple_of: expected a whole number"),
    (PHI, None, {"allow_shrink": 1}, "allow_shrink: expected True or False, not 1"),
    (PHI, None, {"reinit_rows": [ROWS + 3]}, rf"{ROWS + 3}: the base has rows 0 to {ROWS - 1}"),
    (PHI, None, {"reinit_rows": [3, 3]}, "reinit_rows: expected a list of token ids, none twice"),
    (PHI, None, {"reinit_rows": [True]}, "reinit_rows: expected a list of token ids"),
    (PHI, None, {"guarantee": "best", "add_tokens": ["hello"]}, "one of distribution, greedy, learning"),
    (PHI, None, {"guarantee": "greedy"}, "guarantee: no row is new"),
    (PHI, None, {"existing": "keep", "add_tokens": ["hello"]}, "existing: expected 'error' or 'skip'"),
    (PHI, None, {"tokenizer": "nowhere/at/all"}, "has no tokenizer"),
    (PHI, None, {"add_tokens": ["hello"], "row_scheme": "description"}, "'hello' has no description"),
    (PHI, None, {"add_tokens": ["hello"], "row_scheme": {"copy": {"token": "zzz"}}}, "'zzz' isn't one token"),
    (PHI, None, {"add_tokens": ["hello"], "row_scheme": "subtoken"}, "unknown scheme 'subtoken'"),
    ("llama with tokens", None, {"add_tokens": ["hello"], "output_rows": "mean"}, "vocabulary's tables are tied here"),
    (PHI, None, {"add_tokens": ["hello"], "row_scheme": "distilled"}, r"distilled: rows.*give some \(texts=FILE\)"),
    (PHI, None, {"add_tokens": ["hello"], "texts": []}, "texts: there is nothing to read"),
    (PHI, None, {"add_tokens": ["hello"], "texts": ["a", 7]}, "texts: expected the name of a file.*not int"),
    (PHI, None, {"add_tokens": ["hello"], "texts": "nowhere.txt"}, "nowhere.txt: texts can't be read from it"),
    (PHI, None, {"texts": ["hello"]}, "texts: no row is new"),
    (PHI, None, {**DISTILLED, "row_scheme": "mean"}, "texts: the scheme of row_scheme reads none"),
    (PHI, None, {"add_tokens": ["hello"], "input_rows": "distilled(written=2)", "output_rows": "distilled"},
     r"output_rows: .* are solved from texts; give some \(texts=FILE\)"),
    ("gemma3n with tokens", None, DISTILLED, "here several are read: model.embed_tokens"),
    ("t5 with tokens", None, DISTILLED, "T5ForConditionalGeneration reads two at a time; leave out texts"),
    ("vit", None, {"add_tokens": ["hello"]}, "a vit has no vocabulary"),
    ("bert", None, {"add_tokens": ["hello"]}, "has no tokenizer"),
]  # fmt: skip
TOWERS: list[tuple[Any, ...]] = [
    (
        {"vision_tower.": "clip", "language_model.": "llama untied", "model.language_model.": "llama trunk"},
        "LlavaForConditionalGeneration", {"config": llava_config()},
        r"claimed by two checkpoints.*language_model.* of .*llama-trunk",
    ),
]  # fmt: skip
REFUSED = [*LABELS, *SHAPES, *PARTS, *MISSING, *SEVERAL, *TOKENS, *TOWERS]


@pytest.mark.parametrize(("base", "target", "options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_every_verb_refuses_it_in_the_same_words_and_writes_nothing(bases, tmp_path, base, target, options, message):
    several = isinstance(base, Mapping)
    folder = {prefix: bases(name) for prefix, name in base.items()} if several else bases(base)
    before = {} if several else snapshot(folder)
    with pytest.raises(HfInitError, match=f"(?s){message}") as planned:
        hf_init.plan(folder, target, **options)
    with pytest.raises(HfInitError) as written:
        hf_init.extend(folder, tmp_path / "out", target, **options)
    assert str(written.value) == str(planned.value)
    if target is not None:
        cls = getattr(transformers, target) if isinstance(target, str) else target
        with pytest.raises(HfInitError, match=f"(?s){message}"):
            hf_init.from_pretrained(cls, folder, **options)
    assert not list(tmp_path.iterdir()) and (several or snapshot(folder) == before)
