"""Seconds of a trial that are neither training nor validation: python -m benchmarks.overhead.

Runs a real search on the built-in images and compares the time between the starts of two trials with what the first
of them spent on training and validation: the rest is asking, checkpoints, pictures, writing, telling. The ratio is that
rest over the whole, median of the trials. The bar is 2 % of a trial or 0.3 s, whichever is larger.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from benchmarks.reporting import add_out_argument, finish, show, spread
from core.cli import Parser, positive_int, run, write

BAR_S, BAR_SHARE = 0.3, 0.02


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--trials", type=positive_int, default=12, help="default: 12")
    parser.add_argument("--epochs", type=positive_int, default=5, help="default: 5")
    parser.add_argument("--image-size", type=positive_int, default=96, help="default: 96")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    add_out_argument(parser, "overhead")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the search and takes the times from Optuna's journal and the trials' folders."""
    import optuna

    from core.artifacts import StudiesFolder
    from search.run import build_parser as search_parser
    from search.run import main as search
    from search.storage import open_storage

    with tempfile.TemporaryDirectory() as folder:
        command = ["--arch", args.arch, "--trials", str(args.trials), "--epochs", str(args.epochs)]
        command += ["--image-size", str(args.image_size), "--weights", args.weights, "--device", args.device]
        search(search_parser().parse_args([*command, "--studies", folder, "--study", "overhead", "--pruner", "none"]))
        studies = StudiesFolder(Path(folder))
        study = optuna.load_study(storage=open_storage(studies), study_name="overhead")
        records = {record.number: record for record in studies.study("overhead").read_trials()}
        starts = [trial.datetime_start.timestamp() for trial in study.trials if trial.datetime_start]
    rows = []
    # The last trial has no successor whose start would end it.
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        trial_s, computing_s = end - start, records[number].elapsed_s
        rows.append({"trial": number, "trial_s": trial_s, "overhead_s": trial_s - computing_s})
    overhead = spread([row["overhead_s"] for row in rows])
    shares = spread([row["overhead_s"] / row["trial_s"] for row in rows])
    allowed = max(BAR_S, BAR_SHARE * spread([row["trial_s"] for row in rows])["median"])
    write(f"overhead of a trial: {show(overhead)} s; the bar is {allowed:.2f} s")
    finish(
        args.out, rows=rows, ratio=shares["median"], about="share of a trial that is neither training nor validation"
    )
    return 0 if overhead["median"] <= allowed else 1


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
