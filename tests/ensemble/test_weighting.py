from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from ensemble.crossfit import Truth
from ensemble.weighting import Candidates, likeliest_weights, select_greedily


def candidates(seed: int, *, count: int = 4, rows: int = 60, skills: tuple[float, ...] = ()) -> Candidates:
    """Trials of two architectures that know more or less of the truth; priors are flat."""
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(3), rng.integers(0, 3, rows - 3)])
    strengths_M = np.asarray(skills or [1.0] * count)
    logits_MNC = rng.normal(size=(len(strengths_M), rows, 3)) + strengths_M[:, None, None] * np.eye(3)[labels_N]
    probs_MNC = np.exp(logits_MNC) / np.exp(logits_MNC).sum(axis=2, keepdims=True)
    return Candidates(
        probs_MNC=probs_MNC,
        priors_MC=np.full((len(strengths_M), 3), 1 / 3),
        archs=["a", "b"] * (len(strengths_M) // 2),
        truth=Truth.of(labels_N, [str(n) for n in range(rows)], 3),
    )


def all_rows(trials: Candidates) -> np.ndarray:
    return np.ones(len(trials.truth.labels_N), bool)


def test_equal_weights_go_to_the_best_of_each_architecture() -> None:
    trials = candidates(0, rows=600, skills=(0.2, 2.0, 3.0, 0.5))  # a, b, a, b
    assert trials.weigh("mean", 1, all_rows(trials)).tolist() == [0, 0.5, 0.5, 0]
    assert trials.weigh("geometric", 2, all_rows(trials)).tolist() == [0.25] * 4
    assert trials.weigh("mean", 9, all_rows(trials)).tolist() == [0.25] * 4
    assert trials.most == 2


def test_equals_keep_their_order() -> None:
    trials = candidates(0)
    same = Candidates(
        probs_MNC=trials.probs_MNC[[0, 0, 0, 0]], priors_MC=trials.priors_MC, archs=["a"] * 4, truth=trials.truth
    )
    assert same.weigh("mean", 2, all_rows(same)).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("way", ["mean", "geometric", "weights", "greedy"])
@given(seed=st.integers(0, 100), top_k=st.integers(1, 3))
def test_weights_are_on_the_simplex_and_look_at_no_other_rows(way: str, seed: int, top_k: int) -> None:
    trials = candidates(seed)
    rows_N = np.random.default_rng(seed).random(60) < 0.7
    weights_M = trials.weigh(way, top_k, rows_N)
    assert (weights_M >= 0).all()
    assert weights_M.sum() == pytest.approx(1)
    hidden = trials.probs_MNC.copy()
    hidden[:, ~rows_N] = 1 / 3
    others = Candidates(probs_MNC=hidden, priors_MC=trials.priors_MC, archs=trials.archs, truth=trials.truth)
    np.testing.assert_array_equal(others.weigh(way, top_k, rows_N), weights_M)


def test_likeliest_weights_near_those_of_a_general_optimiser() -> None:
    trials = candidates(1, rows=900, skills=(2.0, 1.5, 1.0, 0.0))
    balance_N = trials.truth.balance_N

    def loss(logits_M: np.ndarray) -> float:
        weights_M = np.exp(logits_M) / np.exp(logits_M).sum()
        return float(-(balance_N * np.log(weights_M @ trials.true_MN)).sum())

    ours = likeliest_weights(trials.true_MN, balance_N)
    best = minimize(loss, np.zeros(4)).fun
    assert -(balance_N * np.log(ours @ trials.true_MN)).sum() <= best + 1e-3
    assert ours[0] > ours[1]


def test_many_candidates_have_weights_too() -> None:
    weights_M = likeliest_weights(np.full((1001, 4), 0.5), np.full(4, 0.25))
    np.testing.assert_allclose(weights_M, 1 / 1001)


def test_more_weight_goes_to_who_finds_the_true_class_likely() -> None:
    # One member knows class 0, the other class 1, both nothing of the rest.
    true_MN = np.array([[0.9, 0.5], [0.5, 0.9]])
    np.testing.assert_allclose(likeliest_weights(true_MN, np.array([0.5, 0.5])), [0.5, 0.5])
    assert likeliest_weights(true_MN, np.array([0.8, 0.2]))[0] > 0.7


def brute_force(trials: Candidates, votes: int) -> float:
    """The best recall of any vote of so many."""
    truth, best = trials.truth, 0.0
    for chosen in product(range(len(trials.archs)), repeat=votes):
        hits_N = trials.corrected_MNC[list(chosen)].sum(axis=0).argmax(axis=1) == truth.labels_N
        best = max(best, float(truth.recalls(hits_N[None])[0]))
    return best


def greedily(trials: Candidates) -> np.ndarray:
    return trials.weigh("greedy", 1, all_rows(trials))


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_is_no_worse_than_the_best_alone_and_reaches_the_best_pair_or_nearly(seed: int) -> None:
    trials = candidates(seed)
    hits_N = np.tensordot(greedily(trials), trials.corrected_MNC, 1).argmax(axis=1) == trials.truth.labels_N
    recall = trials.truth.recalls(hits_N[None])[0]
    assert recall >= brute_force(trials, 1) - 1e-9
    assert recall >= brute_force(trials, 2) - 0.03


def test_greedy_selection_gives_no_vote_that_does_not_help() -> None:
    labels_N = np.array([0, 1, 2] * 20)
    perfect, noise = np.eye(3)[labels_N] * 0.7 + 0.1, np.full((60, 3), 1 / 3)
    truth = Truth.of(labels_N, [str(n) for n in range(60)], 3)
    probs_CMN = np.ascontiguousarray(np.moveaxis(np.stack([noise, perfect]), 2, 0).astype(np.float32))
    assert select_greedily(probs_CMN, truth).tolist() == [0, 1]


def test_greedy_selection_prefers_who_has_a_vote_already() -> None:
    # Both are alike: the first gets the first vote, and nothing is gained by another.
    labels_N = np.array([0, 1, 2] * 20)
    half = np.eye(3)[labels_N] * 0.7 + 0.1
    truth = Truth.of(labels_N, [str(n) for n in range(60)], 3)
    probs_CMN = np.ascontiguousarray(np.moveaxis(np.stack([half, half]), 2, 0).astype(np.float32))
    assert select_greedily(probs_CMN, truth).tolist() == [1, 0]
