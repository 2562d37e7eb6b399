"""How near the trainer comes to the arithmetic: python -m benchmarks.training --data D.

For each backbone and each depth: images per second of the trainer's epoch, whose activations are remembered where
something is frozen, against the same steps on one batch that never changes (the ceiling: no images, no augmentation,
nothing read). They take turns. Beside them the first epoch of a depth, which has to compute what the later ones
remember, and on a card the ceiling where each kernel is launched by itself instead of recorded. The last line is the
lowest of the medians of trainer over ceiling; the bar is 0.90 on a CPU and 0.95 on a card.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import read_data
from benchmarks.reporting import add_out_argument, device_memory_gb, finish, show, spread
from core import cli
from core.dataspec import add_data_arguments
from core.errors import InputError

if TYPE_CHECKING:
    import torch

    from core.prefix import Fed
    from core.run import Run
    from core.trainer import Trainer

BARS = {"cpu": 0.90}
BAR_OF_CARDS = 0.95
LEAST_S = 1.5  # of a turn: shorter epochs are repeated


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.training", description=__doc__)
    add_data_arguments(parser, help="folder of labelled images, CSV or npz file; repeated, they are merged")
    parser.add_argument(
        "--arch", action="append", default=[], help="may be repeated (default: mobilenet and tf_efficientnet_lite0)"
    )
    parser.add_argument("--images", type=cli.positive_int, default=256, help="in an epoch (default: 256)")
    parser.add_argument("--batch-size", type=cli.positive_int, default=32, help="default: 32")
    parser.add_argument("--image-size", type=cli.positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--depths", type=cli.natural_int, nargs="+", help="default: all")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--source", default="auto", help="auto, resident, ffcv or torch (default: auto)")
    add_out_argument(parser, "training")
    return parser


def main(args: argparse.Namespace) -> int:
    """Measures every backbone and depth, and holds them to the bar."""
    from benchmarks.setup import activations_in, open_task, open_trainer
    from core.device import resolve_device
    from core.loaders import KINDS

    if args.source not in KINDS:
        raise InputError(f"`--source` must be one of {', '.join(KINDS)}, but got --source={args.source}. Choose one.")
    data = read_data(args)
    device = resolve_device(args.device)
    rows: list[dict[str, Any]] = []
    for arch in args.arch or ["mobilenet", "tf_efficientnet_lite0"]:
        task = open_task(
            data,
            arch,
            image_size=args.image_size,
            weights=args.weights,
            train_images=args.images,
            val_images=args.images,
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer = open_trainer(
                task,
                device,
                activations=activations_in(Path(folder), device, gigabytes=30),
                source=args.source,
            )
            with trainer.data.source:
                depths = args.depths or range(trainer.model.max_unfreeze_depth + 1)
                for depth in depths:
                    config = task.config(1, lr=1e-3, batch_size=args.batch_size, unfreeze_depth=depth)
                    rows.append({"arch": arch, **measure(trainer, trainer.prepare(config), args.repeats)})
                    _show(rows[-1])
    bar = BARS.get(device.type, BAR_OF_CARDS)
    lowest = min(row["ratio"]["median"] for row in rows)
    cli.write(f"the bar is {bar:.2f}: {'held' if lowest >= bar else 'not held'}")
    finish(
        args.out, rows=rows, ratio=lowest, about="images per second of the trainer over those of its ceiling, lowest"
    )
    return 0 if lowest >= bar else 1


def measure(trainer: "Trainer", run: "Run", repeats: int) -> dict[str, Any]:
    """One depth.

    Args:
        trainer: What prepared the run.
        run: Not begun.
        repeats: Turns of each contestant.
    """
    config, order = run.config, run.train_rows
    steps = -(-len(order) // config.batch_size)
    first_s = _seconds(lambda: run.train_rows_in_order(order, 0), run.device)  # computes what is remembered
    batch = next(run.prefix.batches(run.train_part, order, epoch=0, batch_size=config.batch_size))
    rates: dict[str, list[float]] = {"trainer": [], "ceiling": []}
    contestants: dict[str, Callable[[], object]] = {
        "ceiling": lambda: _constant_steps(run, batch, steps),
        "trainer": lambda: run.train_rows_in_order(order, 0),
    }
    for work in contestants.values():  # kernels choose their algorithms, files come into memory
        work()
    if run.recorder is not None:
        unrecorded = dataclasses.replace(run, recorder=None)
        rates["kernel by kernel"] = []
        contestants["kernel by kernel"] = lambda: _constant_steps(unrecorded, batch, steps)
    images = {name: len(order) if name == "trainer" else steps * len(batch.labels) for name in contestants}
    for _ in range(repeats):
        for name, work in contestants.items():
            rates[name].append(_rate(work, images[name], run.device))
    return {
        "depth": config.unfreeze_depth,
        "of": trainer.model.max_unfreeze_depth,
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "activation": list(batch.inputs.shape[1:]),
        "remembered": trainer.prefix.remembers,
        "images": len(order),
        "images_per_s": {name: spread(values) for name, values in rates.items()},
        "first_epoch_images_per_s": len(order) / first_s,
        "ratio": spread([ours / most for ours, most in zip(rates["trainer"], rates["ceiling"], strict=True)]),
        "peak_memory_gb": device_memory_gb(run.device),
    }


def _constant_steps(run: "Run", batch: "Fed", steps: int) -> None:
    """The trainer's own steps, on one batch."""
    run.model.train()
    for _ in range(steps):
        _, loss = run.step([batch], len(batch.labels), run.config.lr)
    loss.item()  # a GPU has finished, too


def _rate(work: Callable[[], object], images: int, device: "torch.device") -> float:
    """Images per second, of as many repeats as fill a turn."""
    elapsed_s, done = 0.0, 0
    while not done or elapsed_s < LEAST_S:
        elapsed_s += _seconds(work, device)
        done += images
    return done / elapsed_s


def _seconds(work: Callable[[], object], device: "torch.device") -> float:
    import torch

    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _show(row: dict[str, Any]) -> None:
    rates = row["images_per_s"]
    shape = "x".join(map(str, row["activation"]))
    cli.write(
        f"{row['arch']:<24} depth {row['depth']:>2} of {row['of']}, fed {shape:<12} "
        f"{rates['trainer']['median']:>9,.1f} of {rates['ceiling']['median']:>9,.1f} images/s, "
        f"ratio {show(row['ratio'])}, first epoch {row['first_epoch_images_per_s']:>7,.1f}, "
        f"peak {row['peak_memory_gb']:.1f} GB"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
