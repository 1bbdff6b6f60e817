"""A process that has imported what many programs need, which takes seconds, and runs each in a fork of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

SECONDS = 600  # that a program may take
USERS_OWN = ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
"""What the tests' own environment says otherwise than a user's."""


class WarmProcess:
    """Runs programs, each as if in a process of its own, or in several of a process group.

    Args:
        bring: the statements that import what is needed.
        environment: what the environment has besides.
    """

    def __init__(self, bring: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
        command = [sys.executable, __file__, bring]
        self._scratch = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**kept, **environment}
        )

    def run(
        self, program: str, *arguments: object, cwd: Path | None = None, ranks: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Return how a program ended, and what it printed; of several processes the first one that failed."""
        assert self._process.stdin and self._process.stdout
        job = {"program": program, "arguments": [*map(str, arguments)], "cwd": str(cwd or Path.cwd()), "ranks": ranks}
        print(json.dumps({**job, "scratch": self._scratch.name}), file=self._process.stdin, flush=True)
        rank, code = json.loads(self._process.stdout.readline())
        said = [Path(self._scratch.name, f"{name}-{rank}").read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(arguments, code, *said)

    def close(self) -> None:
        self._process.communicate()
        self._scratch.cleanup()


def _served(job: dict[str, Any]) -> tuple[int, int]:
    """The rank that ended first of all that failed, and its exit code; the others are ended, too."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    ranks = {}
    for rank in range(job["ranks"] or 1):
        child = os.fork()
        if not child:
            _become(job, rank, port)
        ranks[child] = rank
    ended = 0, 0
    while ranks:
        child, status = os.wait()
        rank, code = ranks.pop(child), os.waitstatus_to_exitcode(status)
        if code and not ended[1]:
            ended = rank, code
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return ended


def _become(job: dict[str, Any], rank: int, port: int) -> None:
    """Run a program, and end with its exit code."""
    signal.alarm(SECONDS)
    if size := job["ranks"]:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in group.items()}, MASTER_ADDR="localhost")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(job["scratch"], f"{name}-{rank}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(job["cwd"])
    sys.path.insert(0, job["cwd"])
    sys.argv = ["-c", *job["arguments"]]
    code = 1
    try:
        exec(compile(job["program"], "<program>", "exec"), {"__name__": "__main__"})
        code = 0
    except BaseException:  # whatever it is, it has to be seen, and nothing of the parent's may run after it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    exec(sys.argv[1], {})
    for line in sys.stdin:
        print(json.dumps(_served(json.loads(line))), flush=True)
