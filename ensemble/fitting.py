"""What is fitted to validation: how much of the prior to take out, and the temperature; what each gives out of fold.

Shapes: M members, N examples, T values of tau, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Floats
from ensemble.crossfit import Mask, Truth, simplest
from ensemble.decision import Rule, choose, temper
from ensemble.figures import Figures
from ensemble.tuning import TAUS, fit_temperature, votes_at

Probs = npt.NDArray[np.float64]


class Voters(NamedTuple):
    """Who votes, and how."""

    weights_M: npt.NDArray[np.float64]  # of each member, summing to 1
    vote: str  # see `ensemble.voting.soft_vote`


Weigh = Callable[[Mask], Voters]  # chooses by some of the rows


@dataclass(frozen=True, kw_only=True)
class Step(Figures):
    """What one thing that was fitted gives on rows that it wasn't fitted to; `value` says what was fitted."""

    value: str

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"value": self.value}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A fitted vote.

    Attributes:
        weights_M: Weight of each member, summing to 1; fitted to all rows, as is the rule.
        rule: The decision rule.
        raw_NC: Out of fold: the vote of uncorrected members.
        corrected_NC: Out of fold: the vote of corrected members.
        probs_NC: Out of fold: the same, tempered.
        steps: What each step gives out of fold.
        truth: The rows.
    """

    weights_M: npt.NDArray[np.float64]
    rule: Rule
    raw_NC: Probs
    corrected_NC: Probs
    probs_NC: Probs
    steps: tuple[Step, ...]
    truth: Truth

    def to_dict(self) -> dict[str, Any]:
        """What `ensemble.json` says of the fit."""
        return {
            "images": len(self.truth.labels_N),
            "lesions": len(np.unique(self.truth.groups_N)),
            "folds": len(self.truth.folds),
            "decisions_changed_by_temperature": int((choose(self.corrected_NC) != choose(self.probs_NC)).sum()),
            "out_of_fold": [step.to_dict() for step in self.steps],
        }


def fit_rule(
    probs_MNC: Floats,
    priors_MC: Floats,
    truth: Truth,
    weigh: Weigh,
    *,
    tau: float | None = None,
    views: int = 1,
) -> Fit:
    """Fits weights, tau and temperature to all rows, and once more without each fold, to tell what they give there.

    Args:
        probs_MNC: What each member believes, uncorrected.
        priors_MC: The class frequencies that each learned.
        truth: The rows.
        weigh: Chooses who votes.
        tau: How much of the prior to take out; None fits it.
        views: How many views the probabilities are of, for the record.
    """
    taus = TAUS if tau is None else tuple(sorted({0.0, 1.0, tau}))
    problem = _Problem(probs_MNC, priors_MC, truth, weigh, taus, TAUS if tau is None else (tau,))
    fitted = problem.fit_to(np.ones(len(truth.labels_N), bool))
    raw_NC, plain_NC, corrected_NC, probs_NC = (np.empty(probs_MNC.shape[1:]) for _ in range(4))
    folds = []
    for fit_N, held_N in truth.held_out():
        folds.append(fold := problem.fit_to(fit_N))
        for told_NC, value in ((raw_NC, 0.0), (plain_NC, 1.0), (corrected_NC, fold.tau)):
            told_NC[held_N] = fold.votes_TNC[taus.index(value)][held_N]
        probs_NC[held_N] = temper(corrected_NC[held_N], fold.temperature)
    weights_M, vote = fitted.voters
    rule = Rule(tau=fitted.tau, vote=vote, views=views, temperature=fitted.temperature)
    steps = (
        measure("vote, uncorrected", f"{vote} of {np.count_nonzero(weights_M)}", raw_NC, truth),
        measure("prior taken out whole", "tau 1", plain_NC, truth),
        measure("tau", _told(rule.tau, [fold.tau for fold in folds], "g", fixed=tau is not None), corrected_NC, truth),
        measure("temperature", _told(rule.temperature, [fold.temperature for fold in folds], ".2f"), probs_NC, truth),
    )
    return Fit(
        weights_M=weights_M,
        rule=rule,
        raw_NC=raw_NC,
        corrected_NC=corrected_NC,
        probs_NC=probs_NC,
        steps=steps,
        truth=truth,
    )


class _Fold(NamedTuple):
    voters: Voters
    votes_TNC: Probs  # of all rows
    tau: float
    temperature: float


class _Problem(NamedTuple):
    probs_MNC: Floats
    priors_MC: Floats
    truth: Truth
    weigh: Weigh
    taus: tuple[float, ...]
    choices: tuple[float, ...]  # those of `taus` that may be taken

    def fit_to(self, rows_N: Mask) -> _Fold:
        """Fits to some rows only."""
        voters, known = self.weigh(rows_N), self.truth.take(rows_N)
        votes_TNC = votes_at(self.probs_MNC, self.priors_MC, voters.weights_M, voters.vote, self.taus)
        places = [self.taus.index(tau) for tau in self.choices]
        hits_TN = votes_TNC[places][:, rows_N].argmax(axis=2) == known.labels_N
        place = places[simplest(hits_TN, known, [round(abs(tau - 1), 6) for tau in self.choices])]
        temperature = fit_temperature(votes_TNC[place][rows_N], known.labels_N)
        return _Fold(voters, votes_TNC, self.taus[place], temperature)


def _told(value: float, of_folds: Sequence[float], form: str, *, fixed: bool = False) -> str:
    if fixed:
        return f"{value:{form}}, as asked for"
    return f"{value:{form}} ({min(of_folds):{form}} to {max(of_folds):{form}} in {len(of_folds)} folds)"


def measure(name: str, value: str, probs_NC: Probs, truth: Truth) -> Step:
    """What a step gives, from probabilities out of fold."""
    interval = truth.interval(choose(probs_NC) == truth.labels_N)
    return Step.of(name, probs_NC, truth.labels_N, interval=interval, value=value)
