"""New tokens in running text, and the tokenizer's files: what the library reads from them, and which bytes stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from token_bases import tensors
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from trained_tokenizers import SPECIAL, TEXTS, byte_level, read, trained, word_piece
from transformers import AutoTokenizer

import hf_init
from hf_init import HfInitError

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def unigram(scheme: Any = "always", **parts: Any) -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    space = {
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme=scheme),
        "decoder": decoders.Metaspace(prepend_scheme=scheme),
    }
    return trained(models.Unigram(), trainer, **{**space, **parts})


def prepending() -> Tokenizer:
    """As the files of Llama 2 have it: the space is put in front by the normalizer."""
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    made = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    return trained(models.BPE(unk_token="<unk>"), trainer, normalizer=normalizers.Sequence(spaces), decoder=made)


KINDS = {
    "byte-level": byte_level,
    "byte-level, NFC": lambda: byte_level(normalizer=normalizers.NFC()),
    "byte-level, space in front": lambda: byte_level(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "WordPiece": word_piece,
    "WordPiece, cased": lambda: word_piece(lowercase=False),
    "Unigram": unigram,
    "Unigram, NFKC": lambda: unigram(normalizer=normalizers.NFKC()),
    "Unigram, first": lambda: unigram("first"),
    "Unigram, spaces split off": lambda: unigram(
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
    "space by the normalizer": prepending,
}


WORD, SPECIAL_TOKENS = ["photoelectron", " hepatocyte"], ["<|tool|>", "<e1>"]
TEXT = "we saw photoelectron emission, a hepatocyte <|tool|> and (photoelectron)"


@pytest.mark.parametrize("older", [False, True], ids=["as 5 writes it", "as 4 writes it"])
@pytest.mark.parametrize("kind", KINDS)
def test_extended_files_read_as_before_but_for_the_tokens_in_the_library_and_beside_it(based, tmp_path, kind, older):
    folder = based(KINDS[kind](), older)
    hf_init.extend(folder, tmp_path / "out", add_tokens=WORD, special_tokens=SPECIAL_TOKENS)
    before, after = (AutoTokenizer.from_pretrained(each) for each in (folder, tmp_path / "out"))
    backend, texts = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")), [*TEXTS, "x", " y  z "]
    assert [after(text).input_ids for text in texts] == [before(text).input_ids for text in texts]
    assert [backend.encode(text).ids for text in (*texts, TEXT)] == [after(text).input_ids for text in (*texts, TEXT)]
    ids = dict(zip([*WORD, *SPECIAL_TOKENS], range(len(before), len(before) + 4), strict=True))
    assert {text: after.convert_tokens_to_ids(text) for text in ids} == ids
    assert {ids["photoelectron"], ids[" hepatocyte"], ids["<|tool|>"]} <= {*after(TEXT).input_ids}
    assert {*SPECIAL_TOKENS} <= {*after.all_special_tokens} and not {*WORD} & {*after.all_special_tokens}
    mask = after.get_special_tokens_mask([ids["<|tool|>"], ids[" hepatocyte"]], already_has_special_tokens=True)
    assert mask == [1, 0]


@pytest.mark.parametrize("older", [False, True], ids=["as 5 writes it", "as 4 writes it"])
def test_what_is_not_a_new_token_s_keeps_its_bytes(based, tmp_path, older):
    folder = based(byte_level(post_processor=processors.ByteLevel()), older)
    backend = json.loads((folder / "tokenizer.json").read_text())
    backend["truncation"] = {"max_length": 32, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    backend["padding"] = {
        "strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(backend, indent=3))
    hf_init.extend(folder, tmp_path / "out", add_tokens=WORD, special_tokens=SPECIAL_TOKENS, eos_token="<e1>")
    for name in FILES:
        if not (folder / name).exists():
            assert not (tmp_path / "out" / name).exists()
            continue
        lines, others = ((each / name).read_text().splitlines() for each in (folder, tmp_path / "out"))
        stay = [line for line in lines if "eos_token" not in line and len(lines) > 1]
        rest = iter(line.rstrip(",") for line in others)
        assert all(line.rstrip(",") in rest for line in stay), name  # in their order
        old, new = (json.loads((each / name).read_text()) for each in (folder, tmp_path / "out"))
        assert old.keys() <= new.keys() and new.get("eos_token", "<e1>") == "<e1>"
        assert new.get("legacy", False) is False and new.get("truncation") == old.get("truncation")
    if older:
        settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
        assert len(settings["added_tokens_decoder"]) == 8 and settings["tokenizer_class"] == "PreTrainedTokenizerFast"


# In running text.


@pytest.mark.parametrize(
    ("kind", "spelled", "text"),
    [
        ("byte-level", "\u0120photoelectron", " photoelectron"),
        ("byte-level", "\u0120caf\u00c3\u00a9s", " caf\u00e9s"),
        ("Unigram", "\u2581photoelectron", " photoelectron"),
        ("space by the normalizer", "\u2581photoelectron", " photoelectron"),
    ],
)
def test_a_spelling_of_the_vocabulary_becomes_the_text_that_it_stands_for(based, kind, spelled, text):
    plan = hf_init.plan(based(KINDS[kind]()), add_tokens=[spelled])
    assert [note for note in plan.notes if f"{spelled!r} is {text!r} in a text" in note]
    assert plan.record["tokens"]["tokens"].keys() == {text}  # type: ignore[index, call-overload]


def test_the_inside_of_a_word_is_refused_with_what_works(based):
    with pytest.raises(HfInitError, match=r"'##photics' is how the vocabulary spells the inside.*give 'photics'"):
        hf_init.plan(based(word_piece()), add_tokens=["##photics"])


def test_tokens_that_no_text_comes_to_are_refused_with_the_spelling_that_works(based):
    folder = based(unigram(normalizer=normalizers.NFKC()))
    token = AddedToken("\ufb01ne", normalized=False)
    assert hf_init.plan(folder, add_tokens=[token]).counts["resized"] == 2
    with pytest.raises(HfInitError, match=r"never produce ' photoelectron' \('photoelectron' would be read\)"):
        hf_init.plan(based(word_piece()), add_tokens=[AddedToken(" photoelectron", single_word=True)])


def test_of_tokens_that_are_one_text_after_normalization_the_second_is_refused(based):
    with pytest.raises(HfInitError, match=r"never produce '[Pp]hoton' .*or reads another token there"):
        hf_init.plan(based(word_piece()), add_tokens=["Photon", "photon"])


def test_short_tokens_break_old_words_and_are_named_unless_they_are_whole_words(based):
    folder = based(word_piece())
    whole = hf_init.plan(folder, add_tokens=["he", "rry"], existing="skip")
    inside = hf_init.plan(folder, add_tokens=["rry"], single_word=False, existing="skip")
    assert not [note for note in whole.notes if "split otherwise" in note] and whole.claim == "exact to rounding"
    assert any("1 old token" in note and "ferry" in note for note in inside.notes) or inside.claim.startswith("none")
    record = inside.record["tokens"]["in_text"]  # type: ignore[index, call-overload]
    assert record["split_words"]["count"] >= 1 and "split otherwise" in inside.claim


@pytest.mark.parametrize(
    ("kind", "token", "said"),
    [
        ("byte-level", "photoelectron", "two pieces in running text"),
        ("byte-level", " photoelectron", "not read at the start of a text"),
        (
            "byte-level",
            "photoelectron",
            "inside longer words, too, which are read otherwise then: 'photoelectron'; not so",
        ),
        ("byte-level", " photoelectron", "which are read otherwise then: ' photoelectron'"),
        ("WordPiece", "ph\u00f4toelectron", "'photoelectron' as 'ph\u00f4toelectron'"),
        ("Unigram, NFKC", "photoelectron\uff21", "'photoelectronA' as"),
        ("Unigram, spaces split off", "photoelectron", "comes back as 'xphotoelectron y'; with its space"),
        ("space by the normalizer", " photoelectron", "comes back as 'x photoelectron  y'"),
    ],
)
def test_what_a_token_costs_in_a_text_is_said(based, kind, token, said):
    notes = hf_init.plan(based(KINDS[kind]()), add_tokens=[token]).notes
    assert [note for note in notes if said in note and "photoelectron" in note], notes


def test_tokens_of_a_file_have_flags_and_objects_of_the_library_are_taken(based, tmp_path):
    folder = based(byte_level())
    (tmp_path / "t.TSV").write_text("token\tspecial\tsingle_word\n<t>\ttrue\t\nphoton\t\ttrue\n")
    hf_init.extend(
        folder, tmp_path / "out", add_tokens=[AddedToken("qq", lstrip=True)], add_tokens_file=tmp_path / "t.TSV"
    )
    added = {
        str(token): token for token in AutoTokenizer.from_pretrained(tmp_path / "out").added_tokens_decoder.values()
    }
    assert added["qq"].lstrip and added["photon"].single_word and added["<t>"].special and not added["qq"].single_word


@pytest.mark.parametrize(
    ("options", "config", "said"),
    [
        ({"eos_token": "<end>"}, {}, "'</s>', the eos_token so far, is still put around texts"),
        ({"chat_template": "{{ '<|im_start|>' }}<s>"}, {}, "the chat template has '<|im_start|>', no tokens"),
        ({"add_tokens": ["photon\t12"]}, {}, "with tabs, or spaces at the end"),
        ({"add_tokens": [" photon"]}, {"stop_token_ids": [3, "end"]}, "stop_token_ids END: the id was no token's"),
        ({"add_tokens": [" photon"]}, {"blank_token_id": "end"}, None),
        ({"pad_token": "<new>"}, {"pad_token_id": "end"}, "ids in the configs: pad_token_id END"),
    ],
    ids=str,
)
def test_what_else_has_to_do_with_a_new_token_is_named(based, options, config, said):
    around = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = based(byte_level(post_processor=around), rows=510 if said is None else 0)
    end = len(AutoTokenizer.from_pretrained(folder))
    text = json.dumps({**read(folder, "config.json"), **config}).replace('"end"', str(end))
    (folder / "config.json").write_text(text)
    if said is None:
        with pytest.raises(HfInitError, match=f"blank_token_id {end}: a row that no token of the tokenizer has"):
            hf_init.plan(folder, **options)
    else:
        notes = hf_init.plan(folder, **options).notes
        assert [note for note in notes if said.replace("END", str(end)) in note], notes


# Rows.


def test_unknown_characters_start_at_the_mean_row_or_by_the_scheme_given(based):
    folder = based(word_piece())
    assert any("mean row" in note for note in hf_init.plan(folder, add_tokens=["\U0001f9ff"]).notes)
    plan = hf_init.plan(folder, add_tokens=["\U0001f9ff"], row_scheme={"copy": {"token": "the"}})
    assert "copy" in str(plan["lm_head.weight"].new[0].scheme)


@pytest.mark.parametrize(
    "options",
    [{"add_tokens": ["x y"]}, {"tokenizer": "base"}, {"pad_to_multiple_of": 64}, {"reinit_rows": [5]}],
    ids=lambda options: next(iter(options)),
)
def test_a_tokenizer_larger_than_the_model_gets_the_rows_that_it_lacks(based, options):
    folder = based(byte_level())
    larger = AutoTokenizer.from_pretrained(folder)
    rows = len(larger)
    larger.add_tokens(["<tool>", "<end>"], special_tokens=True)
    larger.save_pretrained(folder)
    options = {key: str(folder) if value == "base" else value for key, value in options.items()}
    plan = hf_init.plan(folder, **options)
    assert plan["lm_head.weight"].shape[0] >= rows + 2
    assert {rows, rows + 1} <= {row for fill in plan["lm_head.weight"].new for row in fill.region.index}


def test_rows_without_a_token_stay_as_they_are_under_another_tokenizer(based, tmp_path):
    folder = based(byte_level(), rows=540)
    other = AutoTokenizer.from_pretrained(folder)
    rows = len(other)
    other.add_tokens(["<think>", "</think>"], special_tokens=True)
    hf_init.extend(folder, tmp_path / "a", special_tokens=["<think>", "</think>"])
    hf_init.extend(folder, tmp_path / "b", tokenizer=other)
    for name, old in tensors(folder).items():
        if old.shape[0] == 540:
            one, two = (tensors(tmp_path / each)[name] for each in "ab")
            assert torch.equal(one, two)
            assert [row for row in range(540) if not torch.equal(old[row], one[row])] == [rows, rows + 1]


def test_a_token_in_reserve_gets_another_text_and_keeps_its_row(based, tmp_path):
    made = byte_level()
    made.add_special_tokens(["<|reserved_0|>", "<|reserved_1|>"])
    folder = based(made, older=True)
    hf_init.extend(folder, tmp_path / "out", rename_tokens={"<|reserved_0|>": "<|tool|>"})
    before, after = (AutoTokenizer.from_pretrained(each) for each in (folder, tmp_path / "out"))
    assert after.convert_tokens_to_ids("<|tool|>") == before.convert_tokens_to_ids("<|reserved_0|>")
    assert after.convert_tokens_to_ids("<|tool|>") in after("a <|tool|>b").input_ids
    assert before("<|reserved_1|> by noon").input_ids == after("<|reserved_1|> by noon").input_ids
    for name, old in tensors(folder).items():
        assert torch.equal(old, tensors(tmp_path / "out")[name])
    plan = hf_init.plan(folder, tokenizer=str(tmp_path / "out"))
    assert any("(rename_tokens keeps them): '<|reserved_0|>' is '<|tool|>'" in note for note in plan.notes)
    for old, said in (("nothing", "no token of the tokenizer"), ("\u0120the", "put together from pieces")):
        with pytest.raises(HfInitError, match=f"rename_tokens: {old!r}: {said}"):
            hf_init.plan(folder, rename_tokens={old: "x y"})
    folder = based(word_piece())
    hf_init.extend(folder, tmp_path / "words", rename_tokens={"the": "photoelectron"})
    after = AutoTokenizer.from_pretrained(tmp_path / "words")
    assert AutoTokenizer.from_pretrained(folder)("the").input_ids == after("photoelectron").input_ids
