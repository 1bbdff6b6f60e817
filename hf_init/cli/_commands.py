"""The commands: what each is called with, and what the help of all says.

The general help is printed from this file alone: it imports nothing that takes time, so option groups are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hf_init._errors import HfInitError

BASE = ("base?", "BASE", "a checkpoint folder or a hub id; left out where --tower gives all parts")
TARGET = (
    "ClassOption",
    "TowerOption",
    "TargetOptions",
    "CodeOptions",
    "HubOptions",
    "LabelOptions",
    "HeadsOptions",
    "TokenOptions",
    "GrowthOptions",
)


class Command(NamedTuple):
    """One command.

    Attributes:
        run: the function in ``cli/_run.py``.
        arguments: name, stand-in and help of each; a name that ends in ``?`` may be left out.
        groups: names of groups of options, besides those of the output, which every command has.
        examples: two.
    """

    name: str
    help: str
    arguments: tuple[tuple[str, str, str], ...]
    groups: tuple[str, ...]
    examples: tuple[str, str]

    @property
    def usage(self) -> str:
        """The command with its arguments."""
        return " ".join(
            (self.name, *(f"[{metavar}]" if name.endswith("?") else metavar for name, metavar, _ in self.arguments))
        )


COMMANDS = (
    Command(
        "plan",
        "what would be kept, resized, new, tied, unused, and by which scheme",
        (BASE,),
        (*TARGET, "ComparisonOptions"),
        (
            "hf-init plan org/model --architecture BertForSequenceClassification --labels neg,pos",
            "hf-init plan folder --add-tokens photon,quark --json",
        ),
    ),
    Command(
        "extend",
        "write OUT and verify it",
        (BASE, ("out", "OUT", "a folder that doesn't exist yet, or is empty")),
        (*TARGET, "FileOptions", "ProbeOption"),
        (
            "hf-init extend folder out --architecture BertForTokenClassification --entities PER,ORG",
            "hf-init extend folder out --config num_hidden_layers=14 --recipe auto --seed 1",
        ),
    ),
    Command(
        "convert",
        "pytorch_model.bin to safetensors, byte for byte",
        (
            ("dir", "DIR", "a folder or a hub id with weights in torch's own format"),
            ("out", "OUT", "a folder that doesn't exist yet, or is empty"),
        ),
        ("HubOptions",),
        ("hf-init convert folder out", "hf-init convert org/model out --revision main"),
    ),
    Command(
        "verify",
        "verify a result from its files, byte by byte",
        (("out", "OUT", "a folder that extend wrote"),),
        ("BaseOption", "VerifyOptions", "TrainingOption", "HubOptions", "ClassOption", "CodeOptions"),
        ("hf-init verify out --base org/model --recompute", "hf-init verify out --part 1/4 --json"),
    ),
    Command(
        "drift",
        "what training moved, and whether what was frozen stayed",
        (
            ("base", "BASE", "the result of extend before training, or the checkpoint that it came from"),
            ("trained", "TRAINED", "the trained folder, or a Trainer's output folder"),
        ),
        ("DriftOptions", "CacheOptions", "PictureOption"),
        ("hf-init drift out trained --frozen kept", "hf-init drift out trained --picture moved.png"),
    ),
    Command(
        "diff",
        "any two checkpoints, tensor by tensor, row by row",
        (("a", "A", "a checkpoint folder, a hub id, or a .safetensors file"), ("b", "B", "another one")),
        ("DiffOptions", "CacheOptions"),
        ("hf-init diff folder out", "hf-init diff before after --only 'bert.encoder.*' --by-layer"),
    ),
    Command(
        "check",
        "before training: what one batch says about a model's start",
        (("dir", "DIR", "a folder that extend wrote, or any other, or a hub id"),),
        ("BatchOptions", "HubOptions", "ClassOption", "CodeOptions", "PictureOption"),
        ("hf-init check out", "hf-init check out --texts 'I love it' --labels pos --train"),
    ),
    Command(
        "heads",
        "the heads of a checkpoint: names, kinds, labels, sizes",
        (("dir", "DIR", "a checkpoint folder or a hub id"),),
        ("HubOptions",),
        ("hf-init heads out", "hf-init heads org/model --revision main --json"),
    ),
    Command(
        "report",
        "histograms and tables in one page or picture: new against pretrained",
        (("dir", "DIR", "a folder that extend wrote, or any checkpoint or hub id"),),
        ("PageOption", "HubOptions"),
        ("hf-init report out", "hf-init report out --out poster.png"),
    ),
    Command(
        "schemes",
        "the catalogue: formula, settings, when to use it, source",
        (("name?", "NAME", "one scheme, a page"),),
        (),
        ("hf-init schemes", "hf-init schemes kaiming_normal"),
    ),
    Command(
        "completion",
        "the script by which a shell completes this command line",
        (("shell", "SHELL", 'bash or zsh, for `eval "$(hf-init completion SHELL)"`; or fish, for `... | source`'),),
        (),
        ("hf-init completion bash", "hf-init completion fish"),
    ),
)


def find_command(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """Return the command of a command line, and the rest of it; options of the output may go before a command.

    Raises:
        HfInitError: there is no command of that name; the closest is named.
    """
    known = {command.name: command for command in COMMANDS}
    words = [number for number, word in enumerate(argv) if not word.startswith("-")] if argv[0].startswith("-") else [0]
    place = next((number for number in words if argv[number] in known), (*words, 0)[0])
    if argv[place] not in known:
        from hf_init._text import closest

        raise HfInitError(f"unknown command {argv[place]!r}{closest(argv[place], known)}; see `hf-init --help`")
    return known[argv[place]], [*argv[:place], *argv[place + 1 :]]


def general_help() -> str:
    """Return the help of the whole command line."""
    width = max(len(command.usage) for command in COMMANDS)
    lines = "\n".join(f"  {command.usage:{width}}  {command.help}" for command in COMMANDS)
    return f"""usage: hf-init COMMAND ... [--format FORMAT] [--json] [--quiet] [--color WHEN]

Extend a pretrained checkpoint: initialize only what is new, and verify that the rest is untouched.

commands:
{lines}

BASE is a folder or a hub id. `hf-init COMMAND --help` lists a command's options, `hf-init --version` is the version.
Exit code 0: done, or identical. 1: a difference. 2: bad usage or bad input: one message, nothing written.

examples:
  hf-init plan org/model --architecture BertForSequenceClassification --labels negative,positive
  hf-init extend org/model out --architecture BertForSequenceClassification --labels negative,positive"""
