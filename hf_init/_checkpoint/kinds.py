"""What a folder is that can't be read as a checkpoint, and the next step: one sentence for each kind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from hf_init._checkpoint.strict import object_or_empty
from hf_init._checkpoint.weights import INDEX, SINGLE, weights_file
from hf_init._errors import CheckpointError, option
from hf_init._text import join_names

ADAPTER_CONFIG = "adapter_config.json"
DCP_METADATA = ".metadata"
"""The file in which DCP says which piece of which tensor is where."""

_SAVED = "Give the folder of a model saved with save_pretrained."
_RESAVE = "load it with plain from_pretrained, save_pretrained(OUT), and give OUT"
_FSDP = "pytorch_model_fsdp"
DISTRIBUTED = "shard-[0-9][0-9][0-9][0-9][0-9]-model-[0-9]*.safetensors"
"""The files of ``save_pretrained(..., distributed_checkpoint=True)``."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder, or of a folder of a repository.

    Attributes:
        folder: where its small files are.
        files: their paths in it, with ``/``, two levels deep at least.
    """

    folder: Path
    files: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """List a folder and the folders in it."""
        files: list[str] = []
        for where, folders, names in os.walk(folder):
            files += [(Path(where) / name).relative_to(folder).as_posix() for name in names]
            if Path(where) != folder:
                folders.clear()
        return cls(folder, tuple(sorted(files)))

    def like(self, *globs: str) -> list[str]:
        """Return the files that a glob names; ``*`` stands for no ``/``."""
        return [
            file
            for file in self.files
            if any(file.count("/") == glob.count("/") and fnmatchcase(file, glob) for glob in globs)
        ]

    def folders(self, *globs: str) -> list[str]:
        """Return the folders that hold a file of such a name."""
        return sorted({file.rpartition("/")[0] for file in self.like(*(f"*/{glob}" for glob in globs))})

    def read(self, name: str) -> Mapping[str, object]:
        """Return a small JSON object; an empty one where there is none."""
        return object_or_empty(self.folder / name)


class FolderKind(NamedTuple):
    """A kind of folder.

    Attributes:
        marks: globs of files, of which it has one.
        says: what it is and what to do, ``{files}`` are those that were found; or makes that text; empty: another kind.
    """

    marks: tuple[str, ...]
    says: str | Callable[[Listing, Sequence[str]], str]


def adapter_text(listing: Listing) -> str:
    """Return whose adapter a folder holds, and how it becomes a model."""
    settings = listing.read(ADAPTER_CONFIG)
    base = settings.get("base_model_name_or_path")
    kind = settings.get("peft_type")
    of = f" for {base}" if isinstance(base, str) and base else ""
    return (
        f"a {kind if isinstance(kind, str) else 'PEFT'} adapter{of}: merge it into its base first (PEFT's "
        "merge_and_unload(), then save_pretrained(OUT)), and give OUT"
    )


def _adapter(listing: Listing, files: Sequence[str]) -> str:
    return f"It is {adapter_text(listing)}."


def _diffusers(listing: Listing, files: Sequence[str]) -> str:
    models = [  # of a repository the configs aren't here
        folder
        for folder in sorted(listing.folders("config.json"), key=lambda folder: ("encoder" not in folder, folder))
        if "architectures" in listing.read(f"{folder}/config.json") or not (listing.folder / folder).is_dir()
    ]
    which = (
        f"Give one that transformers has: {option('subfolder', models[0])}" if models else "None is one of transformers"
    )
    return f"It is a diffusers pipeline of several models, each in a folder of its own. {which}."


def _old_sentence_transformers(listing: Listing, files: Sequence[str]) -> str:
    found = [folder for folder in listing.folders("config.json") if re.match(r"0_", folder)]
    if not found:
        return ""
    return (
        f"It is a sentence-transformers folder of the older layout, with its model in {found[0]}: load it with "
        f"SentenceTransformer(DIR) and save(OUT) for the newer one, or give {option('subfolder', found[0])}."
    )


def _trainer_output(listing: Listing, files: Sequence[str]) -> str:
    steps = {int(found[1]): found[0] for file in files if (found := re.match(r"checkpoint-(\d+)", file))}
    if not steps:
        return ""
    newest = steps[max(steps)]
    others = f" (the newest of {len(steps)})" if len(steps) > 1 else ""
    return f"It is the output folder of a Trainer: give {listing.folder / newest}{others}."


def _hub_cache(listing: Listing, files: Sequence[str]) -> str:
    name = listing.folder.name.removeprefix("models--").replace("--", "/")
    return f"It is where the hub's files are kept: give the name of the repository, {name}, or a folder in snapshots."


def _shards(listing: Listing, files: Sequence[str]) -> str:
    of = re.search(r"-of-(\d+)\.safetensors$", files[0])
    count = f"{len(files)} of {int(of[1])} shards" if of else f"{len(files)} shards"
    return f"There are {count} ({join_names(files)}), and not their index: copy or download {INDEX} with them."


def _variant(listing: Listing, files: Sequence[str]) -> str:
    index = next((file for file in files if file.endswith(".json")), None)
    if index is None and "-of-" in files[0]:
        return ""
    name = (index or files[0]).removesuffix(".json" if index else ".safetensors").rpartition(".")[2]
    return (
        f"There is the variant {name!r} alone ({join_names(files)}): load it with "
        f"from_pretrained(DIR, variant={name!r}), save_pretrained(OUT), and give OUT; or copy {index or files[0]} to "
        f"{INDEX if index else SINGLE}."
    )


def _nested(listing: Listing, files: Sequence[str]) -> str:
    found = listing.folders(SINGLE, INDEX)
    return f"There are weights in {join_names(found)}: say which, such as {option('subfolder', found[0])}."


KINDS = (
    FolderKind((ADAPTER_CONFIG, "adapter_model.*"), _adapter),
    FolderKind(("model_index.json",), _diffusers),
    FolderKind(
        ("diffusion_pytorch_model*",),
        "It is a model of diffusers ({files}), for which transformers has no class. Give a text or image encoder.",
    ),
    FolderKind(("modules.json",), _old_sentence_transformers),
    FolderKind(
        (
            "checkpoint-*/model*.safetensors*",
            "checkpoint-*/pytorch_model*",
            "checkpoint-*/adapter_*",
            "checkpoint-*/trainer_state.json",
        ),
        _trainer_output,
    ),
    FolderKind(("refs/main",), _hub_cache),
    FolderKind(
        ("zero_to_fp32.py", "global_step*/*", "*_model_states.pt", "*_optim_states.pt"),
        "It is DeepSpeed's own checkpoint, in pieces of every rank ({files}): run "
        "`python zero_to_fp32.py . OUT --safe_serialization` in it, copy config.json and the tokenizer to OUT, and "
        "give OUT.",
    ),
    FolderKind(
        ("*.distcp", "*/*.distcp", ".metadata"),
        "It is a distributed checkpoint of torch, in pieces of every rank ({files}): run "
        "`accelerate merge-weights DIR OUT`, copy config.json and the tokenizer to OUT, and give OUT.",
    ),
    FolderKind(("model.safetensors.index.*.json", "model.*.safetensors"), _variant),
    FolderKind(("*-of-*.safetensors",), _shards),
    FolderKind(
        ("consolidated*.safetensors", "consolidated*.pth", "params.json"),
        "It is in the format of Mistral's or Meta's own code ({files}): give the same model in transformers' format, "
        "which most repositories hold beside it, or convert it with the script of that model in transformers.",
    ),
    FolderKind(
        ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin"),
        "There is {files}, in the older format of torch: convert it once, byte for byte, with "
        "`hf-init convert DIR OUT`, and give OUT.",
    ),
    FolderKind(
        ("*.safetensors",),
        "There is {files}: if it is the whole model, copy it to model.safetensors, or name it in config.json as "
        "transformers_weights.",
    ),
    FolderKind(
        ("*.gguf", "*/*.gguf"),
        "It is in GGUF, of llama.cpp ({files}): load the file with from_pretrained(DIR, gguf_file=FILE), "
        "save_pretrained(OUT), and give OUT; better still, give the model that it was made from.",
    ),
    FolderKind(("*/model.safetensors", "*/model.safetensors.index.json"), _nested),
    FolderKind(
        ("tf_model*.h5", "saved_model.pb", "*.keras", "model.ckpt*", "flax_model*.msgpack", "rust_model.ot"),
        "Its weights are of TensorFlow, Flax or Rust ({files}), which transformers 5 doesn't read: load it with "
        "transformers 4 (from_tf=True or from_flax=True), save_pretrained(OUT), and give OUT.",
    ),
    FolderKind(
        ("*.onnx", "onnx/*", "openvino_model.*", "*.mlmodel"),
        "It is an export for inference ({files}), which can't be extended: give the model that it was made from.",
    ),
    FolderKind(
        ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.npz"),
        "There is {files}, in nobody's layout: load it into its model, save_pretrained(OUT), and give OUT.",
    ),
)
"""The first that fits is the one."""


def no_weights(name: str, listing: Listing, named: str = "") -> str:
    """Return the refusal of a folder without weights in safetensors: what it is instead, and the next step.

    Args:
        name: of the folder or repository. named: the weights file that its config names, which isn't there.
    """
    lacks = f"lacks {named}, which its config.json names" if named else f"holds neither {SINGLE} nor {INDEX}"
    if named and listing.like(SINGLE):
        return f"{name} {lacks}. There is {SINGLE}: if that is the model, remove transformers_weights from config.json."
    for kind in KINDS:
        if files := listing.like(*kind.marks):
            text = kind.says(listing, files) if callable(kind.says) else kind.says.format(files=join_names(files))
            if text:
                return f"{name} {lacks}. {text}"
    return f"{name} {lacks}. {_SAVED}"


def describe_config(raw: Mapping[str, object]) -> str:
    """Return whose config it is that names no class of transformers, and the next step; empty for nobody's."""
    if "architecture" in raw and {"num_classes", "num_features", "pretrained_cfg"} & raw.keys():
        return (
            f"it is a timm model ({raw['architecture']}): with timm installed, load it with transformers' "
            "TimmWrapperForImageClassification.from_pretrained, save_pretrained(OUT), and give OUT"
        )
    if "_class_name" in raw or "_diffusers_version" in raw:
        named = f" ({raw['_class_name']})" if "_class_name" in raw else ""
        return f"it is a model of diffusers{named}, for which transformers has no class: give a text or image encoder"
    if "model_cfg" in raw:
        return "it is a model of OpenCLIP: give the same model in transformers' format, with a class such as CLIPModel"
    return ""


def pieces_folder(folder: Path) -> Path | None:
    """Return where the weights of a folder lie in pieces of every rank, in the layout of DCP; None where they don't.

    That is the folder itself, or the one in it that accelerate and the Trainer write them to.
    """
    if any(folder.glob(DISTRIBUTED)):
        return folder
    if weights_file(folder, lambda name: (folder / name).is_file()):
        return None
    there = [
        path.parent
        for path in (folder / DCP_METADATA, *sorted(folder.glob(f"{_FSDP}_*/{DCP_METADATA}")))
        if path.is_file()
    ]
    return there[0] if there else None


def check_distributed(folder: Path) -> None:
    """Raise CheckpointError for a distributed checkpoint of transformers, which it reads before any other file."""
    files = sorted(path.name for path in folder.glob(DISTRIBUTED))
    if files:
        raise CheckpointError(
            f"{folder} is a distributed checkpoint, in pieces of every rank ({join_names(files)}): {_RESAVE}"
        )


def check_no_adapter(folder: Path) -> None:
    """Raise CheckpointError for a folder with a model and an adapter: transformers would load both together."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds a model and, beside it, {adapter_text(Listing(folder, ()))}. To extend the model without "
            f"it, give a copy of the folder without the adapter's files"
        )
