"""Under new tokens: how a tokenizer splits and spells, and how its JSON is edited so that the other bytes stay."""

from __future__ import annotations

import json

import pytest
import transformers
from token_bases import tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from hf_init._vocabulary.json_text import add_items, replace_strings, set_values
from hf_init._vocabulary.tokenizer import TokenSplitter, ids_by_text, is_word_piece, text_of


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda text: set_values(text, {"b": {"c": [1]}}), {"a": "\u00e9", "l": [1], "b": {"c": [1]}}),
        (lambda text: set_values(text, {"a": None}), {"a": None, "l": [1]}),
        (lambda text: add_items(text, "l", ["x", {"y": 2}]), {"a": "\u00e9", "l": [1, "x", {"y": 2}]}),
        (lambda text: add_items(text, "new", {"k": "v"}), {"a": "\u00e9", "l": [1], "new": {"k": "v"}}),
        (lambda text: replace_strings(text, {"\u00e9": "e", "l": "m"}), {"a": "e", "m": [1]}),
    ],
)
@pytest.mark.parametrize("how", [{}, {"indent": 2}, {"indent": 1, "ensure_ascii": False}, {"separators": (",", ":")}])
def test_json_is_edited_in_its_own_style(edit, expected, how):
    text = json.dumps({"a": "\u00e9", "l": [1]}, **how)
    assert edit(text) == json.dumps(expected, **how) and edit(text + "\n") == json.dumps(expected, **how) + "\n"


def metaspace(words):
    """A tokenizer as SentencePiece makes them: a space before every text, words by their characters or whole."""
    vocabulary = {"<unk>": 0, **{text: id_ + 1 for id_, text in enumerate(words)}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_the_space_that_sentencepiece_adds_is_no_piece_of_a_token_and_a_token_s_own_is():
    splitter = TokenSplitter(metaspace(["\u2581", "a", "b"]))
    assert splitter.spellings(splitter.pieces("ab")) == ["a", "b"]
    assert splitter.spellings(splitter.pieces(" ab"))[0] == "\u2581"
    assert splitter.pieces("zz") == () and splitter.spellings(splitter.pieces("azb")) == ["a", "b"]
    assert splitter.id_of("a") == 2 and splitter.id_of("ab") is None
    assert [text_of(metaspace(["\u2581a"]), "\u2581a"), text_of(tokenizer(), "\u0120the")] == [" a", " the"]
    assert text_of(tokenizer(), "\u00c3") == ""  # a byte that is no character
    assert text_of(tokenizer(("##",)), "##") == "##"  # which marks the inside of a word for WordPiece alone


def test_tokens_of_unlike_tokenizers_come_together_by_their_texts(minilm):
    pieces = AutoTokenizer.from_pretrained(minilm)
    words, bytes_, spaces = (
        ids_by_text(one) for one in (pieces, tokenizer(), metaspace(["\u2581the", "ab", "\u2581"]))
    )
    the = [made[" the"] for made in (words, bytes_, spaces)]
    assert the == [pieces.convert_tokens_to_ids("the"), tokenizer().convert_tokens_to_ids("\u0120the"), 1]
    assert words["ab"] == pieces.convert_tokens_to_ids("##ab") and words[" ab"] == pieces.convert_tokens_to_ids("ab")
    assert bytes_["ab"] == tokenizer().convert_tokens_to_ids("ab") and spaces["ab"] == 2 and " ab" not in bytes_
    assert (
        words["[CLS]"] == 101 and bytes_["<s>"] == 0 and bytes_["\u00c3"] == tokenizer().convert_tokens_to_ids("\u00c3")
    )
    assert [is_word_piece(one) for one in (pieces, tokenizer(), transformers.ByT5Tokenizer())] == [True, False, False]
