"""Who votes, and with what weight: chosen from what the trials believed of rows whose truth is known.

Works on arrays of predictions and knows no models. Shapes: M candidates, N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from core.metrics import SMALLEST_PROBABILITY, Floats
from ensemble.crossfit import Hits, Mask, Truth
from ensemble.decision import correct_members

# By how much is chosen; the first is the simplest. What each is called is what `--vote` takes.
WAYS = ("mean", "geometric", "weights", "greedy")
_EM_STEPS = 100  # towards the likeliest weights from equal ones; they move slowly, which keeps few rows from deciding
_LEAST_WEIGHT = 1e-3  # less is no vote, but costs a forward pass
_GREEDY_ROUNDS = 25  # votes that are given out; Caruana's own curves are flat by then
_DIGITS = 12  # of a recall; what differs behind them are rounding errors of a sum

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Trials that may vote.

    Attributes:
        probs_MNC: What each believes, uncorrected; the best of an architecture first.
        priors_MC: The class frequencies that each learned.
        archs: The architecture of each.
        truth: The rows.
    """

    probs_MNC: Floats
    priors_MC: Floats
    archs: Sequence[str]
    truth: Truth

    @cached_property
    def corrected_MNC(self) -> npt.NDArray[np.float64]:
        """What each believes, by p / prior."""
        return correct_members(self.probs_MNC, self.priors_MC)

    @cached_property
    def logs_MNC(self) -> npt.NDArray[np.float64]:
        """Logarithms of `corrected_MNC`."""
        logs_MNC: npt.NDArray[np.float64] = np.log(np.maximum(self.corrected_MNC, SMALLEST_PROBABILITY))
        return logs_MNC

    @cached_property
    def true_MN(self) -> npt.NDArray[np.float64]:
        """What each believes of the true class, by p / prior."""
        labels_N = self.truth.labels_N
        return self.corrected_MNC[:, np.arange(len(labels_N)), labels_N]

    @cached_property
    def hits_MN(self) -> Hits:
        """Whether each is right by argmax p / prior."""
        hits_MN: Hits = self.corrected_MNC.argmax(axis=2) == self.truth.labels_N
        return hits_MN

    @cached_property
    def most(self) -> int:
        """Candidates of the architecture that has the most."""
        return max(self.archs.count(arch) for arch in self.archs)

    def weigh(self, way: str, top_k: int, rows_N: Mask) -> Weights:
        """Weight of each candidate (M,), summing to 1.

        Args:
            way: One of `WAYS`.
            top_k: The best so many of each architecture, or all there are, may vote. Greedy selection takes no notice.
            rows_N: What the choice is made by.
        """
        known = self.truth.take(rows_N)
        if way == "greedy":
            probs_CMN = np.moveaxis(self.corrected_MNC[:, rows_N].astype(np.float32), 2, 0)
            return select_greedily(np.ascontiguousarray(probs_CMN), known)
        weights_M, best = np.zeros(len(self.archs)), self._best(top_k, rows_N, known)
        weights_M[best] = 1 / len(best)
        if way == "weights":
            weights_M[best] = likeliest_weights(self.true_MN[best][:, rows_N], known.balance_N)
        return weights_M

    def _best(self, top_k: int, rows_N: Mask, known: Truth) -> list[int]:
        """The best of each architecture by macro recall of argmax p / prior; of equals the first."""
        recalls_M = known.recalls(self.hits_MN[:, rows_N]).round(_DIGITS)
        ranked = np.argsort(-recalls_M, kind="stable").tolist()
        taken = [[m for m in ranked if self.archs[m] == arch][:top_k] for arch in dict.fromkeys(self.archs)]
        return [m for best in taken for m in best]


def likeliest_weights(true_MN: Floats, balance_N: Floats) -> Weights:
    """Weights on the simplex (M,) under which the mean vote finds the true classes likely, all counting the same.

    Some steps of expectation maximisation from equal weights; the likelihood is concave in them.

    Args:
        true_MN: Each member's probability of the true class.
        balance_N: Weight of each row, summing to 1.

    Source: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm", JRSS B 39 (1977),
    section 4.3, with the mixture's components known.
    """
    true_MN = np.maximum(true_MN, SMALLEST_PROBABILITY)
    weights_M = np.full(len(true_MN), 1 / len(true_MN))
    for _ in range(_EM_STEPS):
        weights_M *= true_MN @ (balance_N / (weights_M @ true_MN))
    weights_M[weights_M < min(_LEAST_WEIGHT, 0.5 / len(weights_M))] = 0
    shares_M: Weights = weights_M / weights_M.sum()
    return shares_M


def select_greedily(probs_CMN: npt.NDArray[np.float32], truth: Truth) -> Weights:
    """Weights (M,) from giving one vote after the other to whoever raises the macro recall of the mean most.

    A candidate may get several; one that has a vote is preferred to an equal one that has none. What counts is the best
    of all rounds, and of equals the earliest. Its recall on these rows is inflated and must not be reported.

    Args:
        probs_CMN: What each candidate believes, corrected; classes first, since maxima over them are then fast.
        truth: The rows.

    Source: Caruana, Niculescu-Mizil, Crew, Ksikes, "Ensemble selection from libraries of models", ICML 2004, section 2.
    """
    labels_N, places = truth.labels_N, np.arange(len(truth.labels_N))
    balance_N = truth.balance_N.astype(np.float32)
    true_MN = np.ascontiguousarray(probs_CMN[labels_N, :, places].T)
    rivals_CMN = probs_CMN.copy()
    rivals_CMN[labels_N, :, places] = -np.inf  # what must be passed: a tie is no hit
    votes_M = np.zeros(probs_CMN.shape[1], np.int64)
    sum_CN = np.zeros((len(probs_CMN), len(places)), np.float32)
    best, best_recall = votes_M, -1.0
    top_MN, one_MN = np.empty_like(true_MN), np.empty_like(true_MN)
    for _ in range(_GREEDY_ROUNDS):
        np.add(rivals_CMN[0], sum_CN[0], out=top_MN)
        for rivals_MN, sum_N in zip(rivals_CMN[1:], sum_CN[1:], strict=True):
            np.maximum(top_MN, np.add(rivals_MN, sum_N, out=one_MN), out=top_MN)
        hits_MN = np.add(true_MN, sum_CN[labels_N, places], out=one_MN) > top_MN
        recalls_M = (hits_MN.astype(np.float32) @ balance_N).round(6)
        equal = np.flatnonzero(recalls_M == recalls_M.max()).tolist()
        chosen = min(equal, key=lambda m: votes_M[m] == 0)
        votes_M[chosen] += 1
        sum_CN += probs_CMN[:, chosen]
        if recalls_M[chosen] > best_recall:
            best, best_recall = votes_M.copy(), float(recalls_M[chosen])
    shares_M: Weights = best / best.sum()
    return shares_M
