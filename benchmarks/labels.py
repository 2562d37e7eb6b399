"""How much images without labels add where labels are few: python -m benchmarks.labels --data D.

For each seed and share of labelled lesions the first trial of a search is trained three times: from the first weights
alone; from weights that `core.pretrain` made of the whole training part without labels; and from the first weights with
pseudo-labels of the whole training part. What counts is macro recall on validation, as a trial is judged. A seed
draws the split by lesion, the labelled lesions, the pre-training and the run; the test part stays sealed.

Every run is written as soon as it is over, and a pre-training goes on where it was stopped: the same command adds what
is missing.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.labels_table import ARMS, BASE, SELF, SEMI, compare, draw, markdown
from benchmarks.reporting import RESULTS, finish, json_file
from core.cli import Parser, positive_int, progress, run, write
from core.dataspec import add_data_arguments
from core.errors import InputError, counted
from core.framing import FRAMINGS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from benchmarks.ablation import Recording
    from benchmarks.setup import Task

RECORDINGS = Path(__file__).parent / "recordings"
_MOST_EPOCHS = 10  # times --epochs, with few labels: epochs of 70 images are over before anything is learned


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from core.pretrain import METHODS

    parser = Parser(prog="python -m benchmarks.labels", description=__doc__)
    add_data_arguments(parser, help="folder of labelled images")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1, 1.0], help="of lesions with labels"
    )
    parser.add_argument("--seeds", type=positive_int, default=3, help="default: 3")
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--framing", choices=FRAMINGS, default="whole", help="as of search.run (default: whole)")
    parser.add_argument("--val-images", type=positive_int, help="random validation images (default: all)")
    parser.add_argument(
        "--epochs", type=positive_int, default=10, help="with all labels; up to ten times that with few"
    )
    parser.add_argument("--method", choices=METHODS, default="byol", help="of the pre-training (default: byol)")
    parser.add_argument("--pretrain-epochs", type=positive_int, default=50, help="default: 50")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--recording", type=json_file, help="JSON file of the runs (default: in benchmarks/recordings)")
    parser.add_argument(
        "--out", type=json_file, help="JSON file of the table, the plot beside it (default: in results)"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs what is missing, and compares."""
    from benchmarks.ablation import Recording
    from benchmarks.ablation_changes import base_values
    from core.backbones import build_classifier
    from core.device import resolve_device

    if len(args.data) != 1 or not args.data[0].is_dir():
        raise InputError(f"`--data` must be one folder, but got {counted(len(args.data), 'place')}. Give one.")
    if wrong := [share for share in args.shares if not 0 < share <= 1]:
        raise InputError(
            f"`--shares` must be in (0, 1], but got --shares {wrong[0]:g}. Give shares such as 0.01 and 1."
        )
    device, task = resolve_device(args.device), open_seed(args, 0, args.weights)
    if task.weights.apart is not None:
        raise InputError(
            "`--weights` must be those of others, as a pre-training is kept apart from the validation part of one seed "
            f"only, but got --weights {args.weights}. Give the weights that it began with."
        )
    name = f"labels-{args.arch}-{task.arch.image_size}"
    model = build_classifier(task.arch, num_classes=len(task.manifest.classes), weights=None, seed=0)
    base = base_values(task, model, None)
    recording = Recording(args.recording or RECORDINGS / f"{name}.json", describe(args, device, task, base))
    wanted = [(seed, share, arm) for seed in range(args.seeds) for share in args.shares for arm in ARMS]
    missing = [each for each in wanted if not recording.holds(each[0], run_name(*each[1:]))]
    write(f"{counted(len(wanted), 'run')}, of which {len(missing)} are missing")
    with progress("runs", len(missing)) as bar:
        for seed in range(args.seeds):
            for arm in ARMS:
                shares = [share for of, share, name_ in missing if (of, name_) == (seed, arm)]
                if shares:
                    measure(args, device, base, seed, arm, shares, recording)
                    bar.advance(len(shares))
    runs = [each for each in recording.runs if each["seed"] < args.seeds]
    rows = compare(runs, args.shares)
    write(markdown(rows))
    out = args.out or RESULTS / f"{name}.json"
    draw(rows, out.with_suffix(".png"))
    fewest = {row["arm"]: row["recall"] for row in rows if row["share"] == min(args.shares)}
    if any(fewest[arm] is None for arm in ARMS):
        raise InputError("Runs must end well to be compared, but some of the fewest labels failed. See the recording.")
    arm = max((SELF, SEMI), key=lambda each: fewest[each])
    finish(
        out,
        rows=[{"table": "setting", **recording.provenance}, *rows],
        ratio=fewest[arm] / fewest[BASE],
        about=f"macro recall, {arm} over first weights alone, with {100 * min(args.shares):g} % of the labels, "
        f"mean of {counted(args.seeds, 'seed')}",
    )
    return 0


def run_name(share: float, arm: str) -> str:
    """How a recording names a run of a seed."""
    return f"{arm} {share:g}"


def open_seed(args: argparse.Namespace, seed: int, weights: str) -> "Task":
    """The images of a seed, all of the training part."""
    from benchmarks.setup import open_task
    from core.dataspec import read_data_arguments

    return open_task(
        read_data_arguments(args, args.data),
        args.arch,
        image_size=args.image_size,
        framing=args.framing,
        weights=weights,
        val_images=args.val_images,
        seed=seed,
    )


def describe(args: argparse.Namespace, device: "torch.device", task: "Task", base: dict[str, Any]) -> dict[str, Any]:
    """What all runs of a recording share."""
    return {
        **task.provenance(device),
        "val_images": args.val_images or "all",
        "epochs": args.epochs,
        "pretraining": f"{args.method}, {args.pretrain_epochs} epochs",
        "base": base,
    }


def pretrained(args: argparse.Namespace, seed: int, recording: "Recording") -> str:
    """The weights file of a seed's pre-training, which goes on where it was."""
    from core import pretrain

    out = recording.file.with_name(f"{recording.file.stem}-{args.method}-{seed}.safetensors")
    words = ["--data", args.data[0], "--labelled", args.data[0], "--out", out, "--arch", args.arch]
    words += ["--method", args.method, "--seed", seed]
    for column in ("image_column", "label_column", "group_column"):
        words += [f"--{column.replace('_', '-')}", getattr(args, column)] if getattr(args, column) else []
    words += ["--weights", args.weights, "--epochs", args.pretrain_epochs, "--device", args.device]
    words += ["--framing", args.framing]
    words += [] if args.image_size is None else ["--image-size", args.image_size]
    out.parent.mkdir(parents=True, exist_ok=True)
    if pretrain.main(pretrain.build_parser().parse_args([str(word) for word in words])) or not out.is_file():
        raise KeyboardInterrupt
    return str(out)


def measure(
    args: argparse.Namespace,
    device: "torch.device",
    base: dict[str, Any],
    seed: int,
    arm: str,
    shares: list[float],
    recording: "Recording",
) -> None:
    """Runs one arm of a seed with some shares of the labels."""
    from benchmarks.ablation import measure as measure_run
    from benchmarks.setup import open_trainer
    from core.loaders import open_files
    from core.semisupervised import UnlabelledImages

    task = open_seed(args, seed, pretrained(args, seed, recording) if arm == SELF else args.weights)
    for share in shares:
        some = dataclasses.replace(task.split, train=labelled_rows(task, share))
        trainer = open_trainer(dataclasses.replace(task, split=some), device, activations=None)
        if arm == SEMI:
            rows = task.split.train.tolist()
            files, sha256 = [task.manifest.file(row) for row in rows], [task.manifest.sha256[row] for row in rows]
            source = open_files(files, frame=task.arch.frame, device=device, sha256=sha256)
            besides = UnlabelledImages(source=source, count=len(files))
            trainer.data = dataclasses.replace(trainer.data, unlabelled=besides)
        with trainer.data:
            epochs = round(args.epochs * min(_MOST_EPOCHS, 1 / share))
            values = {**base, **({"unlabelled_weight": 1.0} if arm == SEMI else {})}
            result = measure_run(trainer, task.config(epochs, **values))
        recording.add({"seed": seed, "name": run_name(share, arm), "share": share, "arm": arm, **result})


def labelled_rows(task: "Task", share: float) -> "npt.NDArray[np.int64]":
    """Training rows of a share of each class's lesions, at least one; those of a smaller share are among them."""
    import math

    import numpy as np

    from core.seeds import derive_seed
    from core.splits import joined_groups

    groups_N, train = joined_groups(task.manifest), task.split.train
    labels, groups = task.manifest.labels[train], groups_N[train]
    chosen: list[npt.NDArray[np.int64]] = []
    for c in range(len(task.manifest.classes)):
        lesions = np.unique(groups[labels == c])
        order = np.random.default_rng(derive_seed(task.seed, c)).permutation(lesions)
        chosen.append(order[: math.ceil(share * len(lesions))])
    return np.asarray(train[np.isin(groups, np.concatenate(chosen))])


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
