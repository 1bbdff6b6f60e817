"""``python -m hf_init``: the same as the command ``hf-init``."""

from __future__ import annotations

import sys

from hf_init.cli import main

if __name__ == "__main__":
    sys.exit(main())
