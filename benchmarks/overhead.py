"""Seconds of a trial that are neither training nor validation: python -m benchmarks.overhead.

Runs a real search on the built-in images and compares the time between the starts of two trials with what the first
of them spent on training and validation: the rest is asking, setting up, checkpoints, writing, telling. A trial at a
depth that the search has not been at before is told apart: it has to cut the network. The ratio is that rest over the
whole, median of the trials. The bar is 2 % of the trial or 0.3 s, whichever is larger.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.reporting import add_out_argument, finish, show, spread
from core.cli import Parser, positive_int, run, write

BAR_S, BAR_SHARE = 0.3, 0.02


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--trials", type=positive_int, default=24, help="default: 24")
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
    rows: list[dict[str, Any]] = []
    # The last trial has no successor whose start would end it.
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        depth, trial_s = records[number].config["unfreeze_depth"], end - start
        overhead_s = trial_s - records[number].elapsed_s
        rows.append(
            {
                "trial": number,
                "depth": depth,
                "new_depth": depth not in [row["depth"] for row in rows],
                "trial_s": trial_s,
                "overhead_s": overhead_s,
                "of_allowed": overhead_s / max(BAR_S, BAR_SHARE * trial_s),
            }
        )
    for words, new in (("a new depth", True), ("a known depth", False)):
        if some := [row["overhead_s"] for row in rows if row["new_depth"] == new]:
            write(f"overhead of a trial at {words}: {show(spread(some))} s, {len(some)} trials")
    shares = spread([row["overhead_s"] / row["trial_s"] for row in rows])
    of_allowed = spread([row["of_allowed"] for row in rows])
    held = of_allowed["median"] <= 1
    write(f"overhead over what is allowed: {show(of_allowed)}, the bar is 1: {'held' if held else 'not held'}")
    finish(
        args.out, rows=rows, ratio=shares["median"], about="share of a trial that is neither training nor validation"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
