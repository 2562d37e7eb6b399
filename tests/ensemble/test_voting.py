import doctest
from typing import Any

import hypothesis.extra.numpy as st_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

import ensemble.voting
from core.errors import InputError
from ensemble.decision import PLAIN, Rule
from ensemble.voting import SoftVotingEnsemble, soft_vote

# Three members, two examples, two classes.
PROBS_MNC = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.2, 0.8]], [[0.3, 0.7], [0.9, 0.1]]])


@st.composite
def members_probs(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5)))
    raw_MNC = draw(st_numpy.arrays(np.float64, shape, elements=st.floats(0.01, 1)))
    return raw_MNC / raw_MNC.sum(axis=2, keepdims=True)


class Constant:
    """A member that believes the same of everything; no scikit-learn estimator, so that `clone` needs what it has."""

    def __init__(self, probs: list[float], classes: list[str]) -> None:
        self.probs, self.classes = probs, classes

    def get_params(self, deep: bool = False) -> dict[str, Any]:
        return {"probs": self.probs, "classes": self.classes}

    def fit(self, X: Any = None, y: Any = None) -> "Constant":
        self.classes_ = np.array(self.classes)
        return self

    def predict_proba(self, X: list[Any]) -> np.ndarray:
        return np.tile(self.probs, (len(X), 1))


def test_soft_vote_of_equal_weights_equals_hand_computed_mean() -> None:
    np.testing.assert_allclose(soft_vote(PROBS_MNC), [[0.6, 0.4], [0.5, 0.5]])


def test_soft_vote_of_weights_equals_hand_computed_mean() -> None:
    # (2 * 0.9 + 1 * 0.6 + 1 * 0.3) / 4 = 0.675; (2 * 0.4 + 1 * 0.2 + 1 * 0.9) / 4 = 0.475
    np.testing.assert_allclose(soft_vote(PROBS_MNC, [2, 1, 1]), [[0.675, 0.325], [0.475, 0.525]])


def test_geometric_vote_equals_the_hand_computed_root_of_products() -> None:
    mel, nv = (0.9 * 0.6 * 0.3) ** (1 / 3), (0.1 * 0.4 * 0.7) ** (1 / 3)
    voted_NC = soft_vote(PROBS_MNC, vote="geometric")
    np.testing.assert_allclose(voted_NC[0], [mel / (mel + nv), nv / (mel + nv)])
    np.testing.assert_allclose(voted_NC.sum(axis=1), 1)


def test_unknown_vote_is_refused() -> None:
    with pytest.raises(InputError, match="`vote` must be mean or geometric, but got vote='median'"):
        soft_vote(PROBS_MNC, vote="median")


def test_soft_vote_passes_its_doctest() -> None:
    assert doctest.testmod(ensemble.voting).failed == 0


@given(members_probs(), st.data())
def test_soft_vote_rows_sum_to_one(probs_MNC: np.ndarray, data: st.DataObject) -> None:
    count = len(probs_MNC)
    weights_M = data.draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count))
    np.testing.assert_allclose(soft_vote(probs_MNC, weights_M).sum(axis=1), 1)


@given(members_probs(), st.data())
def test_soft_vote_ignores_member_order(probs_MNC: np.ndarray, data: st.DataObject) -> None:
    weights_M = np.arange(1, len(probs_MNC) + 1)
    order = data.draw(st.permutations(range(len(probs_MNC))))
    np.testing.assert_allclose(soft_vote(probs_MNC[order], weights_M[order]), soft_vote(probs_MNC, weights_M))


@given(members_probs(), st.floats(0.01, 100))
def test_soft_vote_with_equal_weights_is_the_mean(probs_MNC: np.ndarray, weight: float) -> None:
    np.testing.assert_allclose(soft_vote(probs_MNC, [weight] * len(probs_MNC)), probs_MNC.mean(axis=0))


@given(members_probs())
def test_soft_vote_of_one_member_is_that_member(probs_MNC: np.ndarray) -> None:
    np.testing.assert_allclose(soft_vote(probs_MNC[:1]), probs_MNC[0])


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1]])
def test_soft_vote_refuses_weights_that_are_no_weights(weights: list[float]) -> None:
    with pytest.raises(InputError, match="`weights` must be 3 numbers of 0 or more, not all 0"):
        soft_vote(PROBS_MNC, weights)


@pytest.mark.parametrize("probs", [[[0.5, 0.5]], np.empty((0, 2, 3))])
def test_soft_vote_refuses_what_is_not_members_by_examples_by_classes(probs: Any) -> None:
    with pytest.raises(InputError, match="`probs_MNC` must be"):
        soft_vote(probs)


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_ensemble_without_priors_agrees_with_scikit_learns_voting_classifier(weights: list[float] | None) -> None:
    X, y = load_iris(return_X_y=True)
    names = load_iris().target_names[y]
    members = [("nb", GaussianNB()), ("lr", LogisticRegression(max_iter=1000))]
    ours = SoftVotingEnsemble(members, weights=weights).fit(X, names)
    theirs = VotingClassifier(members, voting="soft", weights=weights).fit(X, names)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.score(X, names) == theirs.score(X, names)


def test_ensemble_corrects_each_member_for_its_prior_before_averaging() -> None:
    members = [("a", Constant([0.8, 0.2], ["mel", "nv"])), ("b", Constant([0.3, 0.7], ["mel", "nv"]))]
    ensemble = SoftVotingEnsemble(members, priors=[[0.9, 0.1], [0.5, 0.5]]).fit()
    # a: 0.8 / 0.9 : 0.2 / 0.1 = 4 : 9; b stays. Mean of mel: (4 / 13 + 0.3) / 2.
    mel = (4 / 13 + 0.3) / 2
    np.testing.assert_allclose(ensemble.predict_proba(["x"]), [[mel, 1 - mel]])
    assert ensemble.predict(["x", "y"]).tolist() == ["nv", "nv"]


def test_ensemble_follows_its_rule() -> None:
    members = [("a", Constant([0.8, 0.2], ["mel", "nv"])), ("b", Constant([0.3, 0.7], ["mel", "nv"]))]
    rule = Rule(tau=0.5, vote="geometric", temperature=2.0)
    ensemble = SoftVotingEnsemble(members, priors=[[0.9, 0.1], [0.5, 0.5]], rule=rule).fit()
    # mel : nv of a is 0.8 / sqrt(0.9) : 0.2 / sqrt(0.1) = 4 : 3, of b 3 : 7; the root of their product, and its root.
    odds = (4 / 3 * 3 / 7) ** 0.25
    np.testing.assert_allclose(ensemble.predict_proba(["x"]), [[odds / (1 + odds), 1 / (1 + odds)]])
    assert clone(ensemble).rule == rule


def test_ensemble_is_a_classifier_that_clone_copies_unfitted() -> None:
    ensemble = SoftVotingEnsemble([("a", Constant([0.8, 0.2], ["mel", "nv"]))], weights=[2.0]).fit()
    copy = clone(ensemble)
    assert is_classifier(copy)
    assert copy.weights == [2.0]
    assert [name for name, _ in copy.estimators] == ["a"]
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copy.predict(["x"])


def test_ensemble_constructor_stores_and_checks_nothing() -> None:
    priors = [[1.0]]
    ensemble = SoftVotingEnsemble([], weights=[-1.0], priors=priors)
    stored = {"estimators": [], "weights": [-1.0], "priors": priors, "rule": PLAIN}
    assert ensemble.get_params(deep=False) == stored
    assert ensemble.priors is priors


def test_ensemble_leaves_the_members_that_it_was_given_unfitted() -> None:
    member = Constant([0.8, 0.2], ["mel", "nv"])
    SoftVotingEnsemble([("a", member)]).fit()
    assert not hasattr(member, "classes_")


def test_ensemble_refuses_members_of_other_classes() -> None:
    members = [("a", Constant([0.8, 0.2], ["mel", "nv"])), ("b", Constant([0.8, 0.2], ["nv", "mel"]))]
    with pytest.raises(InputError, match="All members must know the same classes, but b knows"):
        SoftVotingEnsemble(members).fit()


def test_ensemble_refuses_priors_of_the_wrong_shape() -> None:
    with pytest.raises(InputError, match=r"`priors` must be of shape \(1, 2\), but got \(1, 3\)"):
        SoftVotingEnsemble([("a", Constant([0.8, 0.2], ["mel", "nv"]))], priors=[[0.2, 0.3, 0.5]]).fit()


def test_ensemble_refuses_to_have_no_members() -> None:
    with pytest.raises(InputError, match="`estimators` must have at least one member"):
        SoftVotingEnsemble([]).fit()
