"""How far the ranking of trials can be believed: which are tied with the best, and what choosing it adds to its recall.

Legend: M trials, N examples, C classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.artifacts import TrialRecord
from core.comparing import RESAMPLES, Contest, Difference, Hits, Optimism
from core.errors import InputError, few
from core.metrics import correct_prior

Rows = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a ranking is worth.

    Attributes:
        numbers: Of the trials, the best first (M).
        behind: By how much the best is better than each (M).
        optimism: By how much its recall is too high for having been chosen by it; None if nothing was chosen.
    """

    numbers: tuple[int, ...]
    behind: tuple[Difference, ...]
    optimism: Optimism | None

    @classmethod
    def of(cls, numbers: Sequence[int], labels_N: Rows, hits_MN: Sequence[Hits], groups_N: Sequence[str]) -> "Verdict":
        """Compares trials, the best first, by what they were right about; see `core.comparing.Contest`."""
        contest = Contest(labels_N, np.asarray(hits_MN), groups_N)
        return cls(numbers=tuple(numbers), behind=tuple(contest.differences()), optimism=contest.optimism())

    @property
    def tied(self) -> tuple[int, ...]:
        """Trials that may be as good as the best, which is the first of them."""
        return tuple(n for n, behind in zip(self.numbers, self.behind, strict=True) if behind.is_tie)

    def mark(self, number: int) -> str:
        """What a table says of a trial: ``best``, ``tied`` or nothing."""
        if number == self.numbers[0]:
            return "best"
        return "tied" if number in self.tied else ""

    def explain_ties(self) -> str:
        """Who is tied, in words."""
        best, *others = map(str, self.tied)
        if len(self.numbers) == 1:
            return f"Trial {best} is the only one, so that there is nothing to compare it with."
        of_all = f"{len(others)} of {len(self.numbers) - 1} others"
        named = f": {few(others)}" if others else ""
        return f"Tied with trial {best}, as the 95 % interval of the paired difference includes 0, are {of_all}{named}."

    def explain_optimism(self) -> str:
        """What choosing adds, in words; empty if nothing was chosen."""
        if self.optimism is None:
            return ""
        value, (low, high) = self.optimism
        return (
            f"Having been chosen out of {len(self.numbers)} makes the recall of trial {self.numbers[0]} about "
            f"{value:.3f} ({low:+.3f} to {high:+.3f}) higher than it is on other lesions."
        )

    def optimism_to_dict(self) -> dict[str, Any] | None:
        """The optimism, as JSON can hold it."""
        if self.optimism is None:
            return None
        value, interval = self.optimism
        return {"value": value, "interval": list(interval), "trials": len(self.numbers), "resamples": RESAMPLES}


def judge_search(
    ranked: Sequence[TrialRecord], labels_N: Rows, groups_N: Sequence[str], classes: int
) -> Verdict | None:
    """Compares a study's complete trials on validation.

    Args:
        ranked: Complete trials, as `search.summary.rank` has them.
        labels_N: True classes of the validation rows.
        groups_N: Their lesions.
        classes: C.

    Returns:
        None without any trial. One whose probabilities are damaged or of other rows is left out, with a warning: it
        can't vote either, and a search that has ended well shall not fail over it.
    """
    hits: dict[int, Hits] = {}
    for record in ranked:
        try:
            hits[record.number] = predict(record, (len(labels_N), classes)) == labels_N
        except InputError as error:
            _log.warning("trial %d is compared with none: %s", record.number, error)
    return Verdict.of(list(hits), labels_N, list(hits.values()), groups_N) if hits else None


def predict(record: TrialRecord, expected: tuple[int, int]) -> Rows:
    """What a trial makes of the validation rows.

    Args:
        record: The trial.
        expected: N, C.

    Raises:
        InputError: Its probabilities are damaged, or of other rows.
    """
    probs_NC = record.val_probs()
    if probs_NC.shape != expected or len(record.prior) != expected[1]:
        raise InputError(
            f"{record.folder / 'val_probs.npy'} must be of shape {expected}, a row for each validation image, but is "
            f"of {probs_NC.shape} with a prior of {len(record.prior)} classes. Restore it."
        )
    return np.asarray(correct_prior(probs_NC, np.array(record.prior)).argmax(1), np.int64)
