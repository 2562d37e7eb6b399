"""The arguments of `ensemble.build`. Only light modules are imported here, so that `--help` answers at once."""

import argparse
import re
from pathlib import Path

from core import cli
from core.dataspec import add_places_argument
from core.errors import InputError, shorten


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = cli.Parser(
        prog="python -m ensemble.build",
        description="Blend the best trials of each architecture by soft voting, and report on the sealed test split.",
    )
    parser.add_argument("studies", help="folder that search.run wrote to, or its URL; the result goes to its ensemble/")
    parser.add_argument(
        "--vote",
        choices=("mean", "geometric", "weights", "greedy", "auto"),
        default="mean",
        help="mean of probabilities, or of their logarithms; fitted weights; greedy selection; auto tries all [mean]",
    )
    parser.add_argument(
        "--top-k",
        type=_top_k,
        metavar="K",
        help="trials an architecture that vote: a number; tied, those as good as its best, at most 5; auto, as many as "
        "pay [tied; auto for --vote weights, greedy and auto]",
    )
    parser.add_argument(
        "--tau", type=_tau, metavar="T", help="share of its prior taken out of each member; auto is fitted [auto]"
    )
    parser.add_argument(
        "--views",
        choices=("1", "4", "8", "auto"),
        default="1",
        help="turned and mirrored views of each image, as many forward passes; auto compares them on validation [1]",
    )
    parser.add_argument(
        "--fit-to",
        choices=("validation", "confirmed"),
        default="validation",
        help="what chooses and fits: validation, or what search.confirm found out of fold, with more lesions "
        "[validation]",
    )
    parser.add_argument(
        "--members",
        choices=("trials", "folds"),
        default="trials",
        help="folds: the networks that search.confirm --keep-models trained vote in place of each trial's [trials]",
    )
    parser.add_argument(
        "--min-sensitivity",
        type=_sensitivity,
        action="append",
        default=[],
        metavar="CLASS=SHARE",
        help="flag images so that this share of a class is found, as mel=0.9; repeat it for more classes",
    )
    parser.add_argument(
        "--mistakes",
        type=cli.natural_int,
        default=12,
        metavar="N",
        help="how many of the mistakes it is surest of the report shows, with pictures of the test images [12]",
    )
    parser.add_argument("--archs", type=_names, default=[], metavar="A,B", help="architectures that take part [all]")
    parser.add_argument(
        "--study", action="append", default=[], metavar="NAME", help="study that takes part; repeat it for more [all]"
    )
    add_places_argument(
        parser,
        help="where the images are, if they have moved; as often and in the order as for the search",
    )
    parser.add_argument("--no-test", action="store_true", help="leave the test split sealed; report on validation only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--source", choices=("auto", "resident", "ffcv", "torch"), help="how images are read [auto]")
    add_format_arguments(parser)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sensitivity(text: str) -> tuple[str, float]:
    """An argparse type: a class and the least share of it that must be flagged, such as mel=0.9."""
    name, _, value = text.rpartition("=")
    if not (name and re.fullmatch(r"0?\.[0-9]{1,6}", value) and float(value) > 0):
        raise argparse.ArgumentTypeError(
            f"must be CLASS=SHARE with a share above 0 and below 1, but got {shorten(text)}"
        )
    return name, float(value)


def _top_k(text: str) -> int | str:
    """An argparse type: tied, auto, or a whole number from 1."""
    return text if text in ("tied", "auto") else cli.positive_int(text)


def _tau(text: str) -> float | None:
    """An argparse type: auto, which is None, or a number from 0 to 3."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-3](\.[0-9]{1,6})?", text) or float(text) > 3:
        raise argparse.ArgumentTypeError(f"must be auto or a number from 0 to 3, but got {shorten(text)}")
    return float(text)


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds in which form predictions are written."""
    parser.add_argument(
        "--format", choices=("csv", "isic"), default="csv", help="isic: CSV of the ISIC 2018 challenge, task 3 [csv]"
    )
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="with --format isic: CSV whose column image names the rows to write, those of missing images too",
    )


def check_list(args: argparse.Namespace) -> None:
    """Refuses a list that nothing would read.

    Raises:
        InputError: There is one without the format that needs it.
    """
    if args.list and args.format != "isic":
        raise InputError("`--list` must be given with --format isic only. Add that or leave it out.")
