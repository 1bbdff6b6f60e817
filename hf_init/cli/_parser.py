"""The parser of one command, and the help of all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from hf_init._errors import HfInitError
from hf_init._options import OutputOptions, option_group, options_of
from hf_init._text import closest
from hf_init.cli._commands import Command
from hf_init.cli._values import add_option


class CommandParser(argparse.ArgumentParser):
    """A parser that raises on bad usage, so that it is refused as bad input is: in one message, by ``main``."""

    def error(self, message: str) -> NoReturn:
        raise HfInitError(f"{message}\n{self.format_usage().strip()}; `{self.prog} --help` lists them")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # so that a reader of the help who is gone is noticed here, not when the interpreter ends
        super().exit(status, message)

    def parse_command(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments; an unknown option is refused with the closest."""
        args, rest = self.parse_known_args(argv)
        if rest:
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            near = "".join(closest(word.partition("=")[0], known) for word in rest if word.startswith("--"))
            self.error(f"unrecognized arguments: {' '.join(rest)}{near}")
        return args


def command_parser(command: Command) -> CommandParser:
    """Return the parser of a command."""
    parser = CommandParser(
        prog=f"hf-init {command.name}",
        usage=f"hf-init {command.usage} [options]",  # not one by one: the groups list them
        allow_abbrev=False,
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog="examples:\n  " + "\n  ".join(command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, metavar, text in command.arguments:
        optional = name.endswith("?")
        parser.add_argument(name.rstrip("?"), metavar=metavar, nargs="?" if optional else None, help=text)
    for options in (*map(option_group, command.groups), OutputOptions):
        group = parser.add_argument_group(str(options.__doc__).rstrip(".").lower())
        for name, described in options_of(options).items():
            add_option(group, name, described)
    return parser
