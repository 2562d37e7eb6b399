"""Trains the best trials again over folds of train and validation: python -m search.confirm studies/ --folds 5 --top 5.

Says what their recall is on lesions that neither they nor the search have seen, and which of them are tied.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from core.cli import Parser, positive_int, run, stopping_cleanly, write
from core.dataspec import add_places_argument
from search.resources import add_resource_arguments, read_resource_arguments

FOLDS = TOP = 5
EXIT_FAILED = 1


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m search.confirm", description=__doc__)
    parser.add_argument("studies", help="folder that search.run wrote to")
    parser.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="NAME",
        help="study whose trials are confirmed; may be repeated (default: all)",
    )
    parser.add_argument(
        "--folds", type=positive_int, default=FOLDS, help=f"parts, each of which is held out once (default: {FOLDS})"
    )
    parser.add_argument(
        "--top",
        type=positive_int,
        default=TOP,
        metavar="K",
        help=f"best complete trials of each study that are confirmed, all if there are fewer (default: {TOP})",
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=1,
        help="runs of each fold, with other first weights, dropout and order; those there count (default: 1)",
    )
    parser.add_argument("--keep-models", action="store_true", help="keep the weights of all runs")
    add_places_argument(
        parser,
        help="where the images are now, as often as the search was given it (default: where they were)",
    )
    add_resource_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Checks all studies before the first is begun."""
    refuse_words(args)
    resources = read_resource_arguments(args)

    from functools import cache

    from core.artifacts import StudiesFolder
    from core.datasets import load_manifest
    from search.confirm_plan import Plan, Wanted
    from search.confirming import Confirmation
    from search.objective import StoppedError
    from search.reopening import choose_studies, reopen

    wanted = Wanted(folds=args.folds, top=args.top, seeds=args.seeds, keep_models=args.keep_models)
    studies, load = StudiesFolder(Path(args.studies)), cache(load_manifest)
    folders = choose_studies(studies, args.study)
    confirmations = [Confirmation(Plan(reopen(folder, studies, args.data, load), wanted)) for folder in folders]
    with ExitStack() as stack:
        for confirmation in confirmations:
            stack.enter_context(confirmation.folder.alone())
        for confirmation in confirmations:
            confirmation.show_plan(resources)
        stack.enter_context(stopping_cleanly())
        try:
            for confirmation in confirmations:
                confirmation.run(resources)
                confirmation.outcome().show()
        except StoppedError as stop:
            write(f"\nIt stopped because {stop}. The same command continues it.")
            return 0
    return EXIT_FAILED if any(confirmation.failed for confirmation in confirmations) else 0


def refuse_words(args: argparse.Namespace) -> None:
    """Checks what needs no data, so that a wrong word is refused at once.

    Raises:
        InputError: A word is wrong.
    """
    from core.errors import InputError

    if "://" in args.studies:
        raise InputError(
            f"`studies` must be a folder, whose lock keeps two commands from doing the same, but got {args.studies}. "
            "Copy it into a folder, and give that."
        )
    if args.folds < 2:
        raise InputError(
            f"`--folds` must be at least 2, one to hold out and one to learn from, but got --folds {args.folds}. "
            f"{FOLDS} is usual."
        )


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
