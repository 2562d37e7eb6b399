"""Pre-trains a backbone on images without labels: python -m core.pretrain --data FOLDER --out weights.safetensors.

Lesions that a study keeps for validation and test are left out, by their photos and by their groups. The file is for
`python -m search.run --weights weights.safetensors`.
"""

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli import (
    EXIT_INTERRUPTED,
    Parser,
    natural_int,
    positive_int,
    progress,
    run,
    seconds,
    stop_asked,
    stopping_cleanly,
    write,
)
from core.dataspec import DataSpec, add_column_arguments, read_data_arguments
from core.errors import InputError, counted
from core.framing import DEFAULT, FRAMINGS

# torch and timm take seconds to import and --help must not: they come after the parsing.
if TYPE_CHECKING:
    from core.archs import Arch
    from core.pretrain_data import PretrainConfig, PretrainEpoch
    from core.pretraining import Pretraining

METHODS = ("byol", "simsiam", "vicreg")


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m core.pretrain", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder of images, labelled or not")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file, for --weights FILE")
    parser.add_argument("--arch", default="mobilenet", help="mobilenet, efficientnet_b3, or any timm model name")
    parser.add_argument("--method", choices=METHODS, default="byol", help="how to learn without labels (default: byol)")
    parser.add_argument("--weights", default="auto", help="first weights: auto, none, or a file (default: auto)")
    parser.add_argument(
        "--labelled",
        type=Path,
        action="append",
        default=[],
        metavar="PLACE",
        help="--data of the study, whose validation and test lesions are left out (default: FOLDER itself)",
    )
    add_column_arguments(parser)
    parser.add_argument("--seed", type=natural_int, default=0, help="the study's: of its split, and of order and views")
    parser.add_argument("--epochs", type=positive_int, default=50, help="default: 50")
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images a step (default: 128)")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 1e-3 for a batch of 256, in proportion)")
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="decoupled, per step and unit of the rate")
    parser.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="default: what the weights want")
    parser.add_argument("--framing", choices=FRAMINGS, help="as of search.run (default: whole, or as it began)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="stop then; the same command continues")
    return parser


def main(args: argparse.Namespace) -> int:
    """Finds the images, leaves out what is sealed, trains, and writes the file."""
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    check_places(args)
    from core.archs import resolve_arch
    from core.device import describe_device, resolve_device
    from core.loaders import open_files
    from core.pretrain_files import begun_framing, checkpoint_file, describe, refuse_differences, write_weights
    from core.pretrain_study import find_study
    from core.pretraining import Pretraining, build_learner, refuse_what_does_not_fit
    from core.unlabelled import find_unlabelled
    from core.weights import resolve_weights

    device = resolve_device(args.device)
    checkpoint = checkpoint_file(args.out)
    framing = args.framing or begun_framing(args.out) or begun_framing(checkpoint) or DEFAULT
    arch = dataclasses.replace(resolve_arch(args.arch), framing=framing)
    if args.image_size is not None:
        arch = dataclasses.replace(arch, image_size=args.image_size)
    config = read_config(args, arch)
    weights = resolve_weights(args.weights, arch)
    learner = build_learner(config, arch=arch, weights=weights)
    spec = read_study(args)
    found = find_unlabelled(args.data, flag="--data", columns=spec.columns)
    study = find_study(spec, seed=args.seed, named=bool(args.labelled))
    study.refuse_weights(weights)
    images = study.leave_out(found)
    if len(images) < 2:
        raise InputError(f"`--data` must hold 2 images or more, but {args.data} has {len(images)}. Name another one.")
    views = 2 * min(args.batch_size, len(images))
    with telling_what_is_too_large(args.batch_size, arch.image_size):
        if device.type == "cpu":  # a card says so itself
            refuse_what_does_not_fit(learner, views, arch.image_size)
    facts = describe(config, arch, images, weights, study)
    for file in filter(Path.exists, (args.out, checkpoint)):  # before anything is decoded
        refuse_differences(file, facts)
    if args.out.exists():
        checkpoint.unlink(missing_ok=True)  # of a run that was killed between the two
        write(f"{args.out} is there already, of the same images and settings.")
        return 0
    with ExitStack() as stack:
        source = stack.enter_context(open_files(images.files, frame=arch.frame, device=device, sha256=images.sha256))
        labelled = study.open_labelled(arch, device)
        stack.enter_context(labelled.source)
        training = Pretraining(config, arch=arch, learner=learner, source=source, images=len(images), labelled=labelled)
        write(
            f"{config.method}, {arch.name} from {weights.origin}: {counted(len(images), 'image')} of {arch.image_size} "
            f"pixels, {counted(config.descent.epochs, 'epoch')} of {counted(training.steps, 'step')}, "
            f"{describe_device(device)}"
        )
        if not train(training, checkpoint, facts, deadline):
            write(f"Stopped in epoch {len(training.history) + 1}. The same command continues.")
            return EXIT_INTERRUPTED if stop_asked() else 0
        write_weights(args.out, training, images=images, weights=weights, study=study, facts=facts)
    checkpoint.unlink(missing_ok=True)
    seen = "" if framing == DEFAULT else f" --framing {framing}"
    write(f"next: python -m search.run --arch {args.arch} --weights {shlex.quote(str(args.out))}{seen} …")
    return 0


def check_places(args: argparse.Namespace) -> None:
    """Makes sure that everything is there and the result will have a place, before any work is done.

    Raises:
        InputError: It isn't.
    """
    from core.files import check_new_tensors
    from core.unlabelled import check_folder

    check_new_tensors(args.out)
    check_folder(args.data, flag="--data")
    if missing := [str(place) for place in args.labelled if not place.exists()]:
        raise InputError(
            f"`--labelled` must name places that are there, but got --labelled {missing[0]}. Check the path."
        )


def read_study(args: argparse.Namespace) -> DataSpec:
    """Where the study's labelled images are: where the user says, else where the unlabelled ones are."""
    return read_data_arguments(args, args.labelled or [args.data])


def read_config(args: argparse.Namespace, arch: "Arch") -> "PretrainConfig":
    """What is asked for, or a refusal of a value that can't be used."""
    from core.config import TrainConfig
    from core.pretrain_data import PretrainConfig

    if args.batch_size < 2:
        raise InputError("`--batch-size` must be 2 or more, but got --batch-size 1. Batches need a variance.")
    descent = TrainConfig(
        arch=arch.timm_name,
        image_size=arch.image_size,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=1e-3 * args.batch_size / 256 if args.lr is None else args.lr,
        weight_decay=args.weight_decay,
        warmup_epochs=args.epochs / 10,
        seed=args.seed,
    )
    return PretrainConfig(method=args.method, descent=descent)


def train(training: "Pretraining", checkpoint: Path, facts: dict[str, str], deadline: float | None) -> bool:
    """Trains what is left, with a row for each epoch; returns whether it came to its end."""
    from core.collapse import CollapseError

    with stopping_cleanly(), telling_what_is_too_large(training.config.descent.batch_size, training.arch.image_size):
        if checkpoint.exists():
            training.resume(checkpoint)
            write(f"continuing in epoch {len(training.history) + 1}")
        else:
            write("epoch     loss   spread   neighbours' recall   images/s")
            write(f"{'first weights':22}{training.neighbour_recall():>22.3f}")
        with progress("pre-training", training.steps_left) as bar:

            def on_step() -> bool:
                bar.advance()
                return not (stop_asked() or (deadline is not None and time.monotonic() >= deadline))

            try:
                return training.finish(lambda epoch: write(_row(epoch)), checkpoint, facts, on_step)
            except CollapseError:
                checkpoint.unlink(missing_ok=True)  # with another rate or method it is of no use
                raise


@contextmanager
def telling_what_is_too_large(batch_size: int, image_size: int) -> Iterator[None]:
    """A sentence in place of an error that means too little memory.

    Raises:
        InputError: There is too little.
    """
    from core.device import is_out_of_memory

    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"`--batch-size` must be one that memory has room for, but two views of {batch_size} images of "
            f"{image_size} pixels are too much. Give --batch-size {max(2, batch_size // 2)}."
        ) from error


def _row(result: "PretrainEpoch") -> str:
    recall = "" if result.recall is None else f"{result.recall:.3f}"
    return f"{result.epoch + 1:5}{result.loss:9.4f}{result.spread:9.3f}{recall:>21}{result.images_per_s:11.0f}"


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
