"""What ensembles of several seeds say of the one test split: python -m benchmarks.seeds STUDIES STUDIES ...

Each folder is of another `search.run --seed`, which draws train and validation and leaves the test split as it is, and
`ensemble.build` has opened the test in it. For each step of the ladder: the mean of the seeds' macro recalls, each of
them, and two intervals of the mean. The first is over lesions, for these very networks: the mean of both ends of the
seeds' own, which bounds it, since the standard error of a mean is at most the mean of the standard errors, whatever
hangs together. The second is Student's over the seeds, whose networks differ and whose test lesions are the same. The
ratio is the ensembles' mean recall over that of the best single trials. Nothing is trained or opened.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import add_out_argument, finish, student_interval
from core.cli import Parser, run, write
from core.errors import InputError

Row = dict[str, Any]

SINGLE, ENSEMBLE, GAIN, VALIDATION = "best single, p / prior", "ensemble", "gain over it", "ensemble, on validation"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", help="folders with an ensemble that has opened the test")
    add_out_argument(parser, "seeds")
    return parser


def main(args: argparse.Namespace) -> int:
    """Reads the reports, and shows their means."""
    refuse_twice(args.studies)
    metrics = [read_metrics(folder) for folder in args.studies]
    refuse_strangers(args.studies, metrics)
    for folder, each in zip(args.studies, metrics, strict=True):
        if (opening := each["test"]["opening"]) > 1:
            write(f"optimistic: {folder} had opened the test {opening} times when its ensemble was judged")
    rows = summarise(metrics)
    write(markdown(rows))
    recalls = {row["step"]: row["mean"] for row in rows}
    test = metrics[0]["test"]
    setting = {
        "seeds": len(metrics),
        "images": test["images"],
        "lesions": test["lesions"],
        "fingerprint": test["fingerprint"],
        "openings": [each["test"]["opening"] for each in metrics],
        "members": [[member["name"] for member in each["test"]["members"]] for each in metrics],
    }
    finish(
        args.out,
        rows=[{"table": "setting", **setting}, *rows],
        ratio=recalls[ENSEMBLE] / recalls[SINGLE],
        about=f"macro recall of the ensemble over that of the best single trial, test split, mean of {len(metrics)}",
    )
    return 0


def refuse_twice(folders: Sequence[Path]) -> None:
    """Checks that no folder counts twice in a mean.

    Raises:
        InputError: One does.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("`studies` must be folders of different seeds, but got one of them twice. Name each once.")


def read_metrics(folder: Path) -> dict[str, Any]:
    """What `ensemble.build` wrote of a folder.

    Raises:
        InputError: There is no ensemble, or the test split is sealed.
    """
    from core.files import read_json

    file = folder / "ensemble" / "metrics.json"
    if not file.is_file():
        raise InputError(
            f"`studies` must hold an ensemble, but there is no {file}. Run python -m ensemble.build on it."
        )
    content: dict[str, Any] = read_json(file)
    if content["test"] is None:
        raise InputError(
            f"`studies` must have opened the test split, but the ensemble of {folder} was built with --no-test. Build "
            "it without."
        )
    return content


def refuse_strangers(folders: Sequence[Path], metrics: Sequence[Mapping[str, Any]]) -> None:
    """Checks that all were judged by the same images.

    Raises:
        InputError: They were not.
    """
    prints = [each["test"]["fingerprint"] for each in metrics]
    for folder, fingerprint in zip(folders, prints, strict=True):
        if fingerprint != prints[0]:
            raise InputError(
                f"`studies` must share one test split, but {folders[0]} has {prints[0][:12]} and {folder} has "
                f"{fingerprint[:12]}. Give folders of the same images."
            )


def summarise(metrics: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows for the steps that all have, in the ladder's order; then for the ensemble and what it gains."""
    ladders = [{plain_name(rung["step"]): rung for rung in each["test"]["ladder"]} for each in metrics]
    rows = []
    for step in ladders[0]:
        if all(step in ladder for ladder in ladders):
            rows.append(_scored(step, [ladder[step] for ladder in ladders]))
    tests = [each["test"] for each in metrics]
    singles = [best_single(test) for test in tests]
    rows.append(_scored(SINGLE, singles))
    rows.append(_scored(ENSEMBLE, [test["ensemble"] for test in tests]))
    gains = [test["gain_over_best_single"] for test in tests]
    rows.append(_row(GAIN, gains, [test["gain_over_best_single_interval"] for test in tests]))
    rows.append(_scored(VALIDATION, [each["validation"]["ensemble"] for each in metrics]))
    return rows


def best_single(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of the member that was best before the test, which the ladder names last of the single ones."""
    from ensemble.ladder import BEST_SINGLE

    steps = [rung["step"] for rung in test["ladder"]]
    *_, name = (step.removeprefix(BEST_SINGLE) for step in steps if step.startswith(BEST_SINGLE))
    (member,) = (each for each in test["members"] if each["name"] == name)
    found: Mapping[str, Any] = member
    return found


def plain_name(step: str) -> str:
    """A step's name without what differs between seeds: `mobilenet #4` is mobilenet, `(tau 1)` goes."""
    return re.sub(r" #[0-9]+$| \([^)]*\)$", "", step)


def _scored(step: str, scores: Sequence[Mapping[str, Any]]) -> Row:
    """The line of one classifier in each seed."""
    recalls, intervals = ([each[name] for each in scores] for name in ("macro_recall", "macro_recall_interval"))
    return _row(step, recalls, intervals) | {"accuracy": statistics.mean(each["accuracy"] for each in scores)}


def _row(step: str, values: Sequence[float], intervals: Sequence[Sequence[float]]) -> Row:
    """One line of the table; without axes, fractions."""
    return {
        "step": step,
        "mean": statistics.mean(values),
        "interval": [statistics.mean(ends) for ends in zip(*intervals, strict=True)],
        "interval_over_seeds": list(student_interval(values)),
        "values": list(values),
        "intervals": [list(each) for each in intervals],
    }


def markdown(rows: Sequence[Row]) -> str:
    """The table for people: percent, gains in points."""
    lines = [
        "| step | mean | 95 % interval over lesions | over seeds | each seed | accuracy |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for row in rows:
        sign = "+" if row["step"] == GAIN else ""
        lesions, seeds = (_between(row[name], sign) for name in ("interval", "interval_over_seeds"))
        each = ", ".join(
            f"{100 * value:{sign}.1f} ({_between(ends, sign)})"
            for value, ends in zip(row["values"], row["intervals"], strict=True)
        )
        accuracy = f"{100 * row['accuracy']:.1f}" if "accuracy" in row else ""
        mean = f"{100 * row['mean']:{sign}.1f}"
        lines.append(f"| {row['step']} | {mean} | {lesions} | {seeds} | {each} | {accuracy} |")
    return "\n".join(lines)


def _between(ends: Sequence[float | None], sign: str) -> str:
    low, high = ends
    return "" if low is None or high is None else f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
