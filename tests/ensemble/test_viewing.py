import dataclasses

import numpy as np
import pytest

from ensemble.crossfit import Truth
from ensemble.decision import choose
from ensemble.fitting import Voters
from ensemble.viewing import among, fit_views
from ensemble.votes import vote_out_of_fold

PRIORS_MC = np.full((2, 3), 1 / 3)


def seen(skills: list[float], *, rows: int = 1500, seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Two members' probabilities of views that show more or less of the truth, with noise of their own."""
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(3), rng.integers(0, 3, rows - 3)])
    truth_NC = np.eye(3)[labels_N]
    logits_VMNC = np.stack([skill * truth_NC + rng.normal(size=(2, rows, 3)) for skill in skills])
    probs_VMNC = np.exp(logits_VMNC) / np.exp(logits_VMNC).sum(axis=3, keepdims=True)
    return probs_VMNC, Truth.of(labels_N, [str(n) for n in range(rows)], 3)


def equal(rows_N: np.ndarray) -> Voters:
    return Voters(np.array([0.5, 0.5]), "mean")


def test_views_that_help_are_taken() -> None:
    views_VMNC, truth = seen([1.0] * 8)
    fit, plain = fit_views(views_VMNC, PRIORS_MC, truth, equal, offered=(1, 4, 8))
    assert fit.rule.views > 1
    assert plain.rule.views == 1
    names = [step.name for step in fit.steps]
    assert names[-2:] == ["views", "temperature"]
    assert fit.steps[-2].recall > fit.steps[-3].recall


def test_each_step_names_the_tau_that_it_was_corrected_with() -> None:
    views_VMNC, truth = seen([1.0] * 8)
    fit, plain = fit_views(views_VMNC, PRIORS_MC, truth, equal, offered=(8,))
    plain = dataclasses.replace(plain, rule=dataclasses.replace(plain.rule, tau=0.3))
    names = [name for name, _ in vote_out_of_fold(fit, plain).steps]
    assert names[:3] == ["vote", "+ prior correction (tau 0.3)", "+ 8 views"]


def test_views_that_do_not_help_are_left() -> None:
    views_VMNC, truth = seen([2.0, 0, 0, 0, 0, 0, 0, 0])
    fit, plain = fit_views(views_VMNC, PRIORS_MC, truth, equal, offered=(1, 4, 8))
    assert fit.rule.views == 1
    assert fit.steps[-2].value.startswith("1, 1 to 1 in 5 folds")
    np.testing.assert_array_equal(fit.probs_NC, plain.probs_NC)


def test_number_that_is_asked_for_is_taken_whatever_it_gives() -> None:
    views_VMNC, truth = seen([2.0, 0, 0, 0], rows=300)
    fit, _ = fit_views(views_VMNC, PRIORS_MC, truth, equal, offered=(4,))
    assert fit.rule.views == 4
    assert fit.steps[-2].value == "4, as asked for, tau 1"
    expected_NC = views_VMNC.mean(axis=(0, 1))
    assert (choose(fit.corrected_NC) == choose(expected_NC)).mean() == pytest.approx(1)


def test_some_members_keep_their_shares_and_are_equal_where_they_had_none() -> None:
    def weigh(rows_N: np.ndarray) -> Voters:
        return Voters(np.array([0.5, 0.25, 0.25, 0.0]) if rows_N.all() else np.array([1.0, 0, 0, 0]), "geometric")

    some = among(np.array([1, 2]), weigh)
    assert some(np.array([True, True])).weights_M.tolist() == [0.5, 0.5]
    assert some(np.array([True, False])).weights_M.tolist() == [0.5, 0.5]
    assert some(np.array([True, True])).vote == "geometric"
    assert among(np.array([0, 1]), weigh)(np.array([True])).weights_M.tolist() == pytest.approx([2 / 3, 1 / 3])
