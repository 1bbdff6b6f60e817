"""New tokens in running text, and the tokenizer's files: what the library reads from them, and which bytes stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from token_bases import tensors
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

import hf_init
from hf_init import HfInitError

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEXTS = (
    "A letter came in the morning. The postman had walked up the hill with it, past the mill and the two white houses, "
    "and he waited at the gate while she read: her brother would be home before the snow, with money and a horse.",
    "Iron rusts faster near the sea, because salt in the water lets the current flow. Paint keeps the air away; zinc "
    "goes further and rusts in the place of the iron, so that even a scratch does no harm for years.",
    "A vexed judge packs six quick boxes for the lazy fox: x, y, z and x y again, or y z by a mix of the two.",
    "def counted(words):\n    # each word, and how often it is there\n    found = {}\n    for word in words:\n"
    "        found[word] = found.get(word, 0) + 1\n    return sorted(found.items())\n",
)
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]
ROLES: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def trained(model: Any, trainer: Any, **parts: Any) -> Tokenizer:
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(TEXTS, trainer)
    return made


def byte_level(**parts: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    given = {
        "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "decoder": decoders.ByteLevel(),
        **parts,
    }
    return trained(models.BPE(), trainer, **given)


def word_piece(lowercase: bool = True) -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    parts: dict[str, Any] = {
        "normalizer": normalizers.BertNormalizer(lowercase=lowercase),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
        "decoder": decoders.WordPiece(),
    }
    return trained(models.WordPiece(unk_token="<unk>"), trainer, **parts)


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


@pytest.fixture
def based(tmp_path):
    """A tiny Llama for a tokenizer, whose files are as version 5 of the library writes them, or as version 4."""

    def make(made: Tokenizer, older: bool = False, rows: int = 0, **options: Any) -> Path:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **ROLES)
        config = transformers.LlamaConfig(
            vocab_size=rows or len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=16, max_position_embeddings=64,
            **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **options},
        )  # fmt: skip
        folder = tmp_path / "base"
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if older:
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            settings["added_tokens_decoder"] = {
                str(id_): token.__getstate__() for id_, token in tokenizer.added_tokens_decoder.items()
            }
            settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "legacy": False}
            (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=4, ensure_ascii=False))
            (folder / "special_tokens_map.json").write_text(json.dumps({**ROLES, "additional_special_tokens": ["<s>"]}))
            (folder / "added_tokens.json").write_text('{"<s>": 0}')
        return folder

    return make


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


# Architectures that take an id for more than a token.

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {**TOWER, "image_size": 28, "patch_size": 14}


def saved(tmp_path: Path, model: Any, tokenizer: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def end_last():
    """A tokenizer whose end token is the last of all."""
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **ROLES)
    made.add_special_tokens({"eos_token": "<end>"})
    return made


def test_an_output_matrix_in_halves_gets_rows_that_never_win(tmp_path):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=word_piece(), **ROLES)
    config = transformers.MobileBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, embedding_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, intra_bottleneck_size=16, true_hidden_size=16, num_feedforward_networks=1,
    )  # fmt: skip
    folder = saved(tmp_path, transformers.MobileBertForMaskedLM(config), tokenizer)
    hf_init.extend(folder, tmp_path / "out", add_tokens=[f"photo{letter}el" for letter in "aeiou"])
    schemes = {str(fill.scheme) for tensor in hf_init.Plan.load(tmp_path / "out").tensors for fill in tensor.new}
    assert schemes == {"subtokens(weights=characters_first, alpha=0.05)"}
    ids = torch.randint(4, len(tokenizer), (8, 32), generator=torch.Generator().manual_seed(0))
    models = [transformers.AutoModelForMaskedLM.from_pretrained(each).eval() for each in (folder, tmp_path / "out")]
    with torch.no_grad():
        before, after = (model(ids).logits for model in models)
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_a_text_ends_where_it_did_where_the_highest_id_is_its_end(tmp_path, end_last):
    text = {**TOWER, "vocab_size": len(end_last), "max_position_embeddings": 32, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=PICTURES, projection_dim=16)
    folder = saved(tmp_path, transformers.CLIPModel(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<sks>"])
    end, features = end_last.eos_token_id, []
    assert read(tmp_path / "out", "config.json")["text_config"]["eos_token_id"] == end
    for each, ids in (
        (folder, [7, 9, end, 2, 2]),
        (tmp_path / "out", [7, 9, end, 2, 2]),
        (tmp_path / "out", [7, end + 1, 9, end]),
    ):
        model = transformers.CLIPModel.from_pretrained(each).eval()
        with torch.no_grad():
            features.append(model.text_model(torch.tensor([ids])))
    assert torch.equal(features[0].pooler_output, features[1].pooler_output)
    assert torch.equal(features[2].pooler_output[0], features[2].last_hidden_state[0, 3])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"add_tokens": ["concord"]}, ["concord"]),
        ({"special_tokens": ["<|vmf|>"]}, ["<|vmf|>"]),
        ({"special_tokens": ["<|0.04|>"]}, []),
        ({"rename_tokens": {"<|startoflm|>": "<|vmf|>"}}, []),
    ],
    ids=str,
)
def test_tokens_that_whisper_takes_for_times_are_named(tmp_path, end_last, options, named):
    control = ["<|startoflm|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"]
    end_last.add_special_tokens({"additional_special_tokens": control})
    size = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
            {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()}  # fmt: skip
    config = transformers.WhisperConfig(
        vocab_size=len(end_last), d_model=16, max_source_positions=16, pad_token_id=2, **size
    )
    plan = hf_init.plan(saved(tmp_path, transformers.WhisperForConditionalGeneration(config), end_last), **options)
    said = [note for note in plan.notes if "where Whisper has its times" in note]
    assert [text in note for text, note in zip(named, said, strict=True)] == [True] * len(named)


def test_rows_behind_the_vocabulary_stay_the_tokens_that_have_their_ids(tmp_path, end_last):
    rows = len(end_last)
    end_last.add_special_tokens({"extra_special_tokens": ["<|image|>"]})
    text = {**TOWER, "vocab_size": rows, "num_key_value_heads": 1, "cross_attention_layers": [], "pad_token_id": 2}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "supported_aspect_ratios": [[1, 1]],
        "intermediate_layers_indices": [0], "max_num_tiles": 1,
    }  # fmt: skip
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=rows)
    folder = saved(tmp_path, transformers.MllamaForConditionalGeneration(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<tool>"])
    table, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    before, after = tensors(folder), tensors(tmp_path / "out")
    old = [row for row in range(rows + 8) if row != rows + 1]
    assert after[table].shape[0] == rows + 10 and torch.equal(after[table][old], before[table][old])
    assert after[head].shape[0] == rows + 2 and torch.equal(after[head][:rows], before[head])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<tool>") == rows + 1


def test_tables_that_go_on_where_others_end_grow_for_new_ids(tmp_path, end_last):
    rows = len(end_last)
    end_last.add_special_tokens({"extra_special_tokens": ["<image>", "<fake>"]})
    config = transformers.IdeficsConfig(
        vocab_size=rows, additional_vocab_size=2, cross_layer_interval=1, use_resampler=False, **TOWER,
        vision_config={"embed_dim": 16, **{key: value for key, value in PICTURES.items() if key != "hidden_size"}},
    )  # fmt: skip
    folder = saved(tmp_path, transformers.IdeficsForVisionText2Text(config), end_last)
    hf_init.extend(folder, tmp_path / "out", special_tokens=["<tool>"])
    before, after = tensors(folder), tensors(tmp_path / "out")
    grown = [name for name in before if before[name].shape != after[name].shape]
    assert grown == ["lm_head.additional_fc.weight", "model.embed_tokens.additional_embedding.weight"]
    assert all(torch.equal(before[name], after[name][:2]) and len(after[name]) == 3 for name in grown)
    assert read(tmp_path / "out", "config.json")["additional_vocab_size"] == 3
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<tool>") == rows + 2


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_of_two_vocabularies_the_tokenizer_s_grows(tmp_path, end_last, side):
    sizes = (
        {"encoder": len(end_last), "decoder": 300} if side == "encoder" else {"encoder": 300, "decoder": len(end_last)}
    )
    configs = [
        transformers.BertConfig(
            vocab_size=size, **TOWER, is_decoder=name == "decoder", add_cross_attention=name == "decoder"
        )
        for name, size in sizes.items()
    ]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*configs)
    folder = saved(tmp_path, transformers.EncoderDecoderModel(config), end_last)
    plan = hf_init.plan(folder, add_tokens=["photoelectron"])
    resized = [tensor for tensor in plan.tensors if tensor.status.value == "resized"]
    assert resized and all(tensor.name.startswith(side) for tensor in resized)


def test_a_result_with_an_infinity_in_its_config_is_extended_again(tmp_path, end_last):
    config = transformers.Mamba2Config(
        vocab_size=len(end_last), hidden_size=32, num_hidden_layers=1, num_heads=8, head_dim=8, state_size=8,
        n_groups=1, chunk_size=8,
    )  # fmt: skip
    folder = saved(tmp_path, transformers.Mamba2ForCausalLM(config), end_last)
    assert "Infinity" in (folder / "config.json").read_text()
    for out, token in (("a", "hello there"), ("b", "and again")):
        hf_init.extend(folder, tmp_path / out, add_tokens=[token])
        folder = tmp_path / out
        assert hf_init.Plan.load(folder).claim == "exact to rounding"
    assert transformers.AutoConfig.from_pretrained(folder).time_step_limit[1] == float("inf")


# Roles.


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_roles_reach_tokenizer_config_and_generation_config_and_lists_get_the_union(based, tmp_path):
    folder = based(byte_level(), pad_token_id=None, eos_token_id=[1, 3])
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 3], "_from_model_config": false}')
    hf_init.extend(folder, tmp_path / "out", pad_token="<new pad>", eos_token="<|im_end|>", bos_token="</s>")
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    pad, eos = after.pad_token_id, after.eos_token_id
    assert (after.pad_token, after.eos_token, after.bos_token_id) == ("<new pad>", "<|im_end|>", 1)
    for name in ("config.json", "generation_config.json"):
        values = read(tmp_path / "out", name)
        assert (values["pad_token_id"], values["eos_token_id"]) == (pad, [1, 3, eos])
    other = AutoTokenizer.from_pretrained(folder)
    other.add_special_tokens({"pad_token": "<new pad>", "eos_token": "<|im_end|>", "bos_token": "</s>"})
    hf_init.extend(folder, tmp_path / "other", tokenizer=other)
    assert read(tmp_path / "other", "config.json")["eos_token_id"][:2] == [1, 3]
    assert read(tmp_path / "other", "generation_config.json")["pad_token_id"] is not None


def test_a_chat_template_comes_from_a_file_and_stays_where_another_tokenizer_has_none(based, tmp_path):
    folder = based(byte_level())
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    hf_init.extend(folder, tmp_path / "a", chat_template=tmp_path / "t.jinja")
    messages = [{"role": "user", "content": "hi"}]
    for out, options in (("a", {}), ("b", {"tokenizer": str(folder)})):
        if options:
            plan = hf_init.extend(tmp_path / "a", tmp_path / out, **options) and hf_init.Plan.load(tmp_path / out)
            assert any("chat template is the base's" in note for note in plan.notes)
        assert AutoTokenizer.from_pretrained(tmp_path / out).apply_chat_template(messages, tokenize=False) == "hi"


def test_every_field_that_holds_ids_moves_with_its_tokens(based, tmp_path):
    folder = based(byte_level())
    names = ["<s>", "</s>", "<pad>", "<unk>", "\u0120the", "a"]
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(names)
    generation = {
        "suppress_tokens": ids[4:], "bad_words_ids": [[ids[4]], ids[4:]], "forced_decoder_ids": [[1, ids[5]]],
        "lang_to_id": {"<|en.x|>": ids[4]}, "begin_suppress_tokens": [-1], "sequence_bias": [[[ids[4]], 1.5]],
        "prev_sot_token_id": ids[5], "max_length": ids[4],
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    backend = read(folder, "tokenizer.json")
    shifted = {text: id_ + 3 * (id_ > 3) for text, id_ in backend["model"]["vocab"].items()}
    backend["model"]["vocab"] = shifted | {f"<{k}>": 4 + k for k in range(3)}
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(backend))
    hf_init.extend(folder, tmp_path / "out", tokenizer=tmp_path / "other")
    the, a = ids[4] + 3, ids[5] + 3
    expected = {
        "suppress_tokens": [the, a], "bad_words_ids": [[the], [the, a]], "forced_decoder_ids": [[1, a]],
        "lang_to_id": {"<|en.x|>": the}, "begin_suppress_tokens": [-1], "sequence_bias": [[[the], 1.5]],
        "prev_sot_token_id": a, "max_length": ids[4],
    }  # fmt: skip
    assert read(tmp_path / "out", "generation_config.json") == expected
