"""What confirming has found: for `confirmed/summary.json`, and as the table that the command ends with.

Legend: N training and validation rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.cli import write
from core.comparing import Difference
from core.config import TrainConfig
from core.confirmed import ConfirmedTrial
from core.errors import counted
from core.metrics import Floats
from search.choosing import Verdict
from search.confirm_plan import Plan
from search.summary import in_columns

_HEADER = ["trial", "search", "confirmed", "95 % interval", "", "behind", "95 % interval", "argmax", "epochs", "seeds"]


class Outcome:
    """All trials of a study that are confirmed by now, those of earlier commands too.

    Args:
        plan: Tells of the study.
        failed: Why trials could not be confirmed, by number.

    Raises:
        InputError: What lies in the folder is damaged.

    Attributes:
        trials: The best first; equals as the search ranked them.
        verdict: What that ranking is worth; None without trials.
    """

    def __init__(self, plan: Plan, failed: Mapping[int, str]) -> None:
        self.plan, self.failed = plan, failed
        self._records = {record.number: record for record in plan.ranked}
        places = {record.number: place for place, record in enumerate(plan.ranked)}
        trials = [trial for trial in plan.folder.read_trials() if self._is_of(trial)]
        self.trials = sorted(trials, key=lambda trial: (-trial.recall, places[trial.number]))
        self.verdict: Verdict | None = None
        if self.trials:
            numbers = [trial.number for trial in self.trials]
            self.verdict = Verdict.of(numbers, plan.labels_N, list(map(self._hits, self.trials)), plan.groups_N)

    def _is_of(self, trial: ConfirmedTrial) -> bool:
        """Whether a trial is one of the study as it is now, and not one that had its number before."""
        record = self._records.get(trial.number)
        if record is None or (trial.folds, trial.epochs) != (self.plan.wanted.folds, record.best_epoch + 1):
            return False
        return TrainConfig.from_dict(trial.config) == TrainConfig.from_dict(record.config)

    def _hits(self, trial: ConfirmedTrial) -> Floats:
        """The share of a trial's seeds that are right about each row."""
        right_SN = trial.corrected(self.plan.fold_of_N).argmax(2) == self.plan.labels_N
        return np.asarray(right_SN.mean(axis=0))

    @property
    def measured(self) -> dict[str, Any] | None:
        """What the search said of its best trial, and what confirming says of it; None if it isn't confirmed."""
        best = self.plan.ranked[0]
        confirmed = next((trial.recall for trial in self.trials if trial.number == best.number), None)
        if confirmed is None:
            return None
        return {"trial": best.number, "search": best.recall, "confirmed": confirmed, "value": best.recall - confirmed}

    def write(self) -> None:
        """Writes `summary.json`."""
        plan = self.plan
        self.plan.folder.write_summary(
            {
                "folds": plan.wanted.folds,
                "images": len(plan.rows_N),
                "lesions": len(set(plan.groups_N)),
                "trials": [self._describe(trial, behind) for trial, behind in self._compared()],
                "failed": [{"number": number, "reason": reason} for number, reason in self.failed.items()],
                "optimism": {"measured": self.measured, "estimated": plan.verdict.optimism_to_dict()},
            }
        )

    def _compared(self) -> list[tuple[ConfirmedTrial, Difference]]:
        """The trials, and by how much the best is better than each."""
        return [] if self.verdict is None else list(zip(self.trials, self.verdict.behind, strict=True))

    def _describe(self, trial: ConfirmedTrial, behind: Difference) -> dict[str, Any]:
        record = self._records[trial.number]
        return {
            "number": trial.number,
            "search_recall": record.recall,
            "search_interval": list(record.recall_interval),
            "recall": trial.recall,
            "recall_interval": list(trial.recall_interval),
            "recall_argmax": trial.recall_argmax,
            "behind": {"value": behind.value, "interval": list(behind.interval)},
            "tied": behind.is_tie,
            "epochs": trial.epochs,
            "seeds": trial.seeds,
        }

    def show(self) -> None:
        """The table, and what it means."""
        plan = self.plan
        for number, reason in self.failed.items():
            write(f"\nTrial {number} of {plan.study.folder.name} can't be confirmed: {reason}.")
        if self.verdict is None:
            return
        images, lesions = counted(len(plan.rows_N), "image"), counted(len(set(plan.groups_N)), "lesion")
        write(f"\nConfirmed trials of {plan.study.folder.name}, by macro recall out of fold on {images} of {lesions}:")
        rows = [self._row(trial, behind, self.verdict.mark(trial.number)) for trial, behind in self._compared()]
        write(in_columns([_HEADER, *rows]))
        write(self.verdict.explain_ties())
        if measured := self.measured:
            write(
                f"Trial {measured['trial']}, the best of the search, had {measured['search']:.3f} on validation, "
                f"{abs(measured['value']):.3f} {'more' if measured['value'] >= 0 else 'less'} than confirmed."
            )
        if estimated := plan.verdict.explain_optimism():
            write(f"Estimated without training again: {estimated[0].lower()}{estimated[1:]}")

    def _row(self, trial: ConfirmedTrial, behind: Difference, mark: str) -> list[str]:
        record, (low, high) = self._records[trial.number], behind.interval
        return [
            str(trial.number),
            f"{record.recall:.3f}",
            f"{trial.recall:.3f}",
            f"{trial.recall_interval[0]:.3f} to {trial.recall_interval[1]:.3f}",
            mark,
            "" if mark == "best" else f"{behind.value:.3f}",
            "" if mark == "best" else f"{low:+.3f} to {high:+.3f}",
            f"{trial.recall_argmax:.3f}",
            str(trial.epochs),
            str(trial.seeds),
        ]
