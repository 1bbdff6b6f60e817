"""What starting costs: ``hf-init --help`` and ``import hf_init``, in seconds of the processor beyond a bare Python.

Medians over runs. Exits 1 where the help takes more than a tenth of a second in all.

    python scripts/bench/startup.py [--runs 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

HELP_SECONDS = 0.1
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "import hf_init": ("-c", "import hf_init"),
    "hf-init --help": ("-m", "hf_init", "--help"),
}


def cpu_seconds(*argv: str) -> float:
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(argv)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="What starting costs, in seconds of the processor.")
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    medians = {name: statistics.median(cpu_seconds(*argv) for _ in range(runs)) for name, argv in COMMANDS.items()}
    bare = medians["python -c pass"]
    for name, seconds in medians.items():
        print(f"{name:16} {seconds:.3f} s   {seconds - bare:+.3f} s beyond a bare Python")
    return int(medians["hf-init --help"] > HELP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
