"""The command line: parse, call a public function, print."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_init._errors import HfInitError
from hf_init._version import __version__
from hf_init.cli._commands import find_command, general_help
from hf_init.cli._terminal import DONE, Terminal, accept_any_encoding, drop_output, message_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 (done, or identical), 1 (a difference) or 2 (bad usage or bad input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    accept_any_encoding()
    terminal = Terminal.of(argv)
    try:
        return run_command(argv, terminal)
    except BrokenPipeError:  # whoever read the help has had enough
        drop_output(sys.stdout)
        return DONE
    except (HfInitError, OSError, KeyboardInterrupt) as error:
        return terminal.print_error(message_of(error))


def run_command(argv: Sequence[str], terminal: Terminal) -> int:
    """Parse a command, call its function and print what it returns; return the exit code.

    Raises:
        HfInitError: bad usage or bad input.
    """
    if not argv or argv[0] in ("-h", "--help"):
        return terminal.print_text(general_help())
    if argv[0] == "--version":
        return terminal.print_text(f"hf-init {__version__}")
    command, argv = find_command(argv)
    from hf_init.cli._parser import command_parser  # here: the general help needs neither
    from hf_init.cli._run import RUN

    args = command_parser(command).parse_command(argv)
    return terminal.print_outcome(command.name, RUN[command.name](args, terminal))
