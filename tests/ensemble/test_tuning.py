import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics import negative_log_likelihood
from ensemble.decision import TEMPERATURES, correct_members, temper
from ensemble.tuning import TAUS, fit_temperature, votes_at
from ensemble.voting import soft_vote


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric"]))
def test_votes_at_each_tau_are_those_of_corrected_members(seed: int, vote: str) -> None:
    rng = np.random.default_rng(seed)
    probs_MNC, priors_MC = rng.dirichlet(np.ones(4), (3, 5)), rng.dirichlet(np.ones(4), 3)
    weights_M = np.array([0.5, 0.0, 0.25])
    votes_TNC = votes_at(probs_MNC, priors_MC, weights_M, vote)
    for tau, votes_NC in zip(TAUS, votes_TNC, strict=True):
        expected_NC = soft_vote(correct_members(probs_MNC, priors_MC, tau), weights_M, vote)
        np.testing.assert_allclose(votes_NC, expected_NC, rtol=1e-6)


@pytest.mark.parametrize("vote", ["mean", "geometric"])
def test_so_are_votes_of_members_that_are_as_sure_as_single_precision_allows(vote: str) -> None:
    probs_MNC = np.array([[[1.0, 0.0, 0.0]], [[0.0, 1e-30, 1.0]]])
    priors_MC = np.array([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5]])
    for tau, votes_NC in zip(TAUS, votes_at(probs_MNC, priors_MC, np.ones(2), vote), strict=True):
        expected_NC = soft_vote(correct_members(probs_MNC, priors_MC, tau), vote=vote)
        np.testing.assert_allclose(votes_NC, expected_NC, rtol=1e-9)


def drawn(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from known probabilities, and those probabilities raised to a power."""
    rng = np.random.default_rng(0)
    true_NC = rng.dirichlet(np.ones(4), count)
    labels_N = (true_NC.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    powers_NC = true_NC**sharpness
    return powers_NC / powers_NC.sum(axis=1, keepdims=True), labels_N


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_temperature_undoes_a_sharpness_that_is_known(sharpness: float) -> None:
    probs_NC, labels_N = drawn(20_000, sharpness)
    assert fit_temperature(probs_NC, labels_N) == pytest.approx(sharpness, rel=0.05)


def test_no_other_temperature_is_more_likely() -> None:
    probs_NC, labels_N = drawn(5_000, 1.7)
    best = fit_temperature(probs_NC, labels_N)
    nll = negative_log_likelihood(labels_N, temper(probs_NC, best))
    for factor in (0.9, 1.1):
        assert negative_log_likelihood(labels_N, temper(probs_NC, best * factor)) > nll


def test_few_rows_that_are_all_right_do_not_make_certainty() -> None:
    probs_NC = np.tile([0.8, 0.1, 0.1], (15, 1))
    # The likeliest with one more example, of every class alike: p(true) = (15 + 1 / 3) / 16.
    tempered_NC = temper(probs_NC, fit_temperature(probs_NC, np.zeros(15, int)))
    np.testing.assert_allclose(tempered_NC[0, 0], (15 + 1 / 3) / 16, rtol=1e-3)


def test_temperature_stays_in_its_range_where_probabilities_say_nothing() -> None:
    low, high = TEMPERATURES
    assert low <= fit_temperature(np.full((10, 3), 1 / 3), np.zeros(10, int)) <= high
    assert fit_temperature(np.tile([0.98, 0.01, 0.01], (300, 1)), np.arange(300) % 3) == pytest.approx(high, rel=1e-3)
