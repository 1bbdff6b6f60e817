"""One model type under transformers' own tests of making, loading and saving: as it is, and through hf_init's mixin.

The tests are those of ``tests/test_modeling_common.py`` in the source distribution of the transformers installed here,
which ``library_tests.py`` fetches; tester, config and inputs are this module's.
"""

from __future__ import annotations

import sys
import time
import unittest
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from _sweep_pairs import Outcome, Pair, _class, classes
from _sweep_shrink import Unreachable, config_for, tiny_config
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_init import InitMixin
from hf_init._function.inputs import seeded_inputs

MOST = 2  # classes of a type: the base, and a head

TESTS = (
    "test_all_tensors_are_parameter_or_buffer",
    "test_attn_implementation_composite_models",
    "test_base_model_prefix_loads_base_weights",
    "test_bc_torch_dtype",
    "test_can_be_initialized_on_meta",
    "test_can_init_all_missing_weights",
    "test_can_load_from_already_mapped_keys",
    "test_can_load_ignoring_mismatched_shapes",
    "test_can_load_with_device_context_manager",
    "test_can_set_attention_dynamically",
    "test_can_set_attention_dynamically_composite_model",
    "test_can_use_safetensors",
    "test_cannot_load_with_meta_device_context_manager",
    "test_correct_missing_keys",
    "test_cpu_offload",
    "test_disk_offload_bin",
    "test_disk_offload_safetensors",
    "test_from_pretrained_no_checkpoint",
    "test_init_weights_can_init_buffers",
    "test_internal_model_config_and_subconfig_are_same",
    "test_keep_in_fp32_modules",
    "test_keep_in_fp32_modules_exist",
    "test_keep_in_fp32_modules_strict_also_hardcode_fp32",
    "test_load_contiguous_weights",
    "test_load_save_without_tied_weights",
    "test_load_with_mismatched_shapes",
    "test_model_base_model_prefix",
    "test_model_get_set_embeddings",
    "test_model_weights_reload_no_missing_tied_weights",
    "test_peft_gradient_checkpointing_enable_disable",
    "test_resize_embeddings_untied",
    "test_resize_embeddings_untied_no_reinit_on_post_init",
    "test_resize_position_vector_embeddings",
    "test_resize_tokens_embeddings",
    "test_reverse_loading_mapping",
    "test_save_load",
    "test_save_load_keys_to_ignore_on_save",
    "test_sdpa_can_dispatch_composite_models",
    "test_sdpa_can_dispatch_non_composite_models",
    "test_tied_weights_are_sharded_together",
    "test_tied_weights_keys",
    "test_torch_save_load",
    "test_tp_plan_matches_params",
)
"""What of the library's tests is about initialization, loading, saving, tying, resizing, dtypes, meta and buffers."""


def common_tests() -> Any:
    """The library's mixin of tests; what it imports from files that its distribution lacks is stood in for."""
    for path, name in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        package = ModuleType(f"tests.{path.split('.')[0]}")
        package.__path__ = []
        module = ModuleType(f"tests.{path}")
        vars(module)[name] = type(name, (), {})
        sys.modules |= {package.__name__: package, module.__name__: module}
    return import_module("tests.test_modeling_common").ModelTesterMixin  # of what library_tests.py put on the path


def run_type(model_type: str, folder: Path) -> Outcome:
    """Every test, with the plain classes and with those classes through the mixin."""
    start, outcome = time.monotonic(), Outcome(model_type)
    logging.set_verbosity_warning()  # some tests read the library's warnings
    try:
        config, some = _classes_of(model_type)
    except Unreachable as error:
        outcome.unreachable = str(error)
    else:
        outcome.base = ", ".join(cls.__name__ for cls in some)
        inputs = {cls.__name__: _inputs(cls, config) for cls in some}
        plain = _suite(config, some, inputs)
        mixed = _suite(config, [through_the_mixin(cls) for cls in some], inputs)
        outcome.pairs = [_pair(test, plain, mixed) for test in TESTS]
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def through_the_mixin(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class's like with the mixin before it; the tests ask for its name and its file."""
    return type(cls.__name__, (InitMixin, cls), {"__module__": cls.__module__})


def _classes_of(model_type: str) -> tuple[PreTrainedConfig, list[type[PreTrainedModel]]]:
    """A tiny config and the classes that it makes: the base class, one that generates, one that classifies."""
    first, *names = [name for name in classes()[model_type] if not name.endswith("MultipleChoice")]
    base, heads = _class(first), [_class(name) for name in names]
    words = [cls for cls in heads if cls.can_generate()]
    kinds = [words, [cls for cls in heads if cls.__name__.endswith("Classification")], heads]
    heads = list(dict.fromkeys([*(some[0] for some in kinds if some), *heads]))[: MOST - 1]
    config = config_for(base, tiny_config(model_type, [base, *heads]))
    return config, [base, *(cls for cls in heads if isinstance(config, cls.config_class) and _made(cls, config))]  # type: ignore[arg-type]


def _made(cls: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    try:
        with torch.device("meta"):
            cls(deepcopy(config))
    except Exception:  # whatever a model's own code says of a config that it can't use
        return False
    return True


def _inputs(cls: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Inputs that a class's forward takes; none where nothing simple is what it wants."""
    torch.manual_seed(0)
    try:
        model = cls(deepcopy(config)).eval()
        for made in seeded_inputs(model):
            if _reads(model, made):
                return made
    except Exception:  # as above
        pass
    return {}


@torch.no_grad()
def _reads(model: PreTrainedModel, made: Mapping[str, torch.Tensor]) -> bool:
    try:
        model(**made)
    except Exception:  # as above
        return False
    return True


class _Tester:
    """What the library's tests ask for a config and inputs."""

    is_training, num_choices, batch_size = False, 2, 2

    def __init__(self, config: PreTrainedConfig, inputs: Mapping[str, torch.Tensor]) -> None:
        self._config, self._inputs = config, inputs

    def get_config(self) -> PreTrainedConfig:
        return deepcopy(self._config)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        return self.get_config(), deepcopy(dict(self._inputs))


def _suite(
    config: PreTrainedConfig,
    some: Sequence[type[PreTrainedModel]],
    inputs: Mapping[str, Mapping[str, torch.Tensor]],
) -> type[unittest.TestCase]:
    """The library's tests of some classes."""

    class Suite(common_tests(), unittest.TestCase):
        all_model_classes = tuple(some)
        is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        _is_composite = bool(config.sub_configs)
        test_resize_position_embeddings = (
            some[0].resize_position_embeddings is not PreTrainedModel.resize_position_embeddings
        )
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self) -> None:
            torch.manual_seed(0)
            self.model_tester = _Tester(config, inputs[some[0].__name__])

        def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
            return {
                name: inputs_dict.get(name, value) for name, value in deepcopy(inputs[model_class.__name__]).items()
            }

    return Suite


def _pair(test: str, plain: type[unittest.TestCase], mixed: type[unittest.TestCase]) -> Pair:
    """How a test ends of the plain classes, and, where it passes, through the mixin."""
    before, why = _run(plain(test))
    if before != "passed":
        return Pair(test, "unreachable", plain=before, plain_why=why[:200])
    after, why = _run(mixed(test))
    return Pair(test, "passed" if after == "passed" else "wrong", why[-700:], plain="right")


def _run(case: unittest.TestCase) -> tuple[str, str]:
    result = unittest.TestResult()
    case.run(result)
    if wrong := [*result.failures, *result.errors]:
        return "fails", " | ".join(said[-500:] for _, said in wrong[:2])
    return ("skips", result.skipped[0][1]) if result.skipped else ("passed", "")
