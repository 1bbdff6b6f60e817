"""Schemes for the rows of new tokens, ranked by a short training of those rows on the user's own texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_init._architecture import quiet_library
from hf_init._checkpoint import Reader, folder_of
from hf_init._distill import places_behind
from hf_init._errors import PlanError
from hf_init._fill import draw_slot, slots_of
from hf_init._plan import Plan
from hf_init._prepare import Prepared, prepare_plan, resolve_target
from hf_init._probe.comparison import SchemeComparison, SchemeRun
from hf_init._probe.logit_differences import DifferencesBehind, TokenIds, logits_of
from hf_init._probe.probe import checked_texts, load_model, longest_passage, start_id, token_ids
from hf_init._probe.probe_report import Reading
from hf_init._probe.short_training import RATE, Passage, batches, readings, train_rows
from hf_init._probe.texts import passages
from hf_init._probe.train_rows import NewRows, grow_model, vocabulary_layers
from hf_init._tensors import Rows
from hf_init._text import join_names
from hf_init._vocabulary import TokenChange, ids_of, load_tokenizer

SchemeOptions: TypeAlias = Mapping[str, Any]
"""The options of ``extend`` that choose the rows' schemes."""

LIBRARY: Mapping[str, bool] = MappingProxyType(
    {"resize_token_embeddings": True, "resize_token_embeddings(mean_resizing=False)": False}
)
"""The two ways of transformers, by their name in a comparison, with ``mean_resizing``."""

BEHIND = ("kl", "changed")

_BOTH = {name: {"row_scheme": name} for name in ("mean", "gaussian", "subtokens(weights=first)")}
_TIED = {
    name: {"row_scheme": name}
    for name in (
        "subtokens",
        "subtokens(norm=median)",
        "subtokens(norm=centred)",
        "subtokens(weights=characters)",
        "subtokens(weights=characters, norm=centred)",
        "subtokens(weights=exp_first)",
        "subtokens(weights=exp_last)",
        "subtokens(weights=last)",
    )
}
_CALIBRATED = {"input_rows": "subtokens(norm=median)"}
_UNTIED = {
    "subtokens / subtokens": {"row_scheme": "subtokens"},
    "subtokens(norm=centred) / exp_first": {
        "input_rows": "subtokens(norm=centred)",
        "output_rows": "subtokens(weights=exp_first)",
    },
    "subtokens(norm=centred) / subtokens(norm=centred)": {"row_scheme": "subtokens(norm=centred)"},
    "subtokens(norm=median) / subtokens": {**_CALIBRATED, "output_rows": "subtokens"},
    "subtokens(norm=median) / characters": {**_CALIBRATED, "output_rows": "subtokens(weights=characters)"},
    "subtokens(norm=median) / exp_first": {**_CALIBRATED, "output_rows": "subtokens(weights=exp_first)"},
    "subtokens(norm=median) / first": {**_CALIBRATED, "output_rows": "subtokens(weights=first)"},
    "subtokens / first": {"input_rows": "subtokens", "output_rows": "subtokens(weights=first)"},
    "exp_last / exp_first": {
        "input_rows": "subtokens(weights=exp_last)",
        "output_rows": "subtokens(weights=exp_first)",
    },
}
_AUTO = {"auto": {}, **{f"auto({kind})": {"guarantee": kind} for kind in ("distribution", "learning")}}


def compare_schemes(
    base: str | Path,
    tokens: Sequence[object],
    texts: Iterable[str] | None = None,
    steps: int = 50,
    schemes: Mapping[str, SchemeOptions | None] | None = None,
    seeds: Sequence[int] = (0,),
    *,
    batch_tokens: int = 128,
    longest: int = 64,
    held_out: int = 48,
    dtype: str = "float32",
    done: Callable[[SchemeRun], object] | None = None,
) -> SchemeComparison:
    """Train the rows of new tokens, and nothing else, for a few steps from each scheme, and rank the schemes.

    Of every three passages with a new token in them one is held out; some of those are measured, in bits per byte,
    before and after. The model is loaded once, on the CPU, and the new rows are in float32. The loss before any
    training doesn't tell which scheme learns fastest. A scheme that fills the same as another one is run once.

    Args:
        base: the checkpoint folder or hub id of a causal language model.
        tokens: as ``add_tokens``.
        texts: as ``probe_vocabulary``.
        steps: of AdamW on the new rows.
        schemes: a name each to the options of ``extend`` that choose it (``row_scheme``, ``input_rows``,
            ``output_rows``, ``guarantee``), or to None for one of ``LIBRARY``; None: all that fit the model.
        seeds: of the rows and of the order of the batches; one run a scheme and a seed.
        batch_tokens: of one step, about.
        longest: tokens of a passage, at most.
        held_out: passages to measure, at most.
        dtype: of the frozen model: bfloat16 is faster on a processor that multiplies it, and rounds the old logits.
        done: called with every run when it is done.

    Returns:
        The runs; ``print`` shows them best first.

    Raises:
        PlanError: not a causal language model, too few texts, options that can't be used, tables besides embedding and
            output.

    Example::

        print(compare_schemes("base", [" dataframe", " numpy"], open("notes.txt").read().splitlines(), steps=50))
    """
    if steps < 1 or not seeds:
        raise PlanError(f"steps is {steps} and there are {len(seeds)} seeds; give at least one of each")
    bench = Bench.of(base, tokens, texts, batch_tokens, longest, held_out, dtype)
    runs = []
    for run in bench.runs(bench.schemes() if schemes is None else schemes, seeds, (0, steps)):
        runs.append(run)
        if done is not None:
            done(run)
    return SchemeComparison(tuple(runs), bench.base_bits())


@dataclass(frozen=True)
class Bench:
    """A model and passages on which schemes are tried one after the other.

    Attributes:
        held_out: the passages to measure. plain: the same in the base's own tokens. places: where in both a passage can
            be read on behind new tokens, as ``places_behind`` has it.
        rate: of the training.
    """

    folder: Path
    tokens: Sequence[object]
    model: PreTrainedModel
    start: int
    training: tuple[Passage, ...]
    held_out: tuple[Passage, ...]
    plain: tuple[Passage, ...]
    places: tuple[tuple[tuple[int, int, int], ...], ...]
    batch_tokens: int
    rate: float

    @classmethod
    def of(
        cls,
        base: str | Path,
        tokens: Sequence[object],
        texts: Iterable[str] | None,
        batch_tokens: int,
        longest: int,
        held_out: int,
        dtype: str = "float32",
    ) -> Bench:
        """Load the model, and split the texts with the new tokens.

        Raises:
            PlanError: as ``compare_schemes``.
        """
        texts, folder = checked_texts(texts), folder_of(base)
        model, before = load_model(folder, getattr(torch, dtype)), load_tokenizer(folder)
        _, changes = resolve_target(folder, None, add_tokens=tokens)
        after = next(change.change.tokenizer for change in changes if isinstance(change, TokenChange))
        assert after is not None
        limit = min(longest, longest_passage([model]))
        old = frozenset(ids_of(before))
        new = {id_ for token, id_ in ids_of(after).items() if token not in old}
        pieces = [
            piece
            for piece in passages(texts, lambda text: len(token_ids(before, text)), limit)
            if not new.isdisjoint(token_ids(after, piece))
        ]
        if len(pieces) < 3:
            raise PlanError(
                f"texts: {len(pieces)} passages of at most {limit} tokens have a new token in them; give three or more"
            )
        measured = pieces[::3]
        measured = measured[:: max(1, -(-len(measured) // held_out))]
        return cls(
            folder,
            tokens,
            model,
            start_id(before),
            training=_passages_of([piece for index, piece in enumerate(pieces) if index % 3], after),
            held_out=_passages_of(measured, after),
            plain=_passages_of(measured, before),
            places=tuple(tuple(places_behind(text, before, after, new)) for text in measured),
            batch_tokens=batch_tokens,
            rate=RATE * float(vocabulary_layers(model)[0].weight.detach().float().std()),
        )

    @property
    def tied(self) -> bool:
        """Return whether input and output rows are the same."""
        inputs, outputs = vocabulary_layers(self.model)
        return outputs.weight is inputs.weight

    def schemes(self) -> dict[str, SchemeOptions | None]:
        """Return all schemes that fit the model, and the two ways of transformers."""
        return {**_AUTO, **(_TIED if self.tied else _UNTIED), **_BOTH, **dict.fromkeys(LIBRARY)}

    def base_bits(self) -> float:
        """Return the bits per byte of the base, in its own tokens, on the held-out passages."""
        return sum(readings(self.model, self.start, self.plain), Reading(0.0, 0, 0)).bits_per_byte

    def runs(
        self,
        chosen: Mapping[str, SchemeOptions | None],
        seeds: Sequence[int],
        steps: Sequence[int],
        finished: Iterable[SchemeRun] = (),
    ) -> Iterator[SchemeRun]:
        """Run every scheme under every seed, but for those that are finished; what fills the same is run once."""
        known = list(finished)
        for name, seed in ((name, seed) for seed in seeds for name in chosen):
            options = chosen[name]
            filled = {} if options is None else _schemes_in(self._prepared(options, seed).plan)
            alike = [
                run for run in known if run.seed == seed and run.schemes == filled and (filled or run.scheme == name)
            ]
            if name in (run.scheme for run in alike):
                continue
            known.append(replace(alike[0], scheme=name) if alike else self.run(name, options, seed, steps))
            yield known[-1]

    def run(self, name: str, options: SchemeOptions | None, seed: int, steps: Sequence[int]) -> SchemeRun:
        """Train the rows that a scheme gives, measuring after each of some numbers of steps.

        Raises:
            PlanError, RecipeError: the options can't be used; the plan has new rows besides embedding and output.
        """
        if options is None and name not in LIBRARY:
            raise PlanError(f"schemes: {name!r} has no options; give some, or name one of {', '.join(LIBRARY)}")
        prepared = self._prepared(options or {}, seed)
        rows = new_rows(prepared, self.model)
        if options is None:
            dtype = getattr(torch, next(tensor.dtype for tensor in prepared.plan.stored if tensor.new))
            rows = resized_rows(self.model, rows, LIBRARY[name], seed, dtype)
        old = [id_ for id_ in range(len(vocabulary_layers(self.model)[0].weight)) if id_ not in rows.ids]
        with grow_model(self.model, rows) as parameters:
            behind = self.read_on(old, rows.ids)
            measured = train_rows(
                self.model,
                parameters,
                batches(self.training, self.start, self.batch_tokens, seed),
                steps,
                lambda: readings(self.model, self.start, self.held_out),
                self.rate,
            )
        bits = {step: sum(each, Reading(0.0, 0, 0)).bits_per_byte for step, each in measured.items()}
        nats = {step: tuple(reading.nats for reading in each) for step, each in measured.items()}
        return SchemeRun(name, seed, bits, {} if options is None else _schemes_in(prepared.plan), nats, **behind)

    def read_on(self, old: Sequence[int], new: Sequence[int]) -> dict[str, float]:
        """Return how the model, grown by new rows, reads on behind new tokens against what it does behind their pieces.

        Returns:
            ``kl`` over old tokens in nats, the mean, and ``changed``, the share of greedy choices that are others;
            nothing where no passage goes on behind a new token.
        """
        found = DifferencesBehind()
        ids = TokenIds(torch.tensor(old), torch.tensor(old), torch.tensor(new), torch.tensor([], dtype=torch.int64))
        for plain, passage, places in zip(self.plain, self.held_out, self.places, strict=True):
            before, after = (logits_of(self.model, self.start, [*each.ids]) for each in (plain, passage))
            found.add(before, after, places, ids)
        positions = sum(each.positions for each in found.by_token.values())
        if not positions:
            return {}
        return {what: sum(getattr(each, what) for each in found.by_token.values()) / positions for what in BEHIND}

    def _prepared(self, options: SchemeOptions, seed: int) -> Prepared:
        return prepare_plan(self.folder, None, add_tokens=self.tokens, seed=seed, **options)


def resized_rows(model: PreTrainedModel, like: NewRows, mean: bool, seed: int, dtype: torch.dtype) -> NewRows:
    """Return the rows that ``resize_token_embeddings`` gives the same tokens; the model stays as it is."""
    inputs, outputs = vocabulary_layers(model)
    tables = {id(parameter) for table in (inputs, outputs) for parameter in table.parameters()}
    # A copy that shares all but its tables: resizing writes to them, and to the config.
    resized = copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in tables})
    with quiet_library():
        torch.default_generator.manual_seed(seed)  # the CPU's, where the model is; it is put back, and no other
        resized.resize_token_embeddings(max(len(inputs.weight), max(like.ids) + 1), mean_resizing=mean)
    (inputs, outputs), ids = vocabulary_layers(resized), torch.tensor(like.ids)

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()[ids].to(dtype).float()

    return NewRows(
        like.ids,
        rows(inputs.weight),
        None if like.head is None else rows(outputs.weight),
        None if like.bias is None else rows(outputs.bias),
    )


def new_rows(prepared: Prepared, model: PreTrainedModel) -> NewRows:
    """Return the new rows of a plan, filled as they would be written."""
    inputs, outputs = vocabulary_layers(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = {"rows": names[id(inputs.weight)]}
    if outputs.weight is not inputs.weight:
        wanted["head"] = names[id(outputs.weight)]
    if getattr(outputs, "bias", None) is not None:
        wanted["bias"] = names[id(outputs.bias)]
    tensors = {tensor.parameter: tensor for tensor in prepared.plan.stored if tensor.new}
    if others := sorted(set(tensors) - set(wanted.values())):
        raise PlanError(f"{join_names(others)}: new rows besides the embedding's and the output's can't be compared")
    if wanted["rows"] not in tensors:
        raise PlanError("add_tokens: no row is new, so there is nothing to compare; name tokens that aren't there yet")
    made = [
        change.values(prepared.plan, lambda: model) for change in prepared.change_plans if change.values is not None
    ]
    known = prepared.initial_values.knowing({name: tensor for each in made for name, tensor in each.items()})
    filled: dict[str, dict[int, torch.Tensor]] = {field: {} for field in wanted}
    with Reader(prepared.source) as reader:
        for field, name in wanted.items():
            for scheme, slot in slots_of(tensors[name], reader, prepared.plan.seed, known):
                assert isinstance(slot.region, Rows)
                filled[field] |= zip(slot.region.index, draw_slot(scheme, slot).float(), strict=True)
    ids = tuple(sorted(filled["rows"]))
    return NewRows(ids, **{field: torch.stack([rows[id_] for id_ in ids]) for field, rows in filled.items()})


def _passages_of(pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[Passage, ...]:
    return tuple(Passage(piece, tuple(token_ids(tokenizer, piece))) for piece in pieces)


def _schemes_in(plan: Plan) -> dict[str, str]:
    """Return what fills the new rows of each tensor, as a recipe spells it."""
    return {t.name: ", ".join(dict.fromkeys(str(fill.scheme) for fill in t.new)) for t in plan.stored if t.new}
