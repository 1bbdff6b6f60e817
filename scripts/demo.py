"""The main job, end to end, on all-MiniLM-L6-v2: scripts/demo sets everything up and runs this."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
WORK = CACHE / "demo"
BASE = "all-MiniLM-L6-v2"
CHECKPOINTS = (BASE, "SmolLM2-135M-Instruct")
RECIPE = """\
rules:
  - {name: "classifier.weight", scheme: {xavier_uniform: {gain: 0.1}}}
  - {name: "classifier.bias", scheme: zeros}
default: error
"""
TARGET = ["--architecture", "BertForSequenceClassification", "--labels", "negative,neutral,positive"]
TARGET += ["--recipe", "recipe.yaml", "--seed", "0"]

# Runs in a process of its own, in which hf_init can't be imported.
PLAIN = """\
import sys
sys.modules["hf_init"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, info = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)
for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    print(f"{kind}: {len(info[kind])}")
    assert not info[kind], info[kind]
sentence = "The committee thanked her for a thorough and generous report."
with torch.no_grad():
    logits = model(**AutoTokenizer.from_pretrained(sys.argv[1])(sentence, return_tensors="pt")).logits
print(sentence)
for index, probability in enumerate(logits.softmax(-1)[0].tolist()):
    print(f"  {model.config.id2label[index]:8} {probability:.3f}")
"""


def heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def hf_init(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would type it, showing it and what it prints."""
    print(f"$ hf-init {' '.join(arguments)}", flush=True)
    command = [str(Path(sysconfig.get_path("scripts")) / "hf-init"), *arguments]
    result = subprocess.run(
        command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(result.stdout.rstrip(), flush=True)
    return result


def require(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(f"demo: FAILED: {what}")


def flip_one_byte(folder: Path, suffix: str) -> str:
    """Change the middle byte of the tensor whose name ends so, and return its name."""
    file = folder / "model.safetensors"
    file.chmod(0o644)
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        name = next(name for name in header if name.endswith(suffix))
        begin, end = header[name]["data_offsets"]
        place = 8 + length + (begin + end) // 2
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    print(f"flipped one bit of byte {place} of {file}, in {name}")
    return name


def plain_transformers(folder: Path) -> int:
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-I", "-c", PLAIN, str(folder)]
    return subprocess.run(command, env={**os.environ, **quiet}, stdin=subprocess.DEVNULL).returncode


def main() -> None:
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    os.chdir(WORK)
    for checkpoint in CHECKPOINTS:
        Path(checkpoint).symlink_to(CACHE / checkpoint)
    out, copy = Path("out"), Path("copy")

    heading("0. The recipe: how each new tensor is to be initialised")
    Path("recipe.yaml").write_text(RECIPE)
    print(RECIPE.rstrip())

    heading("1. Plan: an encoder without a head becomes a classifier with three labels; nothing is written yet")
    require(hf_init("plan", BASE, *TARGET).returncode == 0, "the plan")

    heading("2. Extend: write the classifier and prove it")
    require(hf_init("extend", BASE, str(out), *TARGET).returncode == 0, "the extension")

    heading("3. Verify: every kept byte against the base, every new one against its recorded digest")
    require(hf_init("verify", str(out)).returncode == 0, "the proof")

    heading("4. Tamper with a copy: verify must catch it and name the tensor")
    shutil.copytree(out, copy)
    name = flip_one_byte(copy, "encoder.layer.3.attention.self.query.weight")
    caught = hf_init("verify", str(copy))
    require(caught.returncode == 1 and name in caught.stdout, f"verify did not catch the flipped bit in {name}")
    print(f"caught: exit code {caught.returncode}")

    heading("5. Use it with plain transformers, in a process where hf_init can't be imported (the head is untrained)")
    require(plain_transformers(out) == 0, "plain transformers")
    print(f"\nThe whole job took {time.monotonic() - began:.0f} s; the result is in {WORK / out}")
    print(f"Beside it are {' and '.join(CHECKPOINTS)}: README.md's commands work there, after")
    print(f"    source .venv/bin/activate && cd {WORK.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
