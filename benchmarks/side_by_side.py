"""How many trials at once fill the machine: python -m benchmarks.side_by_side --data D --arch mobilenet.

Trains the same config in 1, 2, 4, … processes at once, each with its share of the threads on a CPU, and adds up their
images per second. All begin together once each has run an epoch, so that kernels are chosen, graphs compiled and frozen
layers remembered. The ratio is the most that any number of processes gives, over one process alone.
"""

import argparse
import multiprocessing
import multiprocessing.synchronize
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_task_arguments, read_data
from benchmarks.reporting import add_out_argument, device_memory_gb, finish
from core import cli
from core.dataspec import DataSpec

_barrier: multiprocessing.synchronize.Barrier | None = None  # of a worker process


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.side_by_side", description=__doc__)
    add_task_arguments(parser)
    parser.add_argument("--images", type=cli.positive_int, default=512, help="in an epoch (default: 512)")
    parser.add_argument("--batch-size", type=cli.positive_int, default=32, help="default: 32")
    parser.add_argument("--depth", type=cli.natural_int, default=5, help="blocks that learn (default: 5)")
    parser.add_argument(
        "--processes", type=cli.positive_int, nargs="+", default=[1, 2, 4], help="at once (default: 1 2 4)"
    )
    parser.add_argument("--seconds", type=cli.seconds, default=20, help="that each number runs (default: 20)")
    add_out_argument(parser, "side_by_side")
    return parser


def main(args: argparse.Namespace) -> int:
    """Measures each number of processes."""
    from core.device import resolve_device

    data = read_data(args)
    resolve_device(args.device)
    numbers = sorted({1, *args.processes})
    with tempfile.TemporaryDirectory() as folder:
        rows = [_measure(args, data, number, Path(folder)) for number in numbers]
    alone = rows[0]["images_per_s"]
    for row in rows:
        row["over_one"] = row["images_per_s"] / alone
        cli.write(
            f"{row['processes']:>2} at once: {row['images_per_s']:>9,.1f} images/s in all, {row['over_one']:.2f} of "
            f"one alone; peak {max(row['peak_memory_gb']):.1f} GB each"
        )
    best = max(row["over_one"] for row in rows)
    finish(args.out, rows=rows, ratio=best, about="images per second of the best number of trials at once, over one")
    return 0


def _measure(args: argparse.Namespace, data: DataSpec, processes: int, folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_meet, initargs=(barrier,)) as pool:
        done = list(
            pool.map(_train, [data] * processes, [args] * processes, [processes] * processes, [folder] * processes)
        )
    return {
        "processes": processes,
        "images_per_s": sum(each["images_per_s"] for each in done),
        "peak_memory_gb": [each["peak_memory_gb"] for each in done],
    }


def _meet(barrier: multiprocessing.synchronize.Barrier) -> None:
    global _barrier
    _barrier = barrier


def _train(data: DataSpec, args: argparse.Namespace, processes: int, folder: Path) -> dict[str, float]:
    """Epochs of one config for some seconds."""
    import torch

    from benchmarks.setup import activations_in, open_task, open_trainer
    from core.device import available_cores, resolve_device

    device = resolve_device(args.device)
    torch.set_num_threads(max(1, available_cores() // processes))
    task = open_task(
        data,
        args.arch,
        image_size=args.image_size,
        framing=args.framing,
        weights=args.weights,
        train_images=args.images,
        val_images=args.images,
    )
    activations = activations_in(folder / str(processes), device, gigabytes=30 / processes)
    trainer = open_trainer(task, device, activations=activations)
    with trainer.data.source:
        run = trainer.prepare(task.config(1, lr=1e-3, batch_size=args.batch_size, unfreeze_depth=args.depth))
        for _ in range(2):  # the process that finds another one computing remembers nothing at first
            run.train_rows_in_order(run.train_rows, 0)
        assert _barrier is not None, "set by the initializer"
        _barrier.wait()
        start, images = time.perf_counter(), 0
        while (elapsed_s := time.perf_counter() - start) < args.seconds:
            run.train_rows_in_order(run.train_rows, 0)
            images += len(run.train_rows)
    return {"images_per_s": images / elapsed_s, "peak_memory_gb": device_memory_gb(device)}


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
