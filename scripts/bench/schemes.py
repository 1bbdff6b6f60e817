"""Each scheme against the torch.nn.init function that it corresponds to, and a whole plan on one thread and on all.

Elements per second on the same shape in the same run; the figure is the median over pairs of the ratio of the two
times (ours / torch's), so that a machine whose speed drifts doesn't show in it. Prints a table; exits 1 where a
target is missed.

    python scripts/bench/schemes.py [--pairs 15] [--size 2048]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from hf_init import schemes
from hf_init._checkpoint.tensor_reader import Reader
from hf_init._fill import make_tensor, make_tensors
from hf_init._plan.tensor_plan import Fill, TensorPlan
from hf_init._tensors import Box, Geometry, Status
from hf_init.schemes import Scheme, whole_slot

TARGET, SPEED_UP = 1.1, 1.5
INIT = torch.nn.init
PEERS: dict[str, tuple[Scheme, Callable[[torch.Tensor], object]]] = {
    "zeros": (schemes.Zeros(), INIT.zeros_),
    "constant": (schemes.Constant(val=0.3), lambda t: INIT.constant_(t, 0.3)),
    "uniform": (schemes.Uniform(a=-1.0), lambda t: INIT.uniform_(t, -1.0, 1.0)),
    "normal": (schemes.Normal(std=0.02), lambda t: INIT.normal_(t, std=0.02)),
    "trunc_normal": (schemes.TruncNormal(std=0.02), lambda t: INIT.trunc_normal_(t, std=0.02, a=-0.04, b=0.04)),
    "xavier_uniform": (schemes.XavierUniform(), INIT.xavier_uniform_),
    "xavier_normal": (schemes.XavierNormal(), INIT.xavier_normal_),
    "kaiming_uniform": (schemes.KaimingUniform(), INIT.kaiming_uniform_),
    "kaiming_normal": (schemes.KaimingNormal(), INIT.kaiming_normal_),
    "orthogonal": (schemes.Orthogonal(), INIT.orthogonal_),
    "sparse": (schemes.Sparse(sparsity=0.5), lambda t: INIT.sparse_(t, 0.5)),
    "eye": (schemes.Eye(), INIT.eye_),
}
DIRAC = (256, 256, 3, 3)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def pairs(ours: Callable[[], object], peers: Callable[[], object], count: int) -> tuple[float, float, float]:
    """Medians: our time, the peer's, and the ratio pair by pair."""
    ours()
    peers()
    timed = [(seconds(ours), seconds(peers)) for _ in range(count)]
    mine, theirs = zip(*timed, strict=True)
    return statistics.median(mine), statistics.median(theirs), statistics.median(a / b for a, b in timed)


def compare(scheme: Scheme, peer: Callable[[torch.Tensor], object], shape: tuple[int, ...], count: int) -> float:
    matrix = Geometry(fan_in=shape[1], fan_out=shape[0]) if len(shape) == 2 else None
    slot = whole_slot("bench.weight", shape, geometry=matrix)
    mine, theirs, ratio = pairs(lambda: scheme(slot), lambda: peer(torch.empty(shape)), count)
    elements = torch.Size(shape).numel() / 1e6
    print(f"{scheme.name:16} {elements / mine:9.1f} {elements / theirs:9.1f} M elements/s   ratio {ratio:.2f}")
    return ratio


def whole_plan(size: int, count: int) -> float:
    """Twenty-four matrices of one plan, by one thread and by all of them."""
    shape = (size, size)
    fill = Fill(Box.whole(shape), schemes.Normal(std=0.02))
    plans = [TensorPlan(f"layer.{k}.weight", Status.NEW, shape, "bfloat16", new=(fill,)) for k in range(24)]
    reader = Reader(None)  # type: ignore[arg-type]  # nothing of this plan is read from a source
    mine, theirs, ratio = pairs(
        lambda: make_tensors(plans, reader, 0),
        lambda: [make_tensor(plan, reader, 0) for plan in plans],
        max(3, count // 3),
    )
    print(f"whole plan: {mine:.2f} s on all cores, {theirs:.2f} s on one thread, {1 / ratio:.2f} times as fast")
    return 1 / ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--size", type=int, default=2048)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {args.size}x{args.size} float32, median of {args.pairs} pairs")
    ratios = {
        name: compare(scheme, peer, (512, 512) if name == "orthogonal" else (args.size, args.size), args.pairs)
        for name, (scheme, peer) in PEERS.items()
    }
    ratios["dirac"] = compare(schemes.Dirac(), INIT.dirac_, DIRAC, args.pairs)
    speed_up = whole_plan(args.size, args.pairs)
    slow = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio > TARGET]
    print(f"within {TARGET} times of torch.nn.init: all" if not slow else f"over {TARGET} times: {', '.join(slow)}")
    return 1 if slow or speed_up < SPEED_UP else 0


if __name__ == "__main__":
    raise SystemExit(main())
