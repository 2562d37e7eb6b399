import json

import numpy as np
import pytest

from core.metrics import confusion_matrix, macro_recall
from ensemble.crossfit import Truth
from ensemble.decision import choose, correct_members, temper
from ensemble.fitting import Voters, fit_rule
from ensemble.voting import soft_vote

PRIOR = np.array([0.6, 0.3, 0.1])


def members(count: int, *, tau: float, number: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Truth]:
    """Members whose beliefs are true posteriors, but count their prior `tau` times."""
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(3), rng.choice(3, count - 3, p=PRIOR)])
    evidence_MNC = rng.normal(size=(number, count, 3)) + 1.5 * np.eye(3)[labels_N]
    raw_MNC = np.exp(1.5 * evidence_MNC) * PRIOR**tau
    probs_MNC = raw_MNC / raw_MNC.sum(axis=2, keepdims=True)
    return probs_MNC, np.tile(PRIOR, (number, 1)), Truth.of(labels_N, [str(n) for n in range(count)], 3)


def equal(rows_N: np.ndarray) -> Voters:
    return Voters(np.array([0.5, 0.5]), "mean")


def test_tau_stays_at_one_where_a_member_believes_true_posteriors() -> None:
    for seed in range(5):
        probs_MNC, priors_MC, truth = members(600, tau=1, number=1, seed=seed)
        alone = fit_rule(probs_MNC, priors_MC, truth, lambda rows_N: Voters(np.ones(1), "mean"))
        assert alone.rule.tau == 1


def test_tau_moves_where_members_count_the_prior_otherwise() -> None:
    probs_MNC, priors_MC, truth = members(4000, tau=2.0)
    fit = fit_rule(probs_MNC, priors_MC, truth, equal)
    assert 1.2 <= fit.rule.tau <= 2
    plain, fitted = fit.steps[1], fit.steps[2]
    assert fitted.recall > plain.recall


def test_figures_are_those_of_parameters_that_were_fitted_to_the_other_folds() -> None:
    probs_MNC, priors_MC, truth = members(300, tau=1.6)
    fit = fit_rule(probs_MNC, priors_MC, truth, equal)
    expected_NC = np.empty(probs_MNC.shape[1:])
    for fit_N, held_N in truth.held_out():
        fold = fit_rule(probs_MNC[:, fit_N], priors_MC, truth.take(fit_N), equal)
        voted_NC = soft_vote(correct_members(probs_MNC[:, held_N], priors_MC, fold.rule.tau), [1, 1])
        expected_NC[held_N] = temper(voted_NC, fold.rule.temperature)
    np.testing.assert_allclose(fit.probs_NC, expected_NC, rtol=1e-6)
    recall = macro_recall(confusion_matrix(truth.labels_N, choose(fit.probs_NC), 3))
    assert fit.steps[-1].recall == recall


def test_weights_are_chosen_without_the_rows_that_they_are_judged_by() -> None:
    probs_MNC, priors_MC, truth = members(100, tau=1)
    seen: list[np.ndarray] = []

    def weigh(rows_N: np.ndarray) -> Voters:
        seen.append(rows_N)
        return Voters(np.array([1.0, 0.0]) if rows_N.all() else np.array([0.0, 1.0]), "mean")

    fit = fit_rule(probs_MNC, priors_MC, truth, weigh, tau=0.0)
    assert fit.weights_M.tolist() == [1, 0]
    np.testing.assert_allclose(fit.raw_NC, probs_MNC[1])  # the weights of the folds
    np.testing.assert_allclose(fit.corrected_NC, probs_MNC[1])
    assert [rows_N.sum() for rows_N in seen] == [100, 80, 80, 80, 80, 80]


def test_temperature_changes_nll_and_no_decision() -> None:
    probs_MNC, priors_MC, truth = members(500, tau=1)
    fit = fit_rule(probs_MNC**5 / (probs_MNC**5).sum(axis=2, keepdims=True), priors_MC, truth, equal)
    assert fit.rule.temperature > 1.2
    tau, temperature = fit.steps[-2:]
    assert temperature.recall == tau.recall
    assert temperature.interval == tau.interval
    assert temperature.nll < tau.nll
    assert fit.to_dict()["decisions_changed_by_temperature"] == 0


def test_tau_that_is_asked_for_is_used() -> None:
    probs_MNC, priors_MC, truth = members(300, tau=2)
    fit = fit_rule(probs_MNC, priors_MC, truth, equal, tau=0.33)
    assert fit.rule.tau == 0.33
    assert fit.steps[2].value == "0.33, as asked for"


def test_fit_is_the_same_every_time_and_fits_json() -> None:
    probs_MNC, priors_MC, truth = members(200, tau=1)
    first, second = (fit_rule(probs_MNC, priors_MC, truth, equal) for _ in range(2))
    assert json.dumps(first.to_dict(), allow_nan=False) == json.dumps(second.to_dict())
    assert first.to_dict()["folds"] == 5


@pytest.mark.parametrize("count", [3, 4])
def test_a_handful_of_lesions_can_be_fitted_to(count: int) -> None:
    probs_MNC, priors_MC, truth = members(count, tau=1)
    fit = fit_rule(probs_MNC, priors_MC, truth, equal)
    np.testing.assert_allclose(fit.probs_NC.sum(axis=1), 1)
