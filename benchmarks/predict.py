"""What classifying new images costs beside the networks: python -m benchmarks.predict ENSEMBLE IMAGES.

One side reads, decodes and classifies image files with all members, as `ensemble.predict` does once it has started; the
other shows each member as many images in batches that lie ready in memory, and does nothing else: with its networks as
they were trained, and once more as they vote, with folded norms where precision is single. Turn by turn. The ratio is
the first side's seconds over those of the networks as they were trained; its bar is 1.2.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting import add_out_argument, finish, spread
from core.cli import Parser, positive_int, progress, run, write

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ensemble.inference import TrialClassifier
    from ensemble.voting import SoftVotingEnsemble

BAR = 1.2


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("ensemble", type=Path, help="folder that ensemble.build wrote")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders that hold some")
    parser.add_argument("--at-most", type=positive_int, default=512, metavar="N", help="images (default: 512)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="turns (default: 5)")
    parser.add_argument("--device", default="auto", help="default: auto")
    add_out_argument(parser, "predict")
    return parser


def main(args: argparse.Namespace) -> int:
    """Measures both sides, turn by turn."""
    from ensemble.inference import load_ensemble
    from ensemble.predict import find_images

    files = find_images(args.images)[: args.at_most]
    ensemble = load_ensemble(args.ensemble, device=args.device)
    sides = {"predict": predict_files, "forward": show_as_trained, "folded": show_as_voting}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    with progress("turns", args.repeats + 1) as bar:
        for turn in range(args.repeats + 1):
            for name, side in sides.items():
                seconds = side(ensemble, files)
                if turn:  # the first warms up
                    taken[name].append(seconds)
            bar.advance()
    ratios = {
        name: [one / other for one, other in zip(taken["predict"], taken[name], strict=True)]
        for name in ("forward", "folded")
    }
    row = {
        "images": len(files),
        "members": [{"arch": one.arch.timm_name, "image_size": one.arch.image_size} for one in ensemble.estimators_],
        "views": ensemble.rule.views,
        "ratio": spread(ratios["forward"]),
        "ratio_folded": spread(ratios["folded"]),
        **{f"{name}_s": spread(seconds) for name, seconds in taken.items()},
    }
    ratio, folded = (statistics.median(ratios[name]) for name in ("forward", "folded"))
    write(
        f"{ratio:.2f} times the networks as they were trained; the bar is {BAR:g}: "
        f"{'held' if ratio <= BAR else 'not held'}; {folded:.2f} times what is computed of them"
    )
    finish(args.out, rows=[row], ratio=ratio, about="seconds to classify image files over those of the networks alone")
    return 0 if ratio <= BAR else 1


def predict_files(ensemble: "SoftVotingEnsemble", files: Sequence[Path]) -> float:
    """Seconds from files to classes."""
    from ensemble.inference import ImageSet

    start = time.perf_counter()
    with ImageSet.of_files(files) as images:
        images.open((member.arch.frame for member in ensemble.estimators_), ensemble.estimators_[0].device)
        ensemble.predict(images)
    return time.perf_counter() - start


def show_as_trained(ensemble: "SoftVotingEnsemble", files: Sequence[Path]) -> float:
    """Seconds of the members' networks on as many images of the right sizes."""
    from ensemble.inference import load_network

    seconds = 0.0
    for member in ensemble.estimators_:
        for file in member.weights_files:
            network = load_network(file, member.arch, num_classes=len(member.classes), device=member.device_)
            seconds += _show(network, member, len(files), ensemble.rule.views)
    return seconds


def show_as_voting(ensemble: "SoftVotingEnsemble", files: Sequence[Path]) -> float:
    """As `show_as_trained`, with what the members make of their networks."""
    return sum(
        _show(network, member, len(files), ensemble.rule.views)
        for member in ensemble.estimators_
        for network in member.models_
    )


def _show(network: "nn.Module", member: "TrialClassifier", count: int, views: int) -> float:
    import torch

    from core.augment import dihedral_views
    from core.device import autocast
    from core.evaluation import EVAL_BATCH_SIZE

    side, device = member.arch.image_size, member.device_
    images = torch.rand(EVAL_BATCH_SIZE, 3, side, side, device=device).to(memory_format=torch.channels_last)
    network.eval()
    _wait(device)
    start = time.perf_counter()
    with torch.inference_mode(), autocast(device):
        for first in range(0, count, EVAL_BATCH_SIZE):
            batch = images[: count - first]
            for view in dihedral_views(batch, views, member.arch.framing):
                network(view)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
