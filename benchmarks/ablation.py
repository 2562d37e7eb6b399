"""Paired ablations at equal cost: python -m benchmarks.ablation --data D.

A base, the first trial of a search, and one change at a time, each for the same epochs on the same images. What counts
is the gain in macro recall on validation, as a trial is judged (`argmax p / prior`, best epoch). A seed draws both the
split of train and validation, by lesion, and the run; base and change share it. The test part stays sealed.

Every run is written as soon as it is over: the same command goes on where it was stopped, and with more `--seeds` or
other `--only` it adds what is missing. Nothing is remembered between runs, so that their seconds can be compared: on a
card those that passed, else the processor's, as who else computes changes the others.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ablation_changes import (
    BASE,
    CENTRE,
    CHANGES,
    base_values,
    changed_arch,
    changed_values,
    choose_changes,
    config_of,
)
from benchmarks.ablation_table import best_change, compare, markdown
from benchmarks.reporting import RESULTS, finish, json_file
from core.cli import Parser, Progress, natural_int, positive_int, progress, run, write
from core.dataspec import add_data_arguments, read_data_arguments
from core.errors import InputError, counted, few
from core.framing import EARLIER, FRAMINGS

if TYPE_CHECKING:
    import torch

    from benchmarks.setup import Task
    from core.config import TrainConfig
    from core.trainer import Trainer

RECORDINGS = Path(__file__).parent / "recordings"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.ablation", description=__doc__)
    add_data_arguments(parser, help="folder of labelled images, CSV or npz file; repeated, they are merged")
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--framing", choices=FRAMINGS, default="whole", help="as of search.run (default: whole)")
    parser.add_argument("--train-images", type=positive_int, help="random training images (default: all)")
    parser.add_argument("--val-images", type=positive_int, help="random validation images (default: all)")
    parser.add_argument("--epochs", type=positive_int, default=10, help="default: 10")
    parser.add_argument("--depth", type=natural_int, help="blocks that learn (default: as a search's first trial)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="default: 3")
    parser.add_argument("--only", nargs="+", default=[], choices=CHANGES, metavar="NAME", help=f"of {few(CHANGES)}")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--recording", type=json_file, help="JSON file of the runs (default: in benchmarks/recordings)")
    parser.add_argument("--out", type=json_file, help="JSON file of the table (default: in benchmarks/results)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs what is missing, and compares."""
    from core.backbones import build_classifier
    from core.device import resolve_device

    device = resolve_device(args.device)
    task = open_seed(args, 0)
    name = f"ablation-{args.arch}-{task.arch.image_size}.json"
    model = build_classifier(task.arch, num_classes=len(task.manifest.classes), weights=None, seed=0)
    base = base_values(task, model, args.depth)
    depth = base["unfreeze_depth"]
    names = choose_changes(args.only, model, task.arch.timm_name, epochs=args.epochs, depth=depth)
    if args.framing == "centre":  # which is no change then
        names = [name for name in names if name != CENTRE]
    values = values_of(args, task, (BASE, *names))
    configs = [config_of(task, args.epochs, base, each) for each in values.values()]  # refused now or never
    recording = Recording(args.recording or RECORDINGS / name, describe(args, device, task, base))
    missing = [
        (seed, change) for seed in range(args.seeds) for change in (BASE, *names) if not recording.holds(seed, change)
    ]
    write(f"{counted(len(configs) * args.seeds, 'run')}, of which {len(missing)} are missing")
    with progress("ablations", len(missing)) as bar:
        for seed in range(args.seeds):
            measure_seed(args, device, base, seed, [change for of, change in missing if of == seed], recording, bar)
    kept = [each for each in recording.runs if each["seed"] < args.seeds]
    rows = compare(kept, names)
    write(markdown(rows))
    if (best := best_change(rows)) is None:
        raise InputError("`--only` must name changes whose runs end well, but all failed. Look at their reasons.")
    finish(
        args.out or RESULTS / name,
        rows=[{"table": "setting", **recording.provenance}, *rows],
        ratio=best["recall"] / (best["recall"] - best["gain"]),
        about=f"macro recall of {best['name']} over the base's, the best of {counted(len(rows) - 1, 'change')} over "
        f"{counted(best['n'], 'seed')}",
    )
    return 0


def open_seed(args: argparse.Namespace, seed: int) -> "Task":
    """The images of a seed."""
    from benchmarks.setup import open_task

    return open_task(
        read_data_arguments(args, args.data),
        args.arch,
        image_size=args.image_size,
        framing=args.framing,
        weights=args.weights,
        train_images=args.train_images,
        val_images=args.val_images,
        seed=seed,
    )


def values_of(args: argparse.Namespace, task: "Task", names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each change sets."""
    return {name: changed_values(name, image_size=task.arch.image_size, epochs=args.epochs) for name in names}


def describe(args: argparse.Namespace, device: "torch.device", task: "Task", base: dict[str, Any]) -> dict[str, Any]:
    """What all runs of a recording share."""
    return {
        **task.provenance(device),
        "train_images": args.train_images or "all",
        "val_images": args.val_images or "all",
        "epochs": args.epochs,
        "base": base,
    }


class Recording:
    """The runs of a file, of which each is there as soon as it is over.

    Args:
        file: Where; it may be there already.
        provenance: What all its runs share.

    Attributes:
        runs: What each gave.

    Raises:
        InputError: The file is of another setting.
    """

    def __init__(self, file: Path, provenance: dict[str, Any]) -> None:
        from core.files import read_json

        self.file, self.provenance, self.runs = file, provenance, list[dict[str, Any]]()
        if not file.is_file():
            return
        content = read_json(file)
        known = {"framing": EARLIER, **content.get("provenance", {})}
        if differing := [name for name in provenance if known.get(name) != provenance[name]]:
            raise InputError(
                f"`--recording` must be a new file or one of the same setting, but in {file} these differ: "
                f"{few(differing)}. Give another file."
            )
        self.runs = content["runs"]

    def holds(self, seed: int, name: str) -> bool:
        """Whether a run is there."""
        return any((run["seed"], run["name"]) == (seed, name) for run in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        """Writes one more."""
        from core.files import write_json

        self.runs.append(run)
        write_json(self.file, {"provenance": self.provenance, "runs": self.runs})


def measure_seed(
    args: argparse.Namespace,
    device: "torch.device",
    base: dict[str, Any],
    seed: int,
    names: list[str],
    recording: Recording,
    bar: Progress,
) -> None:
    """Runs what is missing of a seed, frames one after the other, so that each is decoded once."""
    from benchmarks.setup import open_trainer

    if not names:
        return
    task = open_seed(args, seed)
    values = values_of(args, task, names)
    archs = {name: changed_arch(task.arch, values[name]) for name in names}
    for arch in sorted(set(archs.values()), key=lambda arch: arch.frame):
        trainer = open_trainer(dataclasses.replace(task, arch=arch), device, activations=None)
        try:
            for name in (name for name in names if archs[name] == arch):
                config = config_of(task, args.epochs, base, values[name])
                recording.add({"seed": seed, "name": name, "values": values[name], **measure(trainer, config)})
                bar.advance()
        finally:
            trainer.data.source.close()


def measure(trainer: "Trainer", config: "TrainConfig") -> dict[str, Any]:
    """What one run gave."""
    from core.trainer import NonFiniteLossError

    started_s = time.process_time()
    try:
        result = trainer.train(config, lambda epoch: None)
    except NonFiniteLossError as error:
        return {"reason": str(error)}
    processor_s = time.process_time() - started_s
    best = result.history[result.best_epoch]
    return {
        "reason": "",
        **{name: best[f"val_{name}"] for name in ("recall", "recall_argmax", "accuracy", "loss")},
        "best_epoch": result.best_epoch,
        "recalls": [row["val_recall"] for row in result.history],
        "seconds": processor_s if trainer.device.type == "cpu" else result.elapsed_s,
        "train_images": len(trainer.data.train_rows),
        "val_images": len(trainer.data.val_rows),
    }


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
