"""The arguments that benchmarks share."""

import argparse

from core import cli
from core.dataspec import DataSpec, add_data_arguments, read_data_arguments
from core.errors import InputError
from core.framing import FRAMINGS


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names one backbone on some images, and where to compute."""
    add_data_arguments(parser, help="folder of labelled images, CSV or npz file; repeated, they are merged")
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--image-size", type=cli.positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--framing", choices=FRAMINGS, default="whole", help="as of search.run (default: whole)")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how many images of each part are taken, and how often each is shown."""
    parser.add_argument("--train-images", type=cli.positive_int, help="random training images (default: all)")
    parser.add_argument("--val-images", type=cli.positive_int, help="random validation images (default: all)")
    parser.add_argument("--epochs", type=cli.positive_int, default=10, help="default: 10")


def read_data(args: argparse.Namespace, kind: str = "labelled images") -> DataSpec:
    """Where the images are.

    Raises:
        InputError: `--data` was not given.
    """
    if not args.data:
        raise InputError(f"`--data` must be given, but got none. Name a folder of {kind}.")
    return read_data_arguments(args, args.data)
