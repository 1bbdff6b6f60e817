"""The command line: one function a verb, each parses, calls a public function, prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hf_init._errors import HfInitError
from hf_init.cli._parser import parser
from hf_init.cli._terminal import DONE, REFUSED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 (done, or identical), 1 (a difference) or 2 (bad usage or bad input)."""
    try:
        args = parser().parse_args(argv)
        return args.run(args)
    except HfInitError as error:
        return _refused(str(error))
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        return _refused(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _refused("interrupted; no unfinished result is left, unless --resume keeps it for the next run")


def _refused(message: str) -> int:
    print(f"hf-init: {message}", file=sys.stderr)
    return REFUSED


def _reader_gone() -> int:
    """Whoever read the pipe has had enough: nothing more to say, not even at the interpreter's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
