"""The class asked for: by name, by the checkpoint's own word, or from the code that the checkpoint brings."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _get_model_class

from hf_init._architecture.library import is_the_librarys
from hf_init._checkpoint import describe_config
from hf_init._errors import CheckpointError, PlanError, option
from hf_init._paths import user_path
from hf_init._text import closest, join_names, one_line

HUB_TASKS = {
    "CAUSAL_LM": "text-generation",
    "IMAGE_CLASSIFICATION": "image-classification",
    "IMAGE_SEGMENTATION": "image-segmentation",
    "MASKED_LM": "fill-mask",
    "OBJECT_DETECTION": "object-detection",
    "QUESTION_ANSWERING": "question-answering",
    "SEQ_TO_SEQ_CAUSAL_LM": "text2text-generation",
    "SEQUENCE_CLASSIFICATION": "text-classification",
    "TABLE_QUESTION_ANSWERING": "table-question-answering",
    "TOKEN_CLASSIFICATION": "token-classification",
    "AUDIO_CLASSIFICATION": "audio-classification",
    "CTC": "automatic-speech-recognition",
    "SPEECH_SEQ_2_SEQ": "automatic-speech-recognition",
    "ZERO_SHOT_IMAGE_CLASSIFICATION": "zero-shot-image-classification",
    "IMAGE_TEXT_TO_TEXT": "image-text-to-text",
}
"""What the hub calls a task, by the library's name of its classes. transformers.modelcard says it, too, and brings the
Trainer, peft and what that brings (bitsandbytes, which prints) to every command."""


class AutoClass(Protocol):
    """An ``AutoModelFor*`` class; no public way asks one for a class without loading a model."""

    __name__: str
    _model_mapping: Mapping[type[PreTrainedConfig], type[PreTrainedModel] | Sequence[type[PreTrainedModel]]]


def has_same_head(cls: type, name: str) -> bool:
    """Return whether a class has the head of the class of this name: by name, by inheritance, or by its task.

    Example:
        >>> from transformers import BertForSequenceClassification as Bert
        >>> has_same_head(Bert, "BertForSequenceClassification"), has_same_head(Bert, "OtherForSequenceClassification")
        (True, True)
        >>> has_same_head(Bert, "BertForTokenClassification"), has_same_head(Bert, "BertModel")
        (False, False)
    """
    names = {base.__name__ for base in cls.__mro__}
    return name in names or (_task_of(name) != "" and _task_of(name) in map(_task_of, names))


def _task_of(name: str) -> str:
    """Return ``SequenceClassification`` of ``BertForSequenceClassification``; empty where the name has no task."""
    found = re.search(r"For([A-Z]\w*)$", name)
    return found[1] if found else ""


def is_causal_class(name: str) -> bool:
    """Return whether a class of this name is a causal language model of the library; no class is imported."""
    return name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def auto_classes(auto: AutoClass, config: PreTrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """Return every class that an ``AutoModelFor*`` class gives for a config; none where it has no place for it."""
    found = auto._model_mapping.get(type(config), ())
    return (found,) if isinstance(found, type) else tuple(found)


FILE_AND_CLASS = re.compile(r"\.py:\w*$")
SAY_WHICH = f"say which class to load it into: {option('architecture', 'CLASS')}"


def class_of(architecture: object, raw: Mapping[str, object], folder: Path, trust: bool | None) -> type:
    """Return the ``PreTrainedModel`` or ``AutoModelFor*`` class that a user gave; None means the checkpoint's own.

    Args:
        architecture: a class, its name, or None.
        raw: the checkpoint's ``config.json``.
        trust: whether code that the checkpoint brings may run.

    Raises:
        PlanError: there is no such class, or it comes as code that isn't trusted.
    """
    if architecture is None:
        return _own_class(raw, folder, trust)
    if isinstance(architecture, str):
        if FILE_AND_CLASS.search(architecture):
            return _class_in_file(architecture)
        found = (
            _class_in_library(architecture)
            or _registered_class(architecture, raw)
            or _class_in_folder(architecture, raw, folder, trust)
        )
        if found is None:
            known = f"transformers {transformers.__version__} has no model class {architecture!r}"
            raise PlanError(known + _close_classes(architecture))
        return found
    if _is_model_class(architecture):
        return architecture
    plain = isinstance(architecture, type) and issubclass(architecture, torch.nn.Module)
    raise PlanError(
        f"architecture: expected a PreTrainedModel class, an AutoModelFor* class or a name, not {architecture!r}"
        + ("; a plain module is made first, and filled by hf_init.initialize(module, base)" if plain else "")
    )


def _class_in_file(text: str) -> type:
    """Return the class of ``FILE.py:CLASS``, from a module that has the file's name, as an import beside it would."""
    path, _, name = text.rpartition(":")
    file = user_path(path).resolve()
    if not file.is_file():
        raise PlanError(f"{option('architecture')} {text!r}: there is no file {file}; expected FILE.py:CLASS")
    folder, module_name = file.parent, file.stem
    if re.search(r"(?m)^\s*from\s+\.", file.read_text(encoding="utf-8", errors="replace")):  # as code for the hub does
        folder, module_name = folder.parent, f"{folder.name}.{module_name}"
        while (folder / "__init__.py").is_file():
            folder, module_name = folder.parent, f"{folder.name}.{module_name}"
    sys.path.insert(0, str(folder))
    try:
        module = import_module(module_name)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise PlanError(f"{file} can't be imported: {type(error).__name__}: {one_line(error)}; mend it") from error
    finally:
        sys.path.remove(str(folder))
    where = getattr(module, "__file__", None)
    if where is None or Path(where).resolve() != file:
        raise PlanError(f"{file}: its name is that of another module, {where or file.stem}; give the file another name")
    found = getattr(module, name, None)
    if not _is_model_class(found):
        here = [
            key for key, value in vars(module).items() if _is_model_class(value) and value.__module__ == module_name
        ]
        listed = f"its classes of models: {join_names(here)}" if here else "it has no class of a model"
        raise PlanError(f"{file} has no PreTrainedModel class {name!r}{closest(name, here)}; {listed}")
    return found


def concrete(cls: type, config: PreTrainedConfig, folder: Path, trust: bool | None) -> type[PreTrainedModel]:
    """Return the class that an ``AutoModelFor*`` class stands for with this config."""
    if not issubclass(cls, _BaseAutoModelClass):
        return cls
    reference = (getattr(config, "auto_map", None) or {}).get(cls.__name__)
    mapping: Any = cls._model_mapping
    if reference and (trust or type(config) not in mapping):
        return remote(reference, folder, trust)
    if type(config) not in mapping:
        raise PlanError(f"{cls.__name__} has no class for model_type {config.model_type!r}; {_fitting_classes(config)}")
    return _get_model_class(config, mapping)


def check_misfit(cls: type[PreTrainedModel], config: PreTrainedConfig) -> None:
    """Raise PlanError unless the class is one for this config, by its own word or by that of an auto class."""
    wanted = getattr(cls, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return
    if not is_the_librarys(cls):
        prefix = f"{cls.base_model_prefix or 'PREFIX'}."
        raise PlanError(
            f"{cls.__name__} takes a {wanted.__name__}, and the checkpoint's config is of type {config.model_type!r}: "
            f"give one as an object, config={wanted.__name__}(...), and say where in the class the checkpoint goes, "
            f"base={{{prefix!r}: FOLDER}}"
        )
    # An auto class may give a class that was written for another config.
    if not any(cls in auto_classes(auto, config) for auto in _autos_for(config)):
        raise PlanError(
            f"{cls.__name__} is a class for model_type {wanted.model_type!r}, and the checkpoint is "
            f"{config.model_type!r}; {_fitting_classes(config)}"
        )


def remote(reference: object, folder: Path, trust: bool | None) -> type:
    """Return a class of the code that a checkpoint brings, which runs when it is imported.

    Raises:
        PlanError: it isn't trusted.
        CheckpointError: the code isn't there, or can't be imported.
    """
    if not trust:
        raise PlanError(
            f"{folder} brings its own model code ({reference}), which would be executed; read it, then pass "
            + option("trust_remote_code", True)
        )
    try:
        return get_class_from_dynamic_module(str(reference), str(folder))
    except (ImportError, OSError, SyntaxError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: its own model code ({reference}) can't be imported: {one_line(error)}. Copy or download the "
            "checkpoint again with its .py files, and install what they import"
        ) from error


def auto_map(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the classes that a checkpoint brings, by the ``Auto*`` class that stands for each."""
    found = raw.get("auto_map")
    return found if isinstance(found, dict) else {}


def _own_class(raw: Mapping[str, object], folder: Path, trust: bool | None) -> type:
    names = raw.get("architectures")
    if not names or not isinstance(names, list) or not isinstance(names[0], str):
        raise PlanError(f"{folder / 'config.json'} names no architecture; {describe_config(raw) or SAY_WHICH}")
    found = (
        _registered_class(names[0], raw)
        or _class_in_folder(names[0], raw, folder, trust)
        or _class_in_library(names[0])
    )
    if found is None:
        raise PlanError(
            f"{folder / 'config.json'}: architecture {names[0]!r} isn't in transformers {transformers.__version__}"
            f"{_close_classes(names[0])}; {SAY_WHICH}"
        )
    return found


def _class_in_folder(name: str, raw: Mapping[str, object], folder: Path, trust: bool | None) -> type | None:
    for auto, reference in auto_map(raw).items():
        if auto.startswith("AutoModel") and str(reference).rpartition(".")[2] == name:
            return remote(reference, folder, trust)
    return None


def _registered_class(name: str, raw: Mapping[str, object]) -> type | None:
    """Return the registered class of this name, of which the code in the folder is a copy."""
    kind, registered = raw.get("model_type"), CONFIG_MAPPING._extra_content
    if not isinstance(kind, str) or kind not in registered:
        return None
    config = registered[kind]
    for auto in (getattr(transformers, each) for each in sorted(dir(transformers)) if each.startswith("AutoModel")):
        found = getattr(getattr(auto, "_model_mapping", None), "_extra_content", {}).get(config)
        if found is not None and found.__name__ == name:
            return found
    return None


def _class_in_library(name: str) -> type | None:
    found = getattr(transformers, name, None) if name.isidentifier() else None
    return found if _is_model_class(found) else None


def _is_model_class(found: object) -> TypeGuard[type]:
    return isinstance(found, type) and issubclass(found, (PreTrainedModel, _BaseAutoModelClass))


def _close_classes(name: str) -> str:
    known = [word for word in dir(transformers) if "For" in word or word.endswith(("Model", "LMHeadModel"))]
    close = difflib.get_close_matches(name, known, n=3)
    return f"; close: {', '.join(close)}" if close else ""


def _fitting_classes(config: PreTrainedConfig) -> str:
    """Return a text that names the classes that do fit."""
    fitting = _autos_for(config)
    if not fitting:
        return "transformers has no class for it"
    names = [f"{auto.__name__} ({_get_model_class(config, auto._model_mapping).__name__})" for auto in fitting]
    return f"these fit: {', '.join(names)}"


def pipeline_task(name: str) -> str | None:
    """Return what the hub calls the task of a class, such as ``text-classification``, where it has a name for it."""
    names = {kind: getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES", {}) for kind in HUB_TASKS}
    return next((task for kind, task in HUB_TASKS.items() if name in names[kind].values()), None)


def label_classes(config: PreTrainedConfig) -> list[str]:
    """Return the names of the classes for this config whose head has a row for each label, by the auto classes."""
    fitting = [auto for auto in _autos_for(config) if auto.__name__.endswith("Classification")]
    return [_get_model_class(config, auto._model_mapping).__name__ for auto in fitting]


def _autos_for(config: PreTrainedConfig) -> list[AutoClass]:
    autos = [getattr(transformers, name) for name in sorted(dir(transformers)) if name.startswith("AutoModel")]
    return [auto for auto in autos if getattr(auto, "_model_mapping", None) and type(config) in auto._model_mapping]
