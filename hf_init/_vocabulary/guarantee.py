"""Which of the three guarantees holds: read off the rows that a plan makes, and off what the model does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

from hf_init._architecture import Target
from hf_init._function import scores_are_mixed
from hf_init._plan import Fill, Plan
from hf_init._tensors import Region, Rows
from hf_init._text import format_count, join_names
from hf_init._vocabulary.plan import VocabularyChange
from hf_init.schemes import MeanRow, RowScheme, Scheme

OUTPUT = {"output", "tied", "bias", "tied_bias"}
LOWERING: Mapping[str, object] = {
    "suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [], "sequence_bias": {},
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "no_timestamps_token_id": None,
}  # fmt: skip
"""Settings of a generation config that lower the logits of some old tokens, and their values that lower none."""


def guarantee(
    change: VocabularyChange, sides: Mapping[str, str], dims: Mapping[str, int], target: Target, plan: Plan
) -> str:
    """Return in a sentence what holds of what a model says, or why it may not.

    Args:
        sides: of the vocabulary's tables, by name. dims: along which they have its rows.
    """
    outputs, asked = [name for name, side in sides.items() if side in OUTPUT], change.request.guarantee
    if not outputs:
        return "no output rows: what the model says changes with the split of a text alone"
    reasons = [*_reasons(change, {name: plan[name].new for name in outputs})]
    tables = {plan[name].parameter: dims[name] for name in outputs}
    if not reasons and not scores_are_mixed(target.model, tables, capped=asked != "distribution"):
        reasons.append(f"it isn't shown that {target.cls.__name__} scores each token by its row alone, and all alike")
    if reasons:
        lost = "the distribution may change" if asked == "distribution" else "greedy decoding may take a new token"
        return f"no guarantee: {lost}: {'; '.join(reasons)}"
    new, trained = len(change.vocabulary.padding(())), sum(stop - start for start, stop in change.trained)
    kept = {
        "distribution": f"distribution kept: {format_count(new)} new rows take at most {new / (trained + new):.2g} of "
        "the probability",
        "greedy": "greedy kept: new output rows are in the convex hull of old ones, none is the likeliest",
        "learning": "fastest to learn, and greedy kept",
    }
    lowering = [key for key, idle in LOWERING.items() if change.generation.get(key) not in (None, idle)]
    but = f"; not where the generation config's {join_names(lowering)} lower old logits first" if lowering else ""
    return f"guarantee: {kept[asked]}{but}"


def _reasons(change: VocabularyChange, fills: Mapping[str, tuple[Fill, ...]]) -> Iterator[str]:
    """Yield what is against it in the rows of the output tables."""
    mean = change.request.guarantee == "distribution"
    texts = {token.id: repr(token.text) for token in change.new_tokens}
    mixtures: dict[str, list[tuple[Region, Scheme]]] = {name: [] for name in fills}
    for name, fill in ((name, fill) for name, new in fills.items() for fill in new):
        region, scheme = fill.region, fill.scheme
        if isinstance(scheme, RowScheme) and scheme.is_mixture and (isinstance(scheme, MeanRow) or not mean):
            mixtures[name].append((region, replace(scheme, table="")))
        else:
            rows = region.index if isinstance(region, Rows) else ()
            names = join_names([texts.get(id_, f"row {id_}") for id_ in rows], 3) or "some rows"
            # The place of a donor is the machine's own: a note goes into the manifest.
            said = scheme.name if {"path", "donor"} & {each.name for each in fields(scheme)} else scheme
            yield f"{said} gives {names} in {name} no {'mean row' if mean else 'mixture of old rows'}"
    names, first = [*mixtures], next(iter(mixtures.values()))
    if unlike := [name for name in names if [each for _, each in mixtures[name]] != [each for _, each in first]]:
        yield f"{unlike[0]} takes other shares of old rows than {names[0]}"
    if change.request.reinit_ids:
        yield "rows of old tokens are re-initialized"
    if change.replaced and change.lost_tokens:
        yield "rows of old tokens go"
