"""Blocks inserted on disk, closed copies of the one before: against mergekit's passthrough with scales of 0.

On a Llama with random weights (made once, into --cache): a new block after every sixth. Runs take turns, each in a
process of its own; seconds without imports; medians; and whether both results hold the same values. Then a tiny model
of each family that mergekit has a definition of: which of the two grows it so that its logits stay the same.

mergekit is only measured against: install it elsewhere (pip install --target DIR mergekit), and say where.
Exits 1 where hf-init is slower, takes more memory, or doesn't do a family that mergekit does.

    python scripts/bench/growth.py --mergekit DIR [--runs 3] [--gigabytes 3] [--cache DIR] [--no-families]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from checkpoint import CACHE, HF_INIT, in_turn, llama, python, table, target

import hf_init

PERIOD = 6
ENDS = ("o_proj", "down_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "w2", "fc2")
"""Words for what writes into the residual stream: mergekit knows a tensor by its name alone."""
SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
         "pad_token_id": 0}  # fmt: skip
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SMALL),
    "mistral": ("MistralForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", {**SMALL, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**SMALL, "head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**SMALL, "head_dim": 8}),
    "olmo2": ("Olmo2ForCausalLM", SMALL),
    "cohere": ("CohereForCausalLM", SMALL),
    "granite": ("GraniteForCausalLM", SMALL),
    "stablelm": ("StableLmForCausalLM", SMALL),
    "starcoder2": ("Starcoder2ForCausalLM", SMALL),
    "glm4": ("Glm4ForCausalLM", {**SMALL, "head_dim": 8}),
    "phi": ("PhiForCausalLM", SMALL),
    "phi3": ("Phi3ForCausalLM", SMALL),
    "gpt_neox": ("GPTNeoXForCausalLM", {name: SMALL[name] for name in SMALL if name != "num_key_value_heads"}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 96, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}),
    "falcon": ("FalconForCausalLM", {name: SMALL[name] for name in list(SMALL)[:4]}),
    "mixtral": ("MixtralForCausalLM", {**SMALL, "num_local_experts": 2}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**SMALL, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                                          "moe_intermediate_size": 16}),
    "mamba": ("MambaForCausalLM", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8}),
    "lfm2": ("Lfm2ForCausalLM", {**SMALL, "layer_types": ["conv", "full_attention"] * 2}),
    "bert": ("BertForMaskedLM", SMALL),
}  # fmt: skip
MERGEKIT = "import torch, transformers, mergekit.config, mergekit.merge, mergekit.options"
PASSTHROUGH = """
config = mergekit.config.MergeConfiguration.model_validate(json.load(open(sys.argv[1])))
options = mergekit.options.MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
mergekit.merge.run_merge(config, sys.argv[2], options=options)
"""
COMPARE = """
import sys, torch
from pathlib import Path
from safetensors import safe_open
def opened(folder):
    files = [safe_open(path, "pt") for path in Path(folder).glob("*.safetensors")]
    return {name: file for file in files for name in file.keys()}
one, other = map(opened, sys.argv[1:])
equal = (torch.equal(one[name].get_tensor(name), other[name].get_tensor(name)) for name in one)
sys.exit(not (one.keys() == other.keys() and all(equal)))
"""
"""Values, not bytes: a scale of 0 leaves zeros with the signs of what was there."""
INSERT = "hf_init.extend(sys.argv[1], sys.argv[2], layers=sys.argv[3], new_layers='copy')"


def passthrough(base: Path, layers: int, period: int) -> dict[str, Any]:
    """The config of a merge: a closed copy of a block after every ``period``."""
    closed = [*({"filter": word, "value": 0.0} for word in ENDS), {"value": 1.0}]
    slices: list[dict[str, Any]] = []
    for start in range(0, layers, period):
        stop = min(start + period, layers)
        slices.append({"sources": [{"model": str(base), "layer_range": [start, stop]}]})
        if stop - start == period:
            source = {"model": str(base), "layer_range": [stop - 1, stop], "parameters": {"scale": closed}}
            slices.append({"sources": [source]})
    dtype = json.loads((base / "config.json").read_text()).get("dtype")
    return {"slices": slices, "merge_method": "passthrough", "dtype": dtype}


def race(base: Path, work: Path, runs: int) -> bool:
    """Prints the times and the memory of both on one checkpoint; whether hf-init is at least as good in each."""
    layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    merge = work / "merge.json"
    merge.write_text(json.dumps(passthrough(base, layers, PERIOD)))
    ours, theirs = work / "out", work / "theirs"
    ways = [
        python("hf-init extend", HF_INIT, INSERT, base, ours, f"every={PERIOD}"),
        python("mergekit", MERGEKIT, PASSTHROUGH, merge, ours),
    ]
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    print(f"{base.name}: {size / 1e9:.2f} GB, {layers} blocks, {layers // PERIOD} new ones, medians of {runs}")
    found = in_turn(ways, ours, runs)
    table(found)
    one, other = found["hf-init extend"], found["mergekit"]
    shutil.rmtree(ours, ignore_errors=True)
    subprocess.run(ways[0].command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*ways[1].command[:-1], str(theirs)], check=True, stdout=subprocess.DEVNULL)
    same = subprocess.run([sys.executable, "-c", COMPARE, str(ours), str(theirs)]).returncode == 0
    print("  the two results hold the same values" if same else "  the two results differ")
    return all(
        [
            target("of mergekit's time", one.inside / other.inside, 1.0),
            target("of mergekit's memory", one.memory / max(other.memory, 1.0), 1.0),
        ]
    )


def families(work: Path) -> bool:
    """Prints which of the two grows which family; whether hf-init does all that mergekit does."""
    import torch
    import transformers

    lacking: list[str] = []
    for name, (cls, values) in FAMILIES.items():
        base, kind = work / name, getattr(transformers, cls)
        torch.manual_seed(0)
        model = kind(kind.config_class(**values))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(base)
        jobs = {"hf-init": by_hf_init, "mergekit": by_mergekit}
        said = {who: grown(kind, base, work / f"{name}-{who}", job) for who, job in jobs.items()}
        print(f"  {name:12} hf-init: {said['hf-init']:60} mergekit: {said['mergekit']}", flush=True)
        lacking += [name] if said["mergekit"] == "same logits" != said["hf-init"] else []
    return not lacking


def grown(kind: Any, base: Path, out: Path, job: Callable[[Path, Path], None]) -> str:
    """What comes of growing a model: whether it gives the base's logits, or what is raised."""
    import torch

    try:
        job(base, out)
        models = [kind.from_pretrained(folder).eval() for folder in (base, out)]
        with torch.no_grad():
            one, other = (model(torch.arange(5, 25).reshape(2, 10)).logits for model in models)
    except Exception as error:  # whatever a peer raises is its result here
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:60]
    return "same logits" if torch.equal(one, other) else f"logits differ by {float((one - other).abs().max()):.2g}"


def by_hf_init(base: Path, out: Path) -> None:
    hf_init.extend(base, out, layers="every=2", new_layers="copy")


def by_mergekit(base: Path, out: Path) -> None:
    config = importlib.import_module("mergekit.config").MergeConfiguration.model_validate(passthrough(base, 4, 2))
    options = importlib.import_module("mergekit.options").MergeOptions(copy_tokenizer=False, quiet=True)
    importlib.import_module("mergekit.merge").run_merge(config, str(out), options=options)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mergekit", type=Path, required=True, help="where it is installed")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--no-families", action="store_true")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())), HF_HUB_OFFLINE="1")
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""), str(args.mergekit)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    sys.path.append(str(args.mergekit))
    with tempfile.TemporaryDirectory(dir=args.cache, prefix="bench_growth-") as work:
        met = [race(llama(args.gigabytes, args.cache), Path(work), args.runs)] if args.gigabytes else []
        met += [] if args.no_families else [families(Path(work))]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
