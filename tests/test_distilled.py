"""Rows distilled from texts: what they gain, what they depend on, and what is said of tokens that the texts lack."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from token_bases import IDS, SIZE, TEXTS, TOKENS, tensors, tokenizer

import hf_init
from hf_init import HfInitError, compare_schemes, probe_vocabulary
from hf_init._distill import places_behind, read_texts, spans
from hf_init._distill.journal import RowJournal
from hf_init._distill.reading import StateReader
from hf_init._distill.said import Coordinates, OutputAims, OutputReader, Places, Said
from hf_init.schemes import Distilled

SCHEME = "distilled(steps=20)"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def distilled(bases, tmp_path_factory):
    """A base with an untied head, and three results: of `auto`, distilled, and distilled on the input alone."""
    base, folder = bases("qwen with tokens"), tmp_path_factory.mktemp("distilled")
    hf_init.extend(base, folder / "auto", add_tokens=TOKENS)
    hf_init.extend(base, folder / "out", add_tokens=TOKENS, row_scheme=SCHEME, texts=TEXTS)
    hf_init.extend(base, folder / "read", add_tokens=TOKENS, input_rows=SCHEME, texts=TEXTS)
    return base, folder / "auto", folder / "out", folder / "read"


def test_distilled_rows_read_more_like_the_pieces_than_those_of_auto(distilled):
    base, auto, out, read = distilled
    before, both, after = (probe_vocabulary(base, folder, TEXTS) for folder in (auto, out, read))
    assert {*after.behind} == {*TOKENS} and after.all_behind.positions > 50
    assert all(after.behind[token].kl < before.behind[token].kl for token in TOKENS)
    assert "greedy kept" in after.guarantees and after.most_kl == 0
    assert both.behind == after.behind and "greedy kept" not in both.guarantees  # an output row may win
    kls = [each.kl for each in after.behind.values()]
    assert kls == sorted(kls, reverse=True) and f"{next(iter(after.behind))!r} {kls[0]:.3f}" in str(after)
    assert after.to_json()["all_behind"]["kl"] == pytest.approx(after.all_behind.kl)


def test_the_texts_prove_it_and_no_others_do(distilled):
    base, _, out, _ = distilled
    assert hf_init.verify(out, base, recompute=True, texts=TEXTS).ok
    with pytest.raises(HfInitError, match=r"rows were distilled from texts .*give them \(texts=FILE\)"):
        hf_init.verify(out, base, recompute=True)
    with pytest.raises(HfInitError, match="not the texts: rows were distilled"):
        hf_init.verify(out, base, recompute=True, texts=TEXTS[1:])


def test_a_row_depends_on_no_other_new_token_and_on_no_order(distilled, tmp_path):
    base, _, out, _ = distilled
    hf_init.extend(base, tmp_path / "out", add_tokens=[" dog", *TOKENS[::-1]], row_scheme=SCHEME, texts=TEXTS)
    rows = []
    for folder in (out, tmp_path / "out"):
        ids = transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(TOKENS)
        rows.append(torch.cat([tensors(folder)[name][ids] for name in (EMBEDDING, "lm_head.weight")]))
    assert torch.equal(*rows)


def test_what_the_texts_lack_is_left_at_auto_and_named(bases, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat\n\na cat he")
    words = [*TOKENS, {"token": "<tool>", "special": True}]
    plan = hf_init.plan(bases("qwen with tokens"), add_tokens=words, texts=str(tmp_path / "texts.txt"))
    named = [fill.scheme.name for fill in plan[EMBEDDING].new]
    assert sorted(named) == ["distilled", "mean", "subtokens"]
    assert {fill.scheme.name for fill in plan["lm_head.weight"].new} == {"subtokens", "mean"}
    notes = "\n".join(plan.notes)
    assert "not distilled: ' sat'" in notes and "few places" in notes and "'cat' (2)" in notes and "<tool>" in notes
    tied = hf_init.plan(bases("llama with tokens"), add_tokens=TOKENS, texts=TEXTS)
    assert {fill.scheme.name for fill in tied[EMBEDDING].new} == {"subtokens"}
    assert any("the texts are of no use: the table is tied" in note for note in tied.notes)


def test_a_run_that_was_stopped_goes_on_behind_its_last_row(distilled, tmp_path, monkeypatch):
    base, _, out, _ = distilled
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"add_tokens": TOKENS, "row_scheme": SCHEME, "texts": TEXTS}

    kept, made = RowJournal.keep, []

    def counted(self, number, row):
        kept(self, number, row)
        made.append(number)

    def stopped(self, number, row):
        counted(self, number, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(RowJournal, "keep", stopped)
    for rows in (1, 2, 3):  # of both tables
        with pytest.raises(KeyboardInterrupt):
            hf_init.extend(base, tmp_path / "out", **options)
        assert len(made) == rows
    monkeypatch.setattr(RowJournal, "keep", counted)
    for journal in (rows := tmp_path / "hf_init" / "rows").iterdir():
        journal.write_bytes(journal.read_bytes() + bytes(200))  # half a row, and what else a full disk may leave
    hf_init.extend(base, tmp_path / "out", **options)
    assert len(made) == 4 and [*rows.iterdir()] == []
    assert all(torch.equal(tensors(out)[name], each) for name, each in tensors(tmp_path / "out").items())


def test_a_proof_takes_no_row_from_a_run_that_was_stopped(distilled, tmp_path, monkeypatch):
    base, _, out, _ = distilled
    monkeypatch.setattr(RowJournal, "rows", lambda self: {0: torch.zeros(self.width)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hf_init.verify(out, base, recompute=True, texts=TEXTS).ok
    assert not (tmp_path / "hf_init" / "rows").exists()


def test_the_base_writes_texts_for_a_word_that_none_has(bases, tmp_path, monkeypatch):
    base, scheme = tmp_path / "base", "distilled(steps=2, written=3)"
    shutil.copytree(bases("qwen with tokens"), base)
    transformers.AutoModelForCausalLM.from_pretrained(base).bfloat16().save_pretrained(base)  # rows are trained in it
    plan = hf_init.plan(base, add_tokens=TOKENS, row_scheme=scheme, texts=["a cat"])
    assert [fill.scheme.name for fill in plan[EMBEDDING].new] == ["distilled"]
    assert any("distilled from what the base writes: ' sat'" in note for note in plan.notes)
    rows = []
    for number, words in enumerate((TOKENS, [" dog", *TOKENS[::-1]])):
        out = tmp_path / str(number)
        hf_init.extend(base, out, add_tokens=words, row_scheme=scheme)
        ids = transformers.AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(TOKENS)
        rows.append(tensors(out)[EMBEDDING][ids])
    assert torch.equal(*rows) and hf_init.verify(out, base, recompute=True).ok
    monkeypatch.setattr(transformers.Qwen2ForCausalLM, "can_generate", classmethod(lambda cls: False))
    with pytest.raises(HfInitError, match=r"Qwen2ForCausalLM writes no texts; give some \(texts=FILE\)"):
        hf_init.plan(base, add_tokens=words, row_scheme=scheme)


def test_only_the_layers_up_to_the_one_that_is_compared_run(bases):
    model = transformers.AutoModelForCausalLM.from_pretrained(bases("llama with tokens")).eval()
    ids = torch.arange(5)[None]
    with torch.no_grad():
        inner = model(ids, output_hidden_states=True).hidden_states[1]
        found = [StateReader(model, depth).states(model.get_input_embeddings()(ids)) for depth in (0.5, 1.0)]
        assert torch.equal(found[0], model.model.norm(inner)) and torch.equal(found[1], model.model(ids)[0])
    assert len(model.model.layers) == 2


def test_a_solved_row_is_as_likely_as_the_token_is_often_and_held_where_it_starts():
    totals, nowhere, eye = torch.tensor([1.0, 2.0]), torch.arange(0), torch.eye(2)
    here, elsewhere = Places(eye[:1], totals[:1], nowhere, 1.0), Places(eye, totals, nowhere, 1.0)
    start, coordinates = torch.tensor([0.5, -0.5]), Coordinates(eye, eye)
    free, held = (start + Said(coordinates, here, elsewhere, 8.0, start, 0.25, hold).solved() for hold in (1e-6, 1e6))
    capped = start + Said(coordinates, here, elsewhere, 8.0, start, 0.25, 1e-6, 2.0).solved()
    torch.testing.assert_close(2 * torch.tanh((capped[0] + 0.25) / 2), free[0] + 0.25, atol=1e-2, rtol=0)
    likely = torch.sigmoid(free[0] + 0.25 - 1.0)
    assert float(likely) == pytest.approx(1 / (1 + 8 / 2), rel=1e-3) and float(free[1]) < -5
    torch.testing.assert_close(held, start, atol=1e-3, rtol=0)


def test_in_coordinates_every_direction_moves_logits_alike():
    states = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) ** 2
    found = Coordinates.of(states)
    torch.testing.assert_close(found.there @ found.back, torch.eye(6), atol=1e-4, rtol=0)
    logits = states @ found.back.T  # of one step in each
    torch.testing.assert_close(logits.square().mean(0).sqrt(), torch.ones(6), atol=0.3, rtol=0)


def test_a_model_of_few_positions_is_read_as_far_as_it_goes(bases, tmp_path):
    config = transformers.GPT2Config(vocab_size=len(tokenizer()), n_positions=24, n_embd=32, n_layer=1, n_head=2, **IDS)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    options = {"add_tokens": TOKENS, "row_scheme": "distilled(steps=1)", "texts": TEXTS}
    assert hf_init.extend(tmp_path / "base", tmp_path / "out", **options)


def test_a_place_where_other_tokens_are_read_first_is_not_the_new_one_s(bases):
    before, after = tokenizer(), tokenizer()
    after.add_tokens(["tab"])
    model = transformers.AutoModelForCausalLM.from_pretrained(bases("qwen with tokens")).eval()
    (new,) = after.convert_tokens_to_ids(["tab"])
    read = read_texts(["tab he", " tab he tab he", *TEXTS], before, after, {new})  # the others begin with a space
    reader, found = OutputReader(model), read.found[new]
    scheme = Distilled(table="t", pieces=((1, 2),), side="output")
    with reader.listening():
        said = OutputAims.of(reader, read).said(read, found, found, 0, torch.zeros(32), scheme)
    first = {each.start for each in found if each.tokens[0] == -1}
    assert 0 < len(first) < len(found) and {*said.here.following.tolist()} == first
    inside = {each.start + by for each in found for by in range(each.length)}
    assert inside.isdisjoint(said.elsewhere.following.tolist())


@pytest.mark.parametrize("kind", ["with a bias", "scaled", "capped"])
def test_a_place_has_what_the_model_makes_of_a_row(bases, kind):
    size = {"vocab_size": len(tokenizer()), **SIZE, **IDS}
    model = {
        "with a bias": lambda: transformers.AutoModelForCausalLM.from_pretrained(bases("phi with tokens")),
        "scaled": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**size)),
        "capped": lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**size, head_dim=8, num_key_value_heads=2, final_logit_softcapping=0.5)
        ),
    }[kind]().eval()
    before = tokenizer()
    read, reader = read_texts(TEXTS, before, before, ()), OutputReader(model)
    with reader.listening(), torch.no_grad():
        places = reader.places(read, [30, 40], 6, 2)
        logits = model(read.around([30, 40], 6, 2)).logits[:, 5:].flatten(0, 1)
        weight, bias = reader.layer.get_parameter("weight"), vars(reader.layer)["_parameters"]["bias"]
        found = places.states @ weight.T + (0 if bias is None else bias * places.scale)
        found = found if reader.cap is None else reader.cap * torch.tanh(found / reader.cap)
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(places.totals, logits.logsumexp(-1))
    assert places.following.tolist() == [29, 30, 31, 32, 39, 40, 41, 42]


def test_a_tied_row_says_its_token_too(bases):
    chosen = {str(weight): {"row_scheme": f"distilled(output={weight})", "texts": TEXTS} for weight in (1e-9, 0.1)}
    found = compare_schemes(
        bases("llama with tokens"), TOKENS, TEXTS, 1, chosen, batch_tokens=32, longest=24, held_out=2
    )
    unsaid, said = (run.bits[0] for run in found.runs)
    assert said < unsaid


@pytest.mark.parametrize(("name", "side"), [("llama with tokens", EMBEDDING), ("qwen with tokens", "lm_head.weight")])
def test_auto_distils_rows_that_may_win_where_that_is_no_promise(bases, name, side):
    greedy = hf_init.plan(bases(name), add_tokens=TOKENS, texts=TEXTS)
    learning = hf_init.plan(bases(name), add_tokens=TOKENS, texts=TEXTS, guarantee="learning")
    assert [{fill.scheme.name for fill in plan[side].new} for plan in (greedy, learning)] == [
        {"subtokens"},
        {"distilled"},
    ]


def test_schemes_are_ranked_by_how_they_read_on(bases):
    chosen = {"auto": {}, "distilled": {"row_scheme": SCHEME, "texts": TEXTS}}
    found = compare_schemes(
        bases("qwen with tokens"), TOKENS, TEXTS, 1, chosen, batch_tokens=32, longest=24, held_out=2
    )
    assert found.ranked_by_reading == ("distilled", "auto") and "other greedy choices" in str(found)
    auto, said = (run.bits[0] for run in found.runs)
    assert said < auto  # before any training
    assert found.to_json()["ranked_by_reading"] == ["distilled", "auto"]


def test_two_readings_are_brought_together_where_both_end_a_token():
    before, after = tokenizer(), tokenizer()
    after.add_tokens(["cat", "tab"])
    cat, tab = after.convert_tokens_to_ids(["cat", "tab"])
    text = "the cat\u00e9 abc tabc"  # the second new token ends inside of an old one
    found = [*spans(text, before, after)]
    assert [id_ for old, _ in found for id_ in old] == before.encode(text, add_special_tokens=False)
    assert [id_ for _, new in found for id_ in new] == after.encode(text, add_special_tokens=False)
    read = read_texts([text], before, after, {cat, tab})
    assert [each.tokens for each in read.found[cat]] == [(-1,)] and read.stream[0] == before.bos_token_id
    assert all(len(each.tokens) > 1 for each in read.found[tab])  # with what the old token had beside it
    places = [*places_behind(text, before, after, {cat, tab})]
    assert places[0][0] == cat and places[-1][0] == tab and places[-1][1] == len(read.stream) - 1
