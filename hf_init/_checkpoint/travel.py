"""Which files go with a checkpoint's weights into what is made of it: one rule, for folders and for hub ids."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hf_init._checkpoint.header import GIT_LFS
from hf_init._checkpoint.strict import check_faults
from hf_init._checkpoint.weights import dead_link
from hf_init._errors import CheckpointError

MODULES = "modules.json"

_TEXTS = (
    "*.json", "*.txt", "*.model", "*.model.v*", "*.spm", "*.codes", "*.bpe", "*.vocab", "*.tokenizer", "*.tiktoken",
    "*.jinja", "*.py", "*.cpp", "*.cu", "*.cuh", "*.md", "*.yaml", "*.yml", "vocab", "merges", "licen[cs]e*",
    "notice*", "copying*", ".gitattributes", ".gitignore",
)  # fmt: skip
"""Tokenizer and vocabulary, processor, settings, templates, code, licence, card."""

_VOICES = ("speaker_embeddings/*", "spk_dict.pt")  # of Bark's processor, and of Qwen2.5-Omni's own loader
_DECODER, _DECODERS = "alphabet.json", "language_model"  # of a CTC processor that decodes with a language model
_DOCUMENTS = ("*.md", "licen[cs]e*", "notice*", "copying*", ".git*")

_WEIGHTS = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ckpt*", "*.ot", "*.gguf", "*.ggml", "*.onnx*",
    "*.distcp", "*.tflite", "*.pb", "*.pdparams", "*.npz", "*.mlmodel", "*.nemo", "*.engine",
)  # fmt: skip

_LEFT_FILES = (
    # of other weights: their indices and settings; adapters; exports
    "*.index.json", "*.index.*.json", "params.json", "adapter_config.json", "adapter_model.*", "ort_config.json",
    "genai_config.json", "openvino*", "ov_config.json",
    # of a training: its state, settings and results
    "trainer_state.json", "training_args.*", "optimizer.*", "scheduler.*", "rng_state*", "random_states*", "scaler.*",
    "*_results.json", "trainer_log*", "zero_to_fp32.py", "latest", "latest_checkpointed_iteration.txt",
)  # fmt: skip
_LEFT_FOLDERS = (
    "checkpoint", "checkpoint[-_]*", "checkpoints", "global_step*", "pytorch_model_fsdp*", "optimizer_*", "runs",
    "logs", "wandb", "mlruns", "tensorboard", "onnx*", "openvino*", "coreml*", "tflite*", "gguf*", "original",
    "*.mlpackage",
)  # fmt: skip
_UNLISTED = (".git", ".cache", ".hf_init", "__pycache__", ".ipynb_checkpoints", ".ds_store")
"""Files and folders of programs that work here: they are no part of the checkpoint."""

_DECLARATION = re.compile(r"vocab_files_names[^={]*=\s*\{(.*?)\}", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class FileLists:
    """The files beside the weights that are read, by their names in the folder.

    Attributes:
        carried: go with the weights, as they are or in step with a change.
        left: stay behind.
    """

    carried: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def to_json(self) -> dict[str, list[str]]:
        return {"carried": list(self.carried), "left": list(self.left)}

    @classmethod
    def from_json(cls, data: Mapping[str, Iterable[str]]) -> FileLists:
        return cls(tuple(data.get("carried", ())), tuple(data.get("left", ())))

    def joined(self, other: FileLists) -> FileLists:
        """Return the lists of two folders whose files come together."""
        carried = sorted({*self.carried, *other.carried})
        return FileLists(tuple(carried), tuple(sorted({*self.left, *other.left} - {*carried})))

    @property
    def left_briefly(self) -> tuple[str, ...]:
        """Return what stays behind, where a folder of which nothing goes along is one, with its files counted."""
        travelling = {name.partition("/")[0] for name in self.carried}
        tops = [(name.partition("/"), name) for name in self.left]
        counts = Counter(name if top in travelling else top + slash for (top, slash, _), name in tops)
        files = {top: f" ({number} file{'s' * (number > 1)})" for top, number in counts.items() if top.endswith("/")}
        return tuple(top + files.get(top, "") for top in counts)


def sort_files(
    names: Iterable[str], read: Collection[str] = (), modules: Collection[str] = (), declared: Collection[str] = ()
) -> FileLists:
    """Return which of a folder's files go with its weights, from their names.

    Args:
        names: with ``/`` between folders.
        read: files that are neither: the weights that are read, and what is written anew.
        modules: folders of a sentence-transformers model: all that its modules load goes along, weights included.
        declared: vocabulary files that the tokenizer's class names, whatever they look like.

    Example:
        >>> sort_files(["model.safetensors", "source.spm", "optimizer.pt", "onnx/config.json"], ["model.safetensors"])
        FileLists(carried=('source.spm',), left=('onnx/config.json', 'optimizer.pt'))
    """
    paths = [PurePosixPath(name) for name in sorted({*names} - {*read})]
    paths = [path for path in paths if not any(_is_like(part, _UNLISTED) for part in path.parts)]
    everything = {*map(str, paths)}
    inside = {path: next((each for each in modules if PurePosixPath(each) in path.parents), "") for path in paths}
    # A folder with weights that nobody here reads is a model of its own, and all of it stays.
    foreign = {
        path.parent for path in paths if not inside[path] and path.parent.parts and _is_like(path.name, _WEIGHTS)
    }

    def travels(path: PurePosixPath) -> bool:
        if str(path) in declared or _is_like(str(path), _VOICES):
            return True
        if _DECODER in everything and path.parent == PurePosixPath(_DECODERS):
            return True
        within = path.relative_to(inside[path]) if inside[path] else path
        if _is_like(path.name, _LEFT_FILES) or any(_is_like(part, _LEFT_FOLDERS) for part in within.parts[:-1]):
            return False
        if inside[path]:
            single = path.name == "model.safetensors" or f"{path.parent}/model.safetensors" not in everything
            return not _is_like(path.name, _WEIGHTS) or (path.name in _MODULE_WEIGHTS and single)
        if _is_like(path.name, _WEIGHTS) or foreign & {*path.parents}:
            return False
        return _is_like(path.name, _TEXTS)

    carried = tuple(str(path) for path in paths if travels(path))
    return FileLists(carried, tuple(sorted(everything - {*carried})))


_MODULE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # that a module of sentence-transformers loads, in order


def needed_to_plan(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files that a plan may have to read, of those in a repository: no weights, no documents."""
    others = (*_DOCUMENTS, *_WEIGHTS)
    return tuple(name for name in sort_files(names).carried if not _is_like(PurePosixPath(name).name, others))


def module_folders(folder: Path) -> tuple[str, ...]:
    """Return the folders that ``modules.json`` names, of a sentence-transformers model.

    Raises:
        CheckpointError: it isn't a list of modules with paths.
    """
    path = folder / MODULES
    if not path.is_file():
        return ()
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        paths = [PurePosixPath(module["path"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no list of modules, each with a path: {error}; mend it or remove it"
        ) from None
    if outside := [str(each) for each in paths if each.is_absolute() or ".." in each.parts]:
        raise CheckpointError(f"{path} names {', '.join(outside)}, outside the folder; mend it or remove it")
    return tuple(str(each) for each in paths if each.parts)


def declared_by_code(folder: Path, names: Iterable[str]) -> frozenset[str]:
    """Return the vocabulary files that a tokenizer's own code in the folder declares; the code isn't run."""
    found: set[str] = set()
    for name in names:
        if name.endswith(".py") and (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            found.update(
                value for block in _DECLARATION.findall(text) for value in re.findall(r":\s*[\"'](.+?)[\"']", block)
            )
    return frozenset(found)


def files_in(folder: Path) -> dict[str, str]:
    """Return the files of a folder and of those in it, each with what keeps it from being read, if that shows.

    A folder that can't be read, or is a link, stands for its files, unless it stays behind whatever is in it.
    """
    found: dict[str, str] = {}

    def note(path: str | Path, fault: str) -> None:
        name = Path(path).relative_to(folder).as_posix()
        found[name] = "" if any(_is_like(part, _LEFT_FOLDERS) for part in Path(name).parts) else fault

    for here, folders, files in os.walk(
        folder, onerror=lambda error: note(error.filename, f"can't be read ({error.strerror})")
    ):
        folders[:] = [name for name in folders if name not in _UNLISTED]
        for path in (Path(here) / name for name in (*folders, *files)):
            gone = not os.path.exists(path)
            if gone and not path.suffix:  # it may have been a folder
                note(path, dead_link(path) or "")
            elif path.is_dir() and path.is_symlink():
                note(path, f"is a link to a folder, {os.readlink(path)}")
            elif gone or not path.is_dir():
                note(path, "")
    return found


def check_readable(folder: Path, found: Mapping[str, str], carried: Iterable[str]) -> None:
    """Raise CheckpointError unless all that goes along is there and can be read.

    Args:
        found: the folder's files, as ``files_in`` gives them.
    """
    faults = {**found, **{name: found.get(name) or _file_fault(folder / name) for name in carried}}
    check_faults(
        str(folder),
        (f"{name} {fault}" for name, fault in sorted(faults.items()) if fault),
        "These go with the weights: put the files themselves there, readable, or remove what isn't to go along.",
    )


def _file_fault(path: Path) -> str:
    if fault := dead_link(path):
        return fault
    if not os.path.isfile(path):
        return "is no file"
    try:
        with path.open("rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                return "is a git-lfs pointer, not the file itself; `git lfs pull` brings it"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return ""


def _is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
