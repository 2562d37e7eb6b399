"""Which way of voting, and how many of each architecture: chosen by what each gives out of fold, the simplest first.

Shapes: M candidates, N examples, K ways, C classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Floats
from ensemble.crossfit import Hits, Mask, Truth, simplest
from ensemble.fitting import Fit, Voters, fit_rule
from ensemble.members import Member, Selection
from ensemble.parts import Part
from ensemble.weighting import WAYS, Candidates

_TOP_KS = (1, 2, 3, 5, 8, 13, 21)  # of an architecture; weaker ones add nothing to a vote


class Way(NamedTuple):
    """One way of voting, see `ensemble.weighting`."""

    name: str
    top_k: int

    @property
    def vote(self) -> str:
        """How probabilities are averaged, see `ensemble.voting.soft_vote`."""
        return "geometric" if self.name == "geometric" else "mean"


class Chooser:
    """Chooses among ways of voting, by all rows or by some.

    Args:
        candidates: Who may vote.
        ways: What to choose from, the simplest first.
    """

    def __init__(self, candidates: Candidates, ways: Sequence[Way]) -> None:
        self.candidates, self.ways = candidates, ways
        self._hits_KN = self._cross_fit() if len(ways) > 1 else None

    def choose(self, rows_N: Mask) -> Way:
        """The simplest way whose recall out of fold is within a standard error of the best, looking at some rows only.

        Which rows the ways themselves were fitted to is not asked: out of fold they have not seen those that they are
        judged by.
        """
        if self._hits_KN is None:
            return self.ways[0]
        known = self.candidates.truth.take(rows_N)
        return self.ways[simplest(self._hits_KN[:, rows_N], known, range(len(self.ways)))]

    def weigh(self, rows_N: Mask) -> Voters:
        """Who votes how, by some rows."""
        way = self.choose(rows_N)
        return Voters(self.candidates.weigh(way.name, way.top_k, rows_N), way.vote)

    def compared(self) -> list[dict[str, Any]]:
        """What each way gives out of fold, by p / prior; empty if there was nothing to choose."""
        if self._hits_KN is None:
            return []
        truth = self.candidates.truth
        chosen = self.choose(np.ones(len(truth.labels_N), bool))
        return [
            {
                "vote": way.name,
                "top_k": None if way.name == "greedy" else way.top_k,
                "macro_recall": recall,
                "macro_recall_interval": list(truth.interval(hits_N)),
                "chosen": way == chosen,
            }
            for way, recall, hits_N in zip(self.ways, truth.recalls(self._hits_KN).tolist(), self._hits_KN, strict=True)
        ]

    def _cross_fit(self) -> Hits:
        """Whether each way is right about each row, with weights chosen without the row's fold (K, N)."""
        candidates, truth = self.candidates, self.candidates.truth
        hits_KN = np.empty((len(self.ways), len(truth.labels_N)), bool)
        for fit_N, held_N in truth.held_out():
            for vote, values_MNC in (("mean", candidates.corrected_MNC), ("geometric", candidates.logs_MNC)):
                places = [k for k, way in enumerate(self.ways) if way.vote == vote]
                if not places:
                    continue
                ways = [self.ways[k] for k in places]
                weights_KM = np.stack([candidates.weigh(way.name, way.top_k, fit_N) for way in ways])
                voted_KNC = np.tensordot(weights_KM, values_MNC[:, held_N], axes=1)
                hits_KN[np.ix_(np.asarray(places), np.flatnonzero(held_N))] = (
                    voted_KNC.argmax(axis=2) == truth.labels_N[held_N]
                )
        return hits_KN


def ways_to_vote(vote: str, top_k: int | None, most: int) -> list[Way]:
    """What there is to choose from, the simplest first.

    Args:
        vote: One of `ensemble.weighting.WAYS`, or ``auto`` for all of them.
        top_k: Trials of each architecture; None tries several numbers.
        most: Candidates of the architecture that has the most.
    """
    top_ks = [top_k] if top_k else sorted({min(k, most) for k in _TOP_KS})
    names = WAYS if vote == "auto" else (vote,)
    return [Way(name, k) for name in names for k in ([most] if name == "greedy" else top_ks)]


def fit_members(
    members: Sequence[Member],
    part: Part,
    probs_MNC: Floats,
    *,
    vote: str = "mean",
    top_k: int | None = None,
    tau: float | None = None,
) -> tuple[Fit, Chooser]:
    """Chooses among trials and fits their vote to validation.

    Args:
        members: The trials; the best of an architecture first.
        part: The validation rows.
        probs_MNC: What each believes of them, uncorrected.
        vote: See `ways_to_vote`.
        top_k: See there.
        tau: How much of the prior to take out; None fits it.

    Returns:
        The fit, with a weight for each of the trials, and who chose.
    """
    priors_MC = np.asarray([member.prior for member in members])
    truth = Truth.of(part.labels, part.groups, priors_MC.shape[1])
    archs = [member.study.timm_name for member in members]
    candidates = Candidates(probs_MNC=probs_MNC, priors_MC=priors_MC, archs=archs, truth=truth)
    return fit_candidates(candidates, vote=vote, top_k=top_k, tau=tau)


def fit_candidates(
    candidates: Candidates, *, vote: str = "mean", top_k: int | None = None, tau: float | None = None
) -> tuple[Fit, Chooser]:
    """As `fit_members`, from arrays."""
    chooser = Chooser(candidates, ways_to_vote(vote, top_k, candidates.most))
    fit = fit_rule(candidates.probs_MNC, candidates.priors_MC, candidates.truth, chooser.weigh, tau=tau)
    return fit, chooser


def keep_voters(selection: Selection, fit: Fit, vote: str) -> tuple[Selection, npt.NDArray[np.int64]]:
    """The trials that were given a weight, and which of all they are.

    Args:
        selection: All that might have voted.
        fit: The fit, with a weight for each.
        vote: What chose.
    """
    voting = np.flatnonzero(fit.weights_M)
    idle = [member.name for member, weight in zip(selection.members, fit.weights_M, strict=True) if not weight]
    left_out = [(name, f"given no vote by --vote {vote}") for name in idle]
    members = [selection.members[m] for m in voting]
    return dataclasses.replace(selection, members=members, left_out=selection.left_out + left_out), voting
