"""What a search found: for `summary.json`, and as the table that the command ends with."""

import logging
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from core.artifacts import TrialRecord
from core.errors import InputError
from search.choosing import Verdict

TABLE_ROWS = 5
# Shares of variance from fewer trials are noise; fANOVA itself needs two.
MIN_TRIALS_FOR_IMPORTANCE = 8

_log = logging.getLogger(__name__)


def rank(records: list[TrialRecord]) -> list[TrialRecord]:
    """Complete trials, best validation recall first; ties go to the earlier one."""
    complete = [record for record in records if record.state == "complete"]
    return sorted(complete, key=lambda record: (-record.recall, record.number))


def summarise(
    study: optuna.Study, records: list[TrialRecord], names: list[str], verdict: Verdict | None
) -> dict[str, Any]:
    """What `summary.json` says.

    Args:
        study: The study.
        records: Its finished trials.
        names: The parameters that it searches.
        verdict: What the ranking is worth; None without complete trials.
    """
    trials = study.get_trials(deepcopy=False)
    counts = {
        state.name.lower(): sum(trial.state == state for trial in trials)
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    best = [
        {
            "number": record.number,
            "recall": record.recall,
            "recall_interval": list(record.recall_interval),
            "params": {name: record.config[name] for name in names},
            "zeros": record.zeros,
        }
        for record in rank(records)[:TABLE_ROWS]
    ]
    return {
        "trials": {"complete": counts["complete"], "pruned": counts["pruned"], "failed": counts["fail"]},
        "best": best,
        "tied": [] if verdict is None else list(verdict.tied),
        "optimism": None if verdict is None else verdict.optimism_to_dict(),
        "importance": _importance(study, trials, names),
        "slices": {name: [[record.config[name], record.recall] for record in rank(records)] for name in names},
        "elapsed_s": sum(record.elapsed_s for record in records),
    }


def _importance(study: optuna.Study, trials: list[FrozenTrial], names: list[str]) -> dict[str, float]:
    """Share of the recall's variance that each parameter explains, largest first; empty where trials are too few."""
    values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE]
    if len(values) < MIN_TRIALS_FOR_IMPORTANCE or len(set(values)) == 1:
        return {}
    # With scikit-learn behind it, it takes two seconds to import, which a worker shouldn't spend.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    varying = [name for name in names if len({trial.params[name] for trial in trials if name in trial.params}) > 1]
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=varying)


def table(records: list[TrialRecord], names: list[str], verdict: Verdict | None) -> str:
    """The best trials with their intervals, and which of them are tied, as fixed-width text."""
    zeros = ["zeros"] if "l1" in names else []
    header = ["trial", "recall", "95 % interval", "", "argmax", "epoch", *names, *zeros]
    rows = [
        [
            str(record.number),
            f"{record.recall:.3f}",
            f"{record.recall_interval[0]:.3f} to {record.recall_interval[1]:.3f}",
            "" if verdict is None else verdict.mark(record.number),
            f"{record.recall_argmax:.3f}",
            str(record.best_epoch + 1),
            *(format_value(record.config[name]) for name in names),
            *(f"{record.zeros:.1%}" for _ in zeros),
        ]
        for record in rank(records)[:TABLE_ROWS]
    ]
    return in_columns([header, *rows])


def explain_gap(ranked: list[TrialRecord]) -> str:
    """By how much the best trial is better on what it learned from, in words; empty where that can't be told.

    Args:
        ranked: As `rank` has them.
    """
    if not ranked:
        return ""
    best = ranked[0]
    try:
        row = next((row for row in best.history() if row["epoch"] == best.best_epoch), None)
        if row is None:
            return ""
        train, val = row["train_recall"], row["val_recall"]
    except (InputError, KeyError) as error:
        # A search that has ended well shall not fail over it.
        _log.warning("the gap of trial %d can't be told: %s", best.number, error)
        return ""
    return (
        f"Overfitting gap of trial {best.number}, its macro recall in training less that on validation: "
        f"{train:.3f} - {val:.3f} = {train - val:+.3f}."
    )


def in_columns(lines: list[list[str]]) -> str:
    """Lines of equally many cells as fixed-width text."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def format_value(value: Any) -> str:
    """A parameter's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
