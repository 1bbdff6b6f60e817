"""Labelled examples: from a file or from Python, as batches that a model takes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoTokenizer

from hf_init._errors import HfInitError, PlanError, option
from hf_init._heads.labelled import TaskKind
from hf_init._paths import user_path
from hf_init._text import join_names, one_line

FORMS = (
    "a .jsonl, .json, .csv or .tsv file with text and label, a list of (text, label) pairs, or an iterable of batches "
    "(mappings of tensors with labels)"
)
TEXTS, PAIRS, LABELS = ("text", "sentence", "sentence1", "tokens"), ("text_pair", "sentence2"), ("label", "labels")
BATCH_SIZE = 32
IGNORED = -100  # what the library's losses leave out

ExampleBatch = Mapping[str, torch.Tensor]
LabelNumber: TypeAlias = "float | list[LabelNumber] | None"
"""A label, or several, as a model takes them; None: not known."""


@dataclass(frozen=True)
class ExampleText:
    """One example in words: a text, or words with a label each.

    Attributes:
        label: a name or number; a list of names, or 0 or 1 for every label, where a text may have several.
    """

    text: str | tuple[str, ...]
    label: object
    pair: str | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as the user gave them: in words, or ready for the model.

    Attributes:
        texts: in words. batches: ready; one of the two is empty.
    """

    texts: tuple[ExampleText, ...] = ()
    batches: tuple[ExampleBatch, ...] = ()

    @classmethod
    def of(cls, given: object) -> Examples:
        """Read the examples that a user gives.

        Raises:
            PlanError: they are none; it says what is expected.
        """
        if isinstance(given, Examples):
            return given
        if isinstance(given, (str, Path)):
            rows = enumerate(_rows_of_file(user_path(given)), 1)
            return cls(tuple(_example_text(row, f"{given}, example {n}") for n, row in rows))
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            raise PlanError(f"examples: expected {FORMS}, not {type(given).__name__}")
        items = list(given)
        batches = [item for item in items if isinstance(item, Mapping) and "labels" in item]
        if (
            items
            and len(batches) == len(items)
            and all(isinstance(v, torch.Tensor) for b in batches for v in b.values())
        ):
            return cls(batches=tuple({key: item[key].detach().cpu() for key in item} for item in items))
        return cls(tuple(_example_text(item, f"examples, number {n}") for n, item in enumerate(items, 1)))

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of everything in them."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps([text.text, text.pair, text.label], default=str).encode() + b"\n")
        for batch in self.batches:
            for key in sorted(batch):
                digest.update(f"{key}\0{batch[key].dtype}\0{tuple(batch[key].shape)}\0".encode())
                digest.update(batch[key].contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.texts) + sum(len(batch["labels"]) for batch in self.batches)

    def ready(self, folder: Path, label2id: Mapping[str, int], kind: TaskKind = "softmax") -> Iterator[ExampleBatch]:
        """Yield batches for a model, each with ``labels``: class numbers, answers for each label, or numbers.

        Args:
            folder: holds the tokenizer.
            label2id: the numbers of the labels' names; of no use for regression.
            kind: of the model's outputs.

        Raises:
            PlanError: a label that the config doesn't have, or a text that can't be tokenized.
        """
        if self.batches:
            yield from self.batches
            return
        numbers = self.numbers(label2id, kind)
        tokenizer = tokenizer_of(folder)
        for start in range(0, len(self.texts), BATCH_SIZE):
            yield _encode_batch(tokenizer, self.texts[start : start + BATCH_SIZE], numbers[start : start + BATCH_SIZE])

    def numbers(self, label2id: Mapping[str, int], kind: TaskKind) -> list[LabelNumber]:
        """Return the label, or labels, of every text as a model takes them; nothing where the examples are batches.

        Raises:
            PlanError: a label that the config doesn't have, or not the same sort of them throughout.
        """
        read = _label_answers if kind == "sigmoid" else _number_of_label
        known = {} if kind == "regression" else label2id
        numbers = [read(text.label, known) for text in self.texts]
        unknown = sorted({str(text.label) for text, n in zip(self.texts, numbers, strict=True) if _is_unknown(n)})
        if unknown:
            names = join_names(list(known)) if known else "none, so that a number is expected"
            raise PlanError(
                f"examples: labels that the config doesn't have: {join_names(unknown)}; its labels: {names}"
            )
        # The labels of whole texts make one tensor: one each, or as many each.
        whole = [number for number, text in zip(numbers, self.texts, strict=True) if isinstance(text.text, str)]
        sizes = {len(number) if isinstance(number, list) else 0 for number in whole}
        if kind == "softmax" and sizes - {0}:
            raise PlanError(
                f"{option('examples')}: a text has several labels; say "
                f"{option('config', {'problem_type': 'multi_label_classification'})}, or 'regression' where they are "
                "numbers"
            )
        if len(sizes) > 1:
            raise PlanError("examples: some texts have more labels than others; give as many numbers for each")
        return numbers


def tokenizer_of(folder: Path) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        PlanError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise PlanError(
            f"{folder} has no tokenizer that can be loaded ({one_line(error)}); give batches ready for the model"
        ) from error


def _rows_of_file(path: Path) -> Iterator[object]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix in (".csv", ".tsv"):
                yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            elif path.suffix == ".jsonl":
                yield from (json.loads(line) for line in file if line.strip())
            elif path.suffix == ".json":
                yield from json.load(file)
            else:
                raise PlanError(f"examples: {path}: unknown kind of file; expected {FORMS}")
    except OSError as error:
        raise PlanError(f"examples: {path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise PlanError(f"examples: {path}: not what its name says: {one_line(error)}") from error


def _example_text(item: object, where: str) -> ExampleText:
    if isinstance(item, Mapping):
        text, pair, label = (next((item[k] for k in keys if k in item), None) for keys in (TEXTS, PAIRS, LABELS))
    elif isinstance(item, (tuple, list)) and len(item) in (2, 3):
        text, label, pair = item[0], item[-1], (item[1] if len(item) == 3 else None)
    else:
        raise PlanError(f"{where}: expected text and label, found {item!r:.80}; examples are {FORMS}")
    if not isinstance(text, Sequence) or not text or not all(isinstance(word, str) for word in text):
        raise PlanError(f"{where}: it has not a text: {item!r:.80}")
    if label is None:
        raise PlanError(f"{where}: it has not a label: {item!r:.80}")
    if not isinstance(text, str) and not (isinstance(label, (list, tuple)) and len(label) == len(text)):
        raise PlanError(f"{where}: {len(text)} words need a label each, not {label!r:.80}")
    return ExampleText(text if isinstance(text, str) else tuple(text), label, pair)


def _number_of_label(label: object, label2id: Mapping[str, int]) -> LabelNumber:
    """Return a label's number: by its name, by the number itself, or a list of them; None where it has none."""
    if isinstance(label, (list, tuple)):
        return [_number_of_label(each, label2id) for each in label]
    if not label2id:
        return _finite_float(label)
    if isinstance(label, str) and label in label2id:
        return label2id[label]
    number = _finite_float(label)
    whole = number is not None and number == int(number) and (0 <= number < len(label2id) or number == IGNORED)
    return int(number) if whole and number is not None else None


def _label_answers(label: object, label2id: Mapping[str, int]) -> LabelNumber:
    """Return 1 for the labels that a text has, 0 for the others; None where one of them isn't known.

    Args:
        label: a name, a list of names, or the answers themselves.
    """
    names = [label] if isinstance(label, str) else label
    if not isinstance(names, (list, tuple)):
        return None
    if names and not any(isinstance(name, str) for name in names):
        return [_finite_float(name) for name in names] if len(names) == len(label2id) else None
    if not all(isinstance(name, str) and name in label2id for name in names):
        return None
    return [float(name in names) for name in label2id]


def _is_unknown(number: LabelNumber) -> bool:
    return any(map(_is_unknown, number)) if isinstance(number, list) else number is None


def _finite_float(label: Any) -> float | None:
    try:
        number = float(label)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def _encode_batch(tokenizer: Any, texts: Sequence[ExampleText], numbers: Sequence[Any]) -> ExampleBatch:
    words = not isinstance(texts[0].text, str)
    pairs = [text.pair for text in texts] if texts[0].pair is not None else None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        [list(text.text) if words else text.text for text in texts],
        pairs,
        is_split_into_words=words,
        padding=True,
        truncation=True,
        max_length=min(tokenizer.model_max_length, 512),
        return_tensors="pt",
    )
    if not encoded["attention_mask"].sum(1).all():
        raise HfInitError("examples: a text tokenizes to nothing; remove it")
    if not words:
        return {**encoded, "labels": torch.tensor(numbers)}
    labels = torch.full(encoded["input_ids"].shape, IGNORED)
    for row, mine in enumerate(numbers):
        word_ids = encoded.word_ids(row)
        for index, word in enumerate(word_ids):
            if word is not None and (index == 0 or word_ids[index - 1] != word):  # its first piece; others are ignored
                labels[row, index] = mine[word]
    return {**encoded, "labels": labels}
