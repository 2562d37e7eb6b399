"""Soft voting: the mean of what the members believe, or of its logarithms.

Shapes: M members, N examples, C classes.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from core.errors import InputError
from core.metrics import SMALLEST_PROBABILITY, Floats
from ensemble.decision import PLAIN, Rule, choose, correct_members, temper


def soft_vote(
    probs_MNC: Floats, weights_M: Floats | Sequence[float] | None = None, vote: str = "mean"
) -> npt.NDArray[np.float64]:
    """Averages the members' probabilities.

    Args:
        probs_MNC: Each member's probabilities (M, N, C).
        weights_M: Weight of each member (M,), 0 or more and not all 0; only their ratios matter. None: all are equal.
        vote: ``mean`` of the probabilities, or ``geometric``: of their logarithms, scaled to sum to 1 a row. There one
            member that is sure that it isn't a class can veto it.

    Returns:
        Probabilities (N, C).

    >>> soft_vote([[[0.9, 0.1]], [[0.5, 0.5]]], [3, 1])
    array([[0.8, 0.2]])
    """
    probs_MNC = np.asarray(probs_MNC, np.float64)
    if probs_MNC.ndim != 3 or not len(probs_MNC):
        raise InputError(
            f"`probs_MNC` must be (members, examples, classes), but got {probs_MNC.shape}. Stack the members."
        )
    weights_M = np.ones(len(probs_MNC)) if weights_M is None else np.asarray(weights_M, np.float64)
    _check_weights(weights_M, len(probs_MNC))
    shares_M = weights_M / weights_M.sum()
    if vote == "mean":
        voted_NC: npt.NDArray[np.float64] = np.tensordot(shares_M, probs_MNC, axes=1)
        return voted_NC
    if vote != "geometric":
        raise InputError(f"`vote` must be mean or geometric, but got vote={vote!r}. Choose one of them.")
    logs_NC = np.tensordot(shares_M, np.log(np.maximum(probs_MNC, SMALLEST_PROBABILITY)), axes=1)
    powers_NC = np.exp(logs_NC - logs_NC.max(axis=1, keepdims=True))
    voted_NC = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    return voted_NC


class SoftVotingEnsemble(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """A classifier that averages the probabilities of others, each corrected for the class frequencies it learned.

    It behaves as scikit-learn's `VotingClassifier` with soft voting does, and with `priors=None` gives the same
    probabilities. What `X` is, the members decide: `ensemble.inference.TrialClassifier` takes images.

    Args:
        estimators: Pairs of a name and a classifier with `predict_proba`.
        weights: Weight of each member (M,), see `soft_vote`.
        priors: Class frequencies that each member learned (M, C); None corrects nothing.
        rule: How the vote is taken and what comes before and after; its `views` are the members' own business.

    Attributes:
        estimators_: Fitted clones of the members.
        classes_: Class names (C,), the order of the probabilities' columns.
    """

    def __init__(
        self,
        estimators: Sequence[tuple[str, Any]],
        *,
        weights: Sequence[float] | None = None,
        priors: Sequence[Sequence[float]] | None = None,
        rule: Rule = PLAIN,
    ) -> None:
        self.estimators = estimators
        self.weights = weights
        self.priors = priors
        self.rule = rule

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Fits clones of the members, which for trained trials means loading their weights.

        Raises:
            InputError: There are no members, they know different classes, or weights or priors don't fit them.
        """
        if not self.estimators:
            raise InputError("`estimators` must have at least one member, but got estimators=[]. Add one.")
        if self.weights is not None:
            _check_weights(np.asarray(self.weights, np.float64), len(self.estimators))
        self.estimators_ = [clone(member).fit(X, y) for _, member in self.estimators]
        self.classes_ = np.asarray(self.estimators_[0].classes_)
        for (name, _), member in zip(self.estimators, self.estimators_, strict=True):
            if not np.array_equal(member.classes_, self.classes_):
                raise InputError(
                    f"All members must know the same classes, but {name} knows {list(member.classes_)} and "
                    f"{self.estimators[0][0]} {list(self.classes_)}. Build them on the same data."
                )
        expected = (len(self.estimators), len(self.classes_))
        if self.priors is not None and np.shape(self.priors) != expected:
            raise InputError(
                f"`priors` must be of shape {expected}, but got {np.shape(self.priors)}. Give one row a member."
            )
        return self

    def member_probas(self, X: Any) -> npt.NDArray[np.float64]:
        """What each member believes, uncorrected (M, N, C)."""
        check_is_fitted(self)
        return np.stack([np.asarray(member.predict_proba(X), np.float64) for member in self.estimators_])

    def blend(self, probs_MNC: Floats) -> npt.NDArray[np.float64]:
        """Corrects, averages and tempers what `member_probas` gave (N, C)."""
        rule, priors = self.rule, self.priors
        corrected_MNC = probs_MNC if priors is None else correct_members(probs_MNC, np.asarray(priors), rule.tau)
        return temper(soft_vote(corrected_MNC, self.weights, rule.vote), rule.temperature)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities (N, C) in the order of `classes_`, rows summing to 1."""
        return self.blend(self.member_probas(X))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The most probable class of each example (N,)."""
        check_is_fitted(self)
        predicted_N: npt.NDArray[Any] = self.classes_[choose(self.predict_proba(X))]
        return predicted_N


def _check_weights(weights_M: Floats, members: int) -> None:
    finite = weights_M.shape == (members,) and bool(np.isfinite(weights_M).all())
    if not (finite and (weights_M >= 0).all() and weights_M.sum() > 0):
        raise InputError(
            f"`weights` must be {members} numbers of 0 or more, not all 0, but got weights={weights_M.tolist()}. "
            "Give one a member."
        )
