"""What keeping freed memory gains on the CPU: python -m benchmarks.memory.

Processes with glibc's defaults and with `core.device.keep_freed_memory` take turns, because the setting lasts for a
process. The last line is the ratio of evaluated images per second, median and range.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from core.cli import Parser, positive_int, run, write

EVAL_BATCH, TRAIN_BATCH = 128, 32
UNFREEZE_DEPTH = 5  # of the search's first trial


def measure(keep: bool) -> dict[str, float]:
    """Images per second and peak memory of this process, which must be a fresh one."""
    import resource

    import torch

    from core.archs import resolve_arch
    from core.backbones import build_classifier
    from core.device import keep_freed_memory

    cpu = torch.device("cpu")
    if keep:
        keep_freed_memory(cpu)
    arch = resolve_arch("mobilenet")
    model = build_classifier(arch, num_classes=7, weights=None, seed=0).to(memory_format=torch.channels_last)
    images = torch.randn(EVAL_BATCH, 3, arch.image_size, arch.image_size).contiguous(memory_format=torch.channels_last)
    model.eval()
    with torch.inference_mode():
        evaluated = _rate(lambda: model(images), EVAL_BATCH, repeats=3)
    model.set_unfreeze_depth(UNFREEZE_DEPTH)
    model.train()
    batch = images[:TRAIN_BATCH].contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    trained = _rate(step, TRAIN_BATCH, repeats=6)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"evaluated_per_s": evaluated, "trained_per_s": trained, "peak_gb": peak_gb}


def _rate(work: Callable[[], object], images: int, repeats: int) -> float:
    work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return repeats * images / (time.perf_counter() - start)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--repeats", type=positive_int, default=3, help="pairs of processes (default: 3)")
    parser.add_argument("--one", choices=("default", "keep"), help="measure in this process and print JSON")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the pairs."""
    if args.one:
        write(json.dumps(measure(args.one == "keep")))
        return 0
    ratios = []
    for _ in range(args.repeats):
        pair = []
        for mode in ("default", "keep"):
            command = [sys.executable, "-m", "benchmarks.memory", "--one", mode]
            pair.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            write(f"{mode:<8}" + "  ".join(f"{name} {value:.2f}" for name, value in pair[-1].items()))
        ratios.append([pair[1][name] / pair[0][name] for name in ("evaluated_per_s", "trained_per_s")])
    evaluated, trained = zip(*ratios, strict=True)
    for name, values in (("training", trained), ("evaluating", evaluated)):
        write(f"{name} ratio: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, _parser()))
