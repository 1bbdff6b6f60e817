"""What an extension's new tokens do to a language model, measured on texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_init._architecture import is_causal_class, quiet_library, text_config, without_zero3
from hf_init._checkpoint import config_json, folder_of
from hf_init._distill import places_behind
from hf_init._errors import PlanError
from hf_init._probe.logit_differences import Differences, DifferencesBehind, TokenIds, logits_of, read_logits
from hf_init._probe.probe_report import BehindToken, ProbeReport, Reading
from hf_init._probe.texts import passages
from hf_init._text import one_line
from hf_init._vocabulary import TEXTS, TokenSplitter, ids_of, load_tokenizer, split_words

LONGEST = 256
"""Tokens of a passage, at most: longer texts are cut."""


def probe_vocabulary(base: str | Path, out: str | Path, texts: Iterable[str] | None = None) -> ProbeReport:
    """Measure what new tokens do to a model before any training, on texts written in old and in new tokens.

    Both models are loaded, in float32 on the CPU, and read the texts passage by passage. Each passage is predicted
    from its first token on, behind a start token.

    Args:
        base: the checkpoint folder or hub id of a causal language model.
        out: the extended one.
        texts: what to read; None: a few paragraphs and programs that come with hf_init.

    Returns:
        Probability that the new tokens take, KL divergence over the old ones, changed greedy choices, bits per byte;
        and how the result reads on behind each new token, against the base behind its pieces.

    Raises:
        PlanError: not a causal language model, no texts, or tokenizers that share no start token.
        CheckpointError: a folder or its tokenizer can't be read.

    Example::

        print(probe_vocabulary("base", "out", ["A text of yours."]))
    """
    texts = checked_texts(texts)
    pair = ModelPair.of(base, out)
    sums, behind, readings = Differences(), DifferencesBehind(), [Reading(0.0, 0, 0)] * 3
    for passage in pair.passages(texts):
        for index, reading in enumerate(pair.read(passage, sums, behind)):
            readings[index] += reading
    if not sums.positions:
        raise PlanError(f"{out}: no passage of the texts can be written in tokens that both vocabularies have")
    return ProbeReport(
        base=str(base),
        out=str(out),
        new=len(pair.ids.new),
        old=len(pair.ids.before),
        positions=sums.positions,
        mass=sums.mass / sums.positions,
        most_mass=sums.most_mass,
        kl=sums.kl / sums.positions,
        most_kl=sums.most_kl,
        changed=sums.changed,
        base_reading=readings[0],
        old_reading=readings[1],
        new_reading=readings[2],
        words=len({word for text in texts for word in text.split()}),
        split_words=pair.split_words(texts),
        behind=pair.behind(behind),
    )


@dataclass(frozen=True)
class ModelPair:
    """A base and its extension, with their tokenizers.

    Attributes:
        shared: of every token that both have, its id in the base to its id in the result.
        start: the base's id of the token behind which a text starts.
    """

    models: tuple[PreTrainedModel, PreTrainedModel]
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
    shared: Mapping[int, int]
    start: int

    @classmethod
    def of(cls, base: str | Path, out: str | Path) -> ModelPair:
        """Load both.

        Raises:
            PlanError, CheckpointError: as ``probe_vocabulary``.
        """
        folders = folder_of(base), folder_of(out)
        for folder in folders:
            check_language_model(folder)
        before, after = load_tokenizer(folders[0]), load_tokenizer(folders[1])
        ids_after = ids_of(after)
        shared = {id_: ids_after[text] for text, id_ in ids_of(before).items() if text in ids_after}
        start = start_id(before)
        if start not in shared:
            raise PlanError(f"{out}: its tokenizer lacks the token behind which a text of {base} starts; take another")
        return cls((load_model(folders[0]), load_model(folders[1])), (before, after), shared, start)

    @cached_property
    def ids(self) -> TokenIds:
        before, after = map(ids_of, self.tokenizers)
        lists = (
            list(self.shared),
            list(self.shared.values()),
            [id_ for text, id_ in after.items() if text not in before],
            [id_ for text, id_ in before.items() if text not in after],
        )
        return TokenIds(*(torch.tensor(ids, dtype=torch.int64) for ids in lists))

    def split_words(self, texts: Iterable[str]) -> dict[str, str]:
        """Return the words that the result splits otherwise, though none is a new token, with their pieces."""
        before, after = map(TokenSplitter, self.tokenizers)
        return split_words(texts, after.vocabulary.keys() - before.vocabulary.keys(), before, after)

    def passages(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield the texts in passages that both models can read."""
        return passages(
            texts, lambda text: max(len(token_ids(one, text)) for one in self.tokenizers), longest_passage(self.models)
        )

    def behind(self, found: DifferencesBehind) -> dict[str, BehindToken]:
        """Return what was found behind each new token, by its text, the worst first."""
        texts = {id_: text for text, id_ in ids_of(self.tokenizers[1]).items()}
        by_token = {
            texts[id_]: BehindToken(each.positions, each.kl / each.positions, each.changed)
            for id_, each in found.by_token.items()
        }
        return dict(sorted(by_token.items(), key=lambda item: -item[1].kl))

    def read(self, text: str, sums: Differences, behind: DifferencesBehind) -> Iterator[Reading]:
        """Yield the base's reading, and those of the result in old and in its own tokens; add their differences up.

        A passage with old tokens that are no more gives none.
        """
        old, new = (token_ids(tokenizer, text) for tokenizer in self.tokenizers)
        if not self.shared.keys() >= set(old):
            return
        start, renumbered = self.shared[self.start], [self.shared[id_] for id_ in old]
        before, after = logits_of(self.models[0], self.start, old), logits_of(self.models[1], start, renumbered)
        sums.add(before, after, self.ids)
        yield read_logits(before, torch.tensor(old), text)
        yield read_logits(after, torch.tensor(renumbered), text)
        own = logits_of(self.models[1], start, new)
        if all(tokenizer.is_fast for tokenizer in self.tokenizers):
            behind.add(before, own, places_behind(text, *self.tokenizers, frozenset(self.ids.new.tolist())), self.ids)
        yield read_logits(own, torch.tensor(new), text)


def checked_texts(texts: Iterable[str] | None) -> list[str]:
    """Return the texts, or those that come with hf_init.

    Raises:
        PlanError: there is none, or one isn't a text.
    """
    if isinstance(texts, str):
        raise PlanError("texts: expected a list of texts, not one text; put it in a list")
    result = list(TEXTS if texts is None else texts)
    others = [type(text).__name__ for text in result if not isinstance(text, str)]
    if others or not any(text.strip() for text in result):
        raise PlanError(f"texts: expected texts to read, seen {', '.join(others) or 'none'}; give some")
    return result


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return a text's ids, without control tokens around it."""
    with quiet_library():  # a text longer than the model takes is cut afterwards, and no warning is due
        return list(tokenizer.encode(text, add_special_tokens=False))


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token behind which a text starts.

    Raises:
        PlanError: the tokenizer names none.
    """
    for id_ in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(id_, int):
            return id_
    raise PlanError("the tokenizer names neither a bos_token nor an eos_token, behind which a text could start")


def check_language_model(folder: Path) -> None:
    """Raise PlanError if a folder's model isn't a causal language model."""
    names = config_json(folder).get("architectures") or ["nothing"]
    check_kind(str(folder), names[0])


def check_kind(what: str, architecture: str) -> None:
    """Raise PlanError if a class isn't that of a causal language model."""
    if not is_causal_class(architecture):
        raise PlanError(
            f"{what} is a {architecture}, which isn't asked for the next token of a text; only a causal language model "
            "can be probed"
        )


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a folder's causal language model, on the CPU, in evaluation mode.

    Raises:
        PlanError: it is none, or can't be loaded.
    """
    check_language_model(folder)
    try:
        with quiet_library(), without_zero3():
            return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise PlanError(f"{folder} can't be loaded: {one_line(error)}") from error


def longest_passage(models: Sequence[PreTrainedModel]) -> int:
    """Return how many tokens a passage may have, behind its start token."""
    positions = [getattr(text_config(model.config), "max_position_embeddings", None) for model in models]
    return min([LONGEST, *(count - 1 for count in positions if isinstance(count, int) and count > 1)])
