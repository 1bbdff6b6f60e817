"""What the tests share: real checkpoints, tiny ones made from configs, and a clean state of torch before each test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

# Before anything imports transformers or huggingface_hub, which read them once.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed prints what it finds when accelerate unwraps a model

import pytest
from hub_server import serve as serve
from hypothesis import settings
from warm_process import WarmProcess

# The same examples on every run, and no limit on the time of one: machines differ.
settings.register_profile("hf_init", deadline=None, derandomize=True)
settings.load_profile("hf_init")

FETCH = Path(__file__).parent.parent / "scripts" / "fetch_checkpoints.py"


LONG = ("sharded", "laws", "guides", "sweep", "law", "multihead_model", "growth_sizes", "write_stage", "growth")
"""The files that take longest: they come first, so that several processes end together."""


TABLES = (
    "refusals",
    "growth",
    "growth_sizes",
    "mixin_values",
    "leftover",
    "towers",
    "classes",
    "tokens",
    "write_stage",
)
"""The files whose tables the quick suite runs a part of."""
MANY, EVERY = 8, 8
"""Of tables with so many rows it runs every eighth."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))
    tables: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.name in {f"test_{name}.py" for name in TABLES}:
            tables.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for rows in (rows for rows in tables.values() if len(rows) >= MANY):
        for item in (row for number, row in enumerate(rows) if number % EVERY):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _own_notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test read or leave a note of where a base is in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """A user's process that has imported torch and transformers, and not hf_init; it has no model code of others."""
    bring = "import torch, transformers; transformers.BertModel; torch.set_num_threads(1)"
    process = WarmProcess(bring, HF_HOME=str(tmp_path_factory.mktemp("home")))
    yield process
    process.close()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2: BERT without a head, float32. Its files are read-only."""
    return _fetch("minilm")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: Llama, bfloat16, tied embeddings. Its files are read-only."""
    return _fetch("smollm2")


def _fetch(name: str) -> Path:
    # In a process of its own: the conversion must not touch this one's state, nor be judged by its warning filters.
    done = subprocess.run([sys.executable, FETCH, name], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny checkpoint by name: "bert", "llama", "gpt2" or "mixtral" (see ``_tiny_model``).

    Made from a config, once a session; the files are read-only.
    """

    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp(f"tiny-{name}")
        _tiny_model(name).save_pretrained(path)
        for file in path.iterdir():
            file.chmod(0o444)
        return path

    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny checkpoint by its name in ``bases.BASES``, made once a session, or of a real one."""
    from bases import make_base

    @cache
    def folder(name: str) -> Path:
        if name in ("minilm", "smollm2"):
            return _fetch(name)
        return make_base(name, tmp_path_factory.mktemp("base") / name.replace(" ", "-"))

    return folder


@pytest.fixture(scope="session")
def results(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Give a row of the table of changes by its name, planned, written, proved and loaded, once a session."""
    from changes import CHANGES
    from results import done

    return cache(lambda name: done(CHANGES[name], bases, tmp_path_factory.mktemp("row")))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the folder of a tiny model by its family in ``grown_families.GROWN``, and its dtype."""
    import torch
    from grown_families import write_family

    @cache
    def folder(name: str, dtype: torch.dtype = torch.float32) -> Path:
        return write_family(name, dtype, tmp_path_factory.mktemp("family") / name)

    return folder


@pytest.fixture
def based(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny Llama for a tokenizer, and give its folder (see ``trained_tokenizers.write_based``)."""
    from trained_tokenizers import write_based

    return partial(write_based, tmp_path / "base")


def _tiny_model(name: str):
    """BERT without a head; Llama (tied) and GPT-2 (tied, Conv1D) and Mixtral (4 experts, untied) with a language head.

    Vocabulary 96, hidden size 32, 2 layers, 4 heads, float32.
    """
    import torch
    import transformers

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    size = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    size["max_position_embeddings"] = 64
    end = {"bos_token_id": 1, "eos_token_id": 2}
    recipes = {
        "bert": (transformers.BertModel, transformers.BertConfig, {**size, "num_attention_heads": 4}),
        "llama": (
            transformers.LlamaForCausalLM,
            transformers.LlamaConfig,
            {**size, **heads, **end, "tie_word_embeddings": True},
        ),
        "gpt2": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config,
            {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **end},
        ),
        "mixtral": (
            transformers.MixtralForCausalLM,
            transformers.MixtralConfig,
            {**size, **heads, **end, "num_local_experts": 4, "tie_word_embeddings": False},
        ),
    }
    model_class, config_class, arguments = recipes[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config_class(**arguments))


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """Put torch's global random state and default dtype back after a test. Imports no torch where a test needs none."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    dtype, random = torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_default_dtype(dtype)
    torch.set_rng_state(random)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small products: threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
