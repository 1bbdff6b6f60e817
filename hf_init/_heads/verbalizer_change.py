"""A head whose rows are those of its labels' words in the language model's own vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_init import schemes
from hf_init._architecture import Target, text_config
from hf_init._change import Change, ChangePlan, TargetContext
from hf_init._checkpoint import BaseCheckpoint
from hf_init._errors import PlanError
from hf_init._heads.examples import tokenizer_of
from hf_init._heads.solved_change import LastLayer, label_names, last_layer
from hf_init._plan import Choice, Fill, Match
from hf_init._tensors import Box, SourceTensor, Status
from hf_init._text import join_names

NAME = "verbalizer"
TIED = ("CausalLM", "LMHead", "MaskedLM")
"""In the names of classes whose head is the input embeddings, where the files hold no other."""


@dataclass(frozen=True)
class VerbalizerChange(Change):
    """The words that stand for each label; without any, the labels' own names.

    With a decoder, a label's logit is then the language model's own for the words' first pieces, since both heads see
    the same last hidden state, after the final norm.

    Source: Gao, Fisch and Chen, "Making Pre-trained Language Models Better Few-shot Learners" (LM-BFF), 2021.
    """

    words: Mapping[str, Sequence[str]]

    OPTIONS = ("head", "verbalizer", "label_counts", "target_mean")

    @classmethod
    def of(cls, base: BaseCheckpoint, options: Mapping[str, object]) -> VerbalizerChange | None:
        given, head = options.get("verbalizer"), options.get("head")
        if head not in (None, NAME) and given is not None:
            raise PlanError(f"head: {head} and words for a verbalizer: give one of the two")
        if head != NAME and given is None:
            return None
        idle = [word for word in ("label_counts", "target_mean") if options.get(word) is not None]
        if idle:
            raise PlanError(f"{idle[0]}: the words give the bias, so it would have no effect; leave out one of the two")
        if given is not None and not isinstance(given, Mapping):
            raise PlanError(f"verbalizer: expected label -> words, such as {{'pos': ['good', 'great']}}, not {given!r}")
        lists = {str(label): [text] if isinstance(text, str) else list(text) for label, text in (given or {}).items()}
        return cls(lists)

    def plan(self, context: TargetContext) -> ChangePlan:
        target = context.target
        layer = last_layer(target)
        table = _word_table(target, layer)
        words = self._of(label_names(target.model.config))
        pieces = _word_pieces(target, words, first=table.is_head)
        rows = schemes.SubTokens(table=table.weight.name, pieces=pieces)
        why = f"the rows of {table.weight.name} for the words of each label: " + "; ".join(
            f"{label}: {', '.join(texts)}" for label, texts in words.items()
        )

        def fills(match: Match, choice: Choice) -> Sequence[Fill] | None:
            name = match.target.name
            if name not in layer.names or not match.new:
                return None
            if match.status is not Status.NEW:
                raise PlanError(f"{name}: a part of it is kept; a verbalizer gives a whole head: labels_keep='none'")
            if name == layer.weight:
                return [Fill(Box.whole(match.target.shape), rows, why)]
            if table.bias is None:
                return [Fill(Box.whole(match.target.shape), schemes.Zeros(), f"{table.weight.name} has no bias")]
            bias = schemes.SubTokens(table=table.bias, pieces=pieces)
            return [Fill(Box.whole(match.target.shape), bias, f"as the weight, of {table.bias}")]

        return ChangePlan(fills=fills, drop=frozenset({table.weight.name, table.bias} - {None}))

    def _of(self, labels: Sequence[str]) -> dict[str, Sequence[str]]:
        strange = [label for label in self.words if label not in labels]
        missing = [label for label in labels if self.words and not self.words.get(label)]
        if strange or missing:
            raise PlanError(
                f"verbalizer: labels without words: {join_names(missing) or 'none'}; words for labels that the config "
                f"doesn't have: {join_names(strange) or 'none'}; its labels are {join_names(labels)}"
            )
        return {label: self.words.get(label) or [label] for label in labels}


@dataclass(frozen=True)
class WordTable:
    """The vocabulary's rows in the source.

    Attributes:
        is_head: whether they are the language model's head, or tied to it; else the input embeddings.
    """

    weight: SourceTensor
    bias: str | None
    is_head: bool


def _word_table(target: Target, layer: LastLayer) -> WordTable:
    """Return the language model's head of the source; where it has none, its input embeddings.

    Raises:
        PlanError: there is neither of the layer's width, or features are transformed before they meet the rows.
    """
    width = next(t.shape[1] for t in target.layout.tensors if t.name == layer.weight)
    size = getattr(text_config(target.model.config), "vocab_size", 0)
    held = [tensor for tensor in (*target.source, *target.dropped) if not tensor.second]
    found = [tensor for tensor in held if tensor.shape == (size, width)]
    if not found:
        raise PlanError(
            f"verbalizer: the checkpoint has no table of {size} words with {width} columns, as {layer.weight}"
        )
    placed = {tensor.address for tensor in target.layout.tensors}
    head = next((tensor for tensor in found if tensor.address not in placed), None)
    layers = [  # of a head of its own: it sees other features than a classifier
        tensor.name
        for tensor in (*target.source, *target.dropped)
        if tensor.address not in placed and len(tensor.shape) == 2 and tensor != head
    ]
    if any("transform" in name or ".dense." in name for name in layers):
        raise PlanError(
            f"verbalizer: the language-model head has a layer before its rows ({join_names(layers)}), which "
            f"{type(target.model).__name__} has no place for, so that its rows don't fit; give the words as examples "
            "instead: head='class_means', examples=[(word, label), ...]"
        )
    weight = head or found[0]
    is_head = head is not None or any(word in target.base.class_name for word in TIED)
    own = weight.name.removesuffix("weight") + "bias"
    spare = [tensor.name for tensor in held if tensor.shape == (size,) and tensor.address not in placed]
    tied = spare[0] if spare and is_head else None  # a tied head's bias has a name of its own
    return WordTable(weight, own if own in spare else tied, is_head)


def _word_pieces(target: Target, words: Mapping[str, Sequence[str]], *, first: bool) -> tuple[tuple[int, ...], ...]:
    """Return for each label the ids of its words' pieces, each word as it stands within a text."""
    tokenizer = tokenizer_of(target.base.folder)
    found = {
        text: tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
        for texts in words.values()
        for text in texts
    }
    void = [text for text, ids in found.items() if not ids or set(ids) == {tokenizer.unk_token_id}]
    if void:
        raise PlanError(
            f"verbalizer: words that tokenize to nothing known: {join_names([repr(text) for text in void])}"
        )
    return tuple(
        tuple(id for text in texts for id in (found[text][:1] if first else found[text])) for texts in words.values()
    )
