"""What searches left for the report to tell: their summaries and the members' epochs, checked when they are read."""

import math
from dataclasses import dataclass
from typing import Any

from core.artifacts import TrialRecord
from core.errors import InputError
from core.shapes import NUMBER, find_misfit
from ensemble.studies import Study

_SUMMARY = {
    "trials": {"complete": int, "pruned": int, "failed": int},
    "best": [{"number": int, "recall": NUMBER, "recall_interval": (NUMBER, NUMBER), "params": {str: object}}],
    "importance": {str: NUMBER},
    "slices": {str: [(object, NUMBER)]},
    "elapsed_s": NUMBER,
}
_LONGEST_S = 1e10  # three hundred years
# What the learning curves are drawn from.
_CURVES = ("epoch", *(f"{part}_{name}" for part in ("train", "val") for name in ("loss", "accuracy", "recall")))


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """What a search found: its `study.json` as `info`, its `summary.json` as `summary` (empty if it has none yet)."""

    study: str
    arch: str
    info: dict[str, Any]
    summary: dict[str, Any]


def read_finding(study: Study) -> Finding:
    """Reads what a search found.

    Raises:
        InputError: Its `summary.json` is damaged.
    """
    summary = study.folder.read_summary()
    if summary != {} and (misfit := find_misfit(summary, _SUMMARY) or _find_fault(summary)):
        raise InputError(
            f"{study.folder.root / 'summary.json'} must tell what a search found, but {misfit}. "
            "Continue its search, which writes it anew, or remove the file."
        )
    return Finding(study=study.folder.name, arch=study.arch, info=study.info, summary=summary)


def read_history(trial: TrialRecord) -> list[dict[str, float]]:
    """Reads a trial's epochs.

    Raises:
        InputError: Its `history.csv` is damaged.
    """
    history = trial.history()
    if missing := [name for name in _CURVES if not history or name not in history[0]]:
        raise _damaged(trial, f"it lacks {missing[0]}")
    if not all(math.isfinite(row[name]) for row in history for name in _CURVES):
        raise _damaged(trial, "it has a number that is not finite")
    return history


def _find_fault(summary: dict[str, Any]) -> str:
    """What is wrong with the values, in words; empty if nothing is."""
    recalls = [trial["recall"] for trial in summary["best"]]
    recalls += [recall for pairs in summary["slices"].values() for _, recall in pairs]
    if not all(0 <= recall <= 1 for recall in recalls):
        return "a recall is out of 0 to 1"
    if not 0 <= summary["elapsed_s"] < _LONGEST_S:
        return f"elapsed_s is {summary['elapsed_s']:g}"
    return ""


def _damaged(trial: TrialRecord, reason: str) -> InputError:
    path = trial.folder / "history.csv"
    return InputError(f"{path} must have a row of numbers for each epoch, but it is damaged: {reason}. Restore it.")
