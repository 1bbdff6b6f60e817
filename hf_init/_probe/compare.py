"""Schemes for the rows of new tokens, ranked by a short training of those rows on the user's own texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from hf_init._architecture import quiet_library
from hf_init._checkpoint import Reader, folder_of
from hf_init._errors import PlanError
from hf_init._fill import draw_slot, slots_of
from hf_init._plan import Plan
from hf_init._prepare import Prepared, prepare_plan, resolve_target
from hf_init._probe.comparison import SchemeComparison, SchemeRun
from hf_init._probe.probe import at_most, checked_texts, model_of, split_texts_by_token, start_of
from hf_init._probe.probe_report import Reading
from hf_init._probe.short_training import RATE, Passage, batches, readings, trained
from hf_init._probe.texts import passages
from hf_init._probe.train_rows import Grown, grow_model
from hf_init._tensors import Rows
from hf_init._text import join_names
from hf_init._vocabulary import TokenChange, ids_of, load_tokenizer

LIBRARY: Mapping[str, bool] = MappingProxyType(
    {"resize_token_embeddings": True, "resize_token_embeddings(mean_resizing=False)": False}
)
"""The library's own two ways, by the name that they have in a comparison, with ``mean_resizing``."""

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
    tokens: Sequence[Any],
    texts: Iterable[str] | None = None,
    steps: int = 50,
    schemes: Mapping[str, Mapping[str, Any] | None] | None = None,
    seeds: Sequence[int] = (0,),
    *,
    batch_tokens: int = 128,
    longest: int = 64,
    held: int = 48,
    dtype: str = "float32",
    done: Callable[[SchemeRun], object] | None = None,
) -> SchemeComparison:
    """Trains the rows of new tokens, and nothing else, for a few steps from each scheme, and ranks the schemes.

    Of every three passages with a new token in them one is held out; some of those are measured, in bits per byte,
    before and after. The model is loaded once, on the CPU, and the new rows are in float32. The loss before any
    training doesn't tell which scheme learns fastest. A scheme that fills the same as another one is run once.

    Args:
        base: the checkpoint folder or hub id of a causal language model.
        tokens: as ``add_tokens``.
        texts: as ``probe_vocabulary``.
        steps: of AdamW on the new rows.
        schemes: a name each to the words of ``extend`` that choose it (``row_scheme``, ``input_rows``,
            ``output_rows``, ``guarantee``), or to None for one of ``LIBRARY``; None: all that fit the model.
        seeds: of the rows and of the order of the batches; one run a scheme and a seed.
        batch_tokens: of one step, about.
        longest: tokens of a passage, at most.
        held: passages to measure, at most.
        dtype: of the frozen model: bfloat16 is faster on a processor that multiplies it, and rounds the old logits.
        done: called with every run when it is done.

    Returns:
        The runs; ``print`` shows them best first.

    Raises:
        PlanError: not a causal language model, too few texts, words that can't be used, tables besides embedding and
            output.

    Example::

        print(compare_schemes("base", [" dataframe", " numpy"], open("notes.txt").read().splitlines(), steps=50))
    """
    if steps < 1 or not seeds:
        raise PlanError(f"steps is {steps} and there are {len(seeds)} seeds; give at least one of each")
    bench = Bench.of(base, tokens, texts, batch_tokens, longest, held, dtype)
    found = []
    for run in bench.runs(bench.schemes() if schemes is None else schemes, seeds, (0, steps)):
        found.append(run)
        if done is not None:
            done(run)
    return SchemeComparison(tuple(found), bench.base_bits())


@dataclass(frozen=True)
class Bench:
    """A model and passages on which schemes are tried one after the other.

    Attributes:
        plain: the held-out passages in the base's own tokens.
        rate: of the training.
    """

    folder: Path
    tokens: Sequence[Any]
    model: Any
    start: int
    training: tuple[Passage, ...]
    held: tuple[Passage, ...]
    plain: tuple[Passage, ...]
    batch_tokens: int
    rate: float

    @classmethod
    def of(
        cls,
        base: str | Path,
        tokens: Sequence[Any],
        texts: Iterable[str] | None,
        batch_tokens: int,
        longest: int,
        held: int,
        dtype: str = "float32",
    ) -> Bench:
        """Loads the model, and splits the texts with the new tokens.

        Raises:
            PlanError: as ``compare_schemes``.
        """
        wanted, folder = checked_texts(texts), folder_of(base)
        model, before = model_of(folder, getattr(torch, dtype)), load_tokenizer(folder)
        _, changes = resolve_target(folder, None, add_tokens=tokens)
        after = next(change.change.tokenizer for change in changes if isinstance(change, TokenChange))
        assert after is not None
        limit = min(longest, at_most([model]))
        pieces = list(passages(wanted, lambda text: len(split_texts_by_token(before, text)), limit))
        old = frozenset(ids_of(before))
        new = {id_ for token, id_ in ids_of(after).items() if token not in old}
        pieces = [piece for piece in pieces if not new.isdisjoint(split_texts_by_token(after, piece))]
        if len(pieces) < 3:
            raise PlanError(
                f"texts: {len(pieces)} passages of at most {limit} tokens have a new token in them; give three or more"
            )
        kept = pieces[::3]
        kept = kept[:: max(1, -(-len(kept) // held))]
        measured, plain = (_passages(tokenizer, kept) for tokenizer in (after, before))
        training = _passages(after, [piece for place, piece in enumerate(pieces) if place % 3])
        rate = RATE * float(model.get_input_embeddings().weight.detach().float().std())
        return cls(folder, tokens, model, start_of(before), training, measured, plain, batch_tokens, rate)

    @property
    def tied(self) -> bool:
        """Whether input and output rows are the same."""
        return self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight

    def schemes(self) -> dict[str, Mapping[str, Any] | None]:
        """All schemes that fit the model, and the library's own two ways."""
        return {**_AUTO, **(_TIED if self.tied else _UNTIED), **_BOTH, **dict.fromkeys(LIBRARY)}

    def base_bits(self) -> float:
        """Bits per byte of the base, in its own tokens, on the held-out passages."""
        return sum(readings(self.model, self.start, self.plain), Reading(0.0, 0, 0)).bits_per_byte

    def runs(
        self,
        chosen: Mapping[str, Mapping[str, Any] | None],
        seeds: Sequence[int],
        steps: Sequence[int],
        there: Iterable[SchemeRun] = (),
    ) -> Iterator[SchemeRun]:
        """Every scheme under every seed, but for those that are there; what fills the same is run once."""
        known = list(there)
        for name, seed in ((name, seed) for seed in seeds for name in chosen):
            words = chosen[name]
            filled = {} if words is None else _spelled(self._prepared(words, seed).plan)
            alike = [
                run for run in known if run.seed == seed and run.schemes == filled and (filled or run.scheme == name)
            ]
            if name in (run.scheme for run in alike):
                continue
            known.append(replace(alike[0], scheme=name) if alike else self.run(name, words, seed, steps))
            yield known[-1]

    def run(self, name: str, words: Mapping[str, Any] | None, seed: int, steps: Sequence[int]) -> SchemeRun:
        """Trains the rows that a scheme gives, measuring after each of some numbers of steps.

        Raises:
            PlanError, RecipeError: the words can't be used; the plan has new rows that aren't of embedding or output.
        """
        if words is None and name not in LIBRARY:
            raise PlanError(f"schemes: {name!r} has no words; give some, or name one of {', '.join(LIBRARY)}")
        prepared = self._prepared(words or {}, seed)
        rows = new_rows(prepared, self.model)
        if words is None:
            rows = resized_table(self.model, rows, LIBRARY[name], seed, _dtype(prepared.plan))
        with grow_model(self.model, rows) as leaves:
            found = trained(
                self.model,
                leaves,
                batches(self.training, self.start, self.batch_tokens, seed),
                steps,
                lambda: readings(self.model, self.start, self.held),
                self.rate,
            )
        bits = {step: sum(each, Reading(0.0, 0, 0)).bits_per_byte for step, each in found.items()}
        nats = {step: tuple(reading.nats for reading in each) for step, each in found.items()}
        return SchemeRun(name, seed, bits, {} if words is None else _spelled(prepared.plan), nats)

    def _prepared(self, words: Mapping[str, Any], seed: int) -> Prepared:
        return prepare_plan(self.folder, None, add_tokens=self.tokens, seed=seed, **words)


def resized_table(model: Any, like: Grown, mean: bool, seed: int, dtype: torch.dtype) -> Grown:
    """The rows that ``resize_token_embeddings`` gives the same tokens; the model stays as it is."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(parameter) for table in tables for parameter in table.parameters()}
    # A copy that shares all but its tables: resizing writes to them, and to the config.
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in own})
    with quiet_library():
        torch.default_generator.manual_seed(seed)  # the CPU's, where the model is: `quiet` puts back no other
        twin.resize_token_embeddings(max(len(tables[0].weight), max(like.ids) + 1), mean_resizing=mean)
    inputs, outputs = twin.get_input_embeddings(), twin.get_output_embeddings()
    ids = torch.tensor(like.ids)

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()[ids].to(dtype).float()

    return Grown(
        like.ids,
        rows(inputs.weight),
        None if like.head is None else rows(outputs.weight),
        None if like.bias is None else rows(outputs.bias),
    )


def new_rows(prepared: Prepared, model: Any) -> Grown:
    """The new rows of a plan, made as they would be written."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = {"rows": names[id(inputs.weight)]}
    if outputs.weight is not inputs.weight:
        wanted["head"] = names[id(outputs.weight)]
    if getattr(outputs, "bias", None) is not None:
        wanted["bias"] = names[id(outputs.bias)]
    plan = prepared.plan
    fresh = {tensor.parameter: tensor for tensor in plan.stored if tensor.new}
    if odd := sorted(set(fresh) - set(wanted.values())):
        raise PlanError(f"{join_names(odd)}: new rows besides the embedding's and the output's can't be compared")
    if wanted["rows"] not in fresh:
        raise PlanError("add_tokens: no row is new, so there is nothing to compare; name tokens that aren't there yet")
    with Reader(prepared.source) as reader:
        made = {what: _rows(prepared, name, reader) for what, name in wanted.items()}
    ids = tuple(sorted(made["rows"]))
    return Grown(ids, **{what: torch.stack([rows[id_] for id_ in ids]) for what, rows in made.items()})


def _rows(prepared: Prepared, parameter: str, reader: Reader) -> dict[int, torch.Tensor]:
    """The new rows of one tensor by their ids, rounded to its dtype."""
    plan = prepared.plan
    tensor = next(tensor for tensor in plan.stored if tensor.parameter == parameter)
    made: dict[int, torch.Tensor] = {}
    for scheme, slot in slots_of(tensor, reader, plan.seed, prepared.initial_values):
        assert isinstance(slot.region, Rows)
        made |= zip(slot.region.index, draw_slot(scheme, slot).float(), strict=True)
    return made


def _passages(tokenizer: Any, pieces: Sequence[str]) -> tuple[Passage, ...]:
    return tuple(Passage(piece, tuple(split_texts_by_token(tokenizer, piece))) for piece in pieces)


def _dtype(plan: Plan) -> torch.dtype:
    return getattr(torch, next(tensor.dtype for tensor in plan.stored if tensor.new))


def _spelled(plan: Plan) -> dict[str, str]:
    """What fills the new rows of each tensor, as a recipe spells it."""
    return {t.name: ", ".join(dict.fromkeys(str(fill.scheme) for fill in t.new)) for t in plan.stored if t.new}
