"""``hf-init check``: a folder loaded by the library, and a batch made for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel

from hf_init._architecture import Architecture, Target, quiet_library, without_zero3
from hf_init._check.batch import check
from hf_init._check.report import CheckReport
from hf_init._checkpoint import BaseCheckpoint, folder_of
from hf_init._errors import CheckpointError, PlanError
from hf_init._multihead import MultiHead, labels_for
from hf_init._plan import MANIFEST_NAME
from hf_init._text import one_line

TEXTS = (
    "The train to the coast leaves at seven and arrives before noon.",
    "I was told it would last for years, but it broke within a week.",
    "Water boils at a lower temperature on a mountain than at the sea.",
    "She thanked everyone who had helped, and promised to write soon.",
    "Return the index of the first element that is greater than the key.",
    "Nobody at the counter could say when the parcel would be delivered.",
    "The garden behind the old house is full of roses every summer.",
    "If the list is empty, the function raises an error with a message.",
)
"""What a tokenizer is given where no texts are."""

_IMAGES = 4

Labels: TypeAlias = "Sequence[str | int | float] | None"
"""One a text or image, a number or a name; None where they are made up."""


def check_folder(
    folder: str | Path,
    texts: Sequence[str] | None = None,
    labels: Labels = None,
    train: bool = False,
    architecture: Architecture = None,
    trust_remote_code: bool | None = None,
    subfolder: str = "",
    verbose: bool = False,
    **hub: Any,
) -> CheckReport:
    """Load a folder with the library, make a small batch for it, and check it: what ``hf-init check`` does.

    Args:
        folder: what ``extend`` wrote, or any other that says its architecture; or a hub id.
        texts: one or more; None: eight short built-in ones. For an image model there are none: it gets noise.
        labels: one a text, its number or its name; None: every class in turn, or 0 and 1 in turn for a regression.
        train: in training mode, with dropout.
        architecture: the folder's class, where its config names one that isn't the library's.
        trust_remote_code: run the model code in the folder.
        verbose: as in ``check``.
        hub: of a hub id: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

    Raises:
        CheckpointError: the folder can't be loaded.
        PlanError: no batch is known for its architecture, or the texts and labels don't fit.

    Example::

        print(check_folder("sentiment"))
    """
    place = folder_of(folder, subfolder, **hub)
    if labels is not None and texts is not None and len(labels) != len(texts):
        raise PlanError(f"{len(texts)} texts and {len(labels)} labels: give one label a text")
    target = Target.of(BaseCheckpoint.open(place), architecture, values={}, changed={}, trust=trust_remote_code)
    try:
        with quiet_library(), without_zero3():
            model = target.cls.from_pretrained(place, config=target.config, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{place} can't be loaded: {one_line(error)}") from error
    of_images = model.main_input_name == "pixel_values"
    batch = _image_batch(model, labels) if of_images else _text_batch(model, place, texts, labels)
    model.train(train)
    return check(model, batch, plan=place if (place / MANIFEST_NAME).is_file() else None, verbose=verbose)


def _text_batch(model: PreTrainedModel, place: Path, texts: Sequence[str] | None, labels: Labels) -> dict[str, object]:
    if model.main_input_name != "input_ids":
        raise PlanError(
            f"{type(model).__name__} takes {model.main_input_name}, of which no batch can be made up; load the model "
            "yourself and call hf_init.check(model, batch)"
        )
    given = list(texts) if texts is not None else [*TEXTS][: len(labels) if labels is not None else len(TEXTS)]
    if not given:
        raise PlanError("no text: give one at least, or leave texts out")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place} has no tokenizer that can be loaded: {one_line(error)}") from error
    if tokenizer.pad_token is None:  # the mask covers it, whatever it is
        tokenizer.pad_token = tokenizer.eos_token
    encoded = dict(tokenizer(given, padding=True, truncation=True, max_length=128, return_tensors="pt"))
    return {**encoded, **_text_labels(model, encoded, labels)}


def _text_labels(model: PreTrainedModel, encoded: Mapping[str, torch.Tensor], labels: Labels) -> dict[str, object]:
    """Return the labels that the head's loss takes, by the kind of head in the class's name."""
    if isinstance(model, MultiHead):
        _check_no_labels(model, labels)
        return {"labels": labels_for(model.eval(), encoded)}
    ids, mask = encoded["input_ids"], encoded.get("attention_mask")
    kind = next((word for word in _HEADS if any(name.endswith(word) for name in _class_names(model))), None)
    if kind is None:
        raise PlanError(
            f"{type(model).__name__} has no head whose labels are known ({', '.join(_HEADS)}); load the model yourself "
            "and call hf_init.check(model, batch)"
        )
    if kind != "ForSequenceClassification":
        _check_no_labels(model, labels)
    if kind == "ForSequenceClassification":
        return {"labels": _example_labels(model, len(ids), labels)}
    if kind == "ForQuestionAnswering":
        start = torch.arange(len(ids)) % ids.shape[1]
        return {"start_positions": start, "end_positions": start}
    tokens = torch.arange(ids.numel()).reshape(ids.shape) % _num_labels(model)
    wanted = tokens if kind == "ForTokenClassification" else ids
    return {"labels": wanted if mask is None else wanted.masked_fill(mask == 0, -100)}


def _class_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a model's class, of what it inherits from, and of the auto classes that it is given for."""
    return [*(cls.__name__ for cls in type(model).__mro__), *(getattr(model.config, "auto_map", None) or {})]


def _check_no_labels(model: PreTrainedModel, labels: Labels) -> None:
    if labels is not None:
        raise PlanError(
            f"labels: {type(model).__name__} takes none by text; leave them out, they follow from the texts"
        )


_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForCausalLM",
    "LMHeadModel",
    "ForMaskedLM",
)


def _label_number(label: str | int | float, known: Mapping[str, object]) -> str | int | float:
    """Return the number of a label's name, or the one that a text spells: a command line has texts alone."""
    if not isinstance(label, str):
        return label
    if isinstance(number := known.get(label), int):
        return number
    try:
        return int(label) if label.isdecimal() else float(label)
    except ValueError:
        return label


def _example_labels(model: PreTrainedModel, many: int, labels: Labels) -> torch.Tensor:
    """Return labels of whole examples; where an example has several labels, one of them is on."""
    classes, problem = _num_labels(model), model.config.problem_type
    labels = None if labels is None else [_label_number(label, model.config.label2id or {}) for label in labels]
    if problem == "regression" or (problem is None and classes == 1):
        values = [at % 2 for at in range(many)] if labels is None else labels
        if texts := [value for value in values if isinstance(value, str)]:
            raise PlanError(f"labels: {texts[0]!r} is no number, and {type(model).__name__} predicts numbers")
        found = torch.tensor(values, dtype=torch.float32)
        return found if classes == 1 else found[:, None].expand(many, classes)
    values = [at % classes for at in range(many)] if labels is None else list(labels)
    wrong = [value for value in values if not isinstance(value, int) or not 0 <= value < classes]
    if wrong:
        raise PlanError(f"labels: {wrong[0]!r} is none of the {classes} classes, 0 to {classes - 1}")
    found = torch.tensor(values)
    return torch.nn.functional.one_hot(found, classes).float() if problem == "multi_label_classification" else found


def _num_labels(model: PreTrainedModel) -> int:
    return int(model.config.num_labels or 1)


def _image_batch(model: PreTrainedModel, labels: Labels) -> dict[str, object]:
    """Return noise as images, the same every time."""
    config = model.config.trunk if isinstance(model, MultiHead) else model.config
    if not isinstance(model, MultiHead) and not any(
        name.endswith("ForImageClassification") for name in _class_names(model)
    ):
        raise PlanError(
            f"{type(model).__name__} has no head whose labels are known (ForImageClassification); load the model "
            "yourself and call hf_init.check(model, batch)"
        )
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    many = _IMAGES if labels is None else len(labels)
    shape = (many, getattr(config, "num_channels", 3), height, width)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if isinstance(model, MultiHead):
        _check_no_labels(model, labels)
        return {"pixel_values": pixels, "labels": labels_for(model.eval(), {"pixel_values": pixels})}
    return {"pixel_values": pixels, "labels": _example_labels(model, many, labels)}
