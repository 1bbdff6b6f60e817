"""What goes to the terminal: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hf_init._progress import Progress, no_progress

DONE, DIFFERS, REFUSED = 0, 1, 2


def print_result(args: Namespace, document: Any, text: Any) -> int:
    print(json.dumps(document, indent=2) if args.json else text, flush=True)
    return DONE


def notice(text: str) -> None:
    """Something that a person should know, and that is no result."""
    print(f"hf-init: {text}", file=sys.stderr)


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """A request to end (SIGTERM) is an interruption like Ctrl-C; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bar(title: str, total: Callable[[], int]) -> Iterator[Progress]:
    """A progress bar on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from tqdm import tqdm

    with tqdm(desc=title, total=total(), unit="B", unit_scale=True, leave=False) as shown:
        yield shown.update


@contextmanager
def hub_bars() -> Iterator[None]:
    """The bars of huggingface_hub, which it would draw into a pipe as well, on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
