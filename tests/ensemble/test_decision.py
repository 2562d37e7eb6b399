from typing import Any

import hypothesis.extra.numpy as st_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from ensemble.decision import PLAIN, RULE_1, Rule, choose, correct_members, temper

FITTED = Rule(tau=0.8, vote="geometric", views=4, temperature=1.5)


def test_each_member_is_corrected_for_its_own_prior() -> None:
    probs_MNC = np.array([[[0.5, 0.5]], [[0.5, 0.5]]])
    corrected = correct_members(probs_MNC, np.array([[0.75, 0.25], [0.5, 0.5]]))
    np.testing.assert_allclose(corrected, [[[0.25, 0.75]], [[0.5, 0.5]]])


def test_members_that_believe_their_priors_know_nothing_after_correction() -> None:
    prior = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(correct_members(prior[None], prior), np.full((1, 1, 3), 1 / 3))


def test_tau_takes_out_that_power_of_the_prior() -> None:
    probs_MNC, priors_MC = np.array([[[0.8, 0.2]]]), np.array([[0.9, 0.1]])
    # 0.8 / sqrt(0.9) : 0.2 / sqrt(0.1)
    mel, nv = 0.8 / 0.9**0.5, 0.2 / 0.1**0.5
    np.testing.assert_allclose(correct_members(probs_MNC, priors_MC, 0.5), [[[mel / (mel + nv), nv / (mel + nv)]]])
    np.testing.assert_array_equal(correct_members(probs_MNC, priors_MC, 0.0), probs_MNC)


def test_choice_is_the_most_probable_class_and_of_equals_the_first() -> None:
    assert choose(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])).tolist() == [1, 0]


def test_temperature_divides_the_logarithms() -> None:
    # Square roots of 0.64 and 0.36 are as 4 to 3.
    np.testing.assert_allclose(temper(np.array([[0.64, 0.36]]), 2.0), [[4 / 7, 3 / 7]])
    probs_NC = np.array([[0.3, 0.7]])
    np.testing.assert_array_equal(temper(probs_NC, 1.0), probs_NC)


@given(st_numpy.arrays(np.float64, (20, 4), elements=st.floats(0, 1)), st.floats(0.1, 10))
def test_no_temperature_changes_a_decision(raw_NC: np.ndarray, temperature: float) -> None:
    probs_NC = (raw_NC + 1e-15) / (raw_NC + 1e-15).sum(axis=1, keepdims=True)
    tempered_NC = temper(probs_NC, temperature)
    assert choose(tempered_NC).tolist() == choose(probs_NC).tolist()
    np.testing.assert_allclose(tempered_NC.sum(axis=1), 1)


def test_probabilities_that_a_temperature_would_tie_keep_their_order() -> None:
    larger = np.nextafter(0.5, 1)
    assert choose(temper(np.array([[0.5, larger]]), 10.0)).tolist() == [1]


def test_rule_of_the_first_format_is_the_one_that_fits_nothing() -> None:
    assert Rule.from_dict(dict(RULE_1), version=1) == PLAIN == Rule(tau=1, vote="mean", views=1, temperature=1)


@pytest.mark.parametrize("rule", [PLAIN, FITTED])
def test_writing_and_reading_a_rule_is_the_identity(rule: Rule) -> None:
    assert Rule.from_dict(rule.to_dict(), version=2) == rule


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vote": "median"}, "vote must be one of mean, geometric"),
        ({"views": 2}, "views must be one of 1, 4, 8"),
        ({"tau": -0.1}, "tau must be 0 to 3"),
        ({"tau": "1"}, "tau is '1' and not of type"),
        ({"temperature": 0}, "temperature must be 0.1 to 10"),
        ({"choice": "threshold"}, "'choice': 'threshold'"),
        ({"correction": "p / prior"}, "'correction': 'p / prior'"),
        ({"bias": 1}, "it has 'bias' too"),
    ],
)
def test_unknown_rule_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=r"`decision` must be .* Update this project or build") as told:
        Rule.from_dict({**PLAIN.to_dict(), **change}, version=2)
    assert reason in str(told.value)


@pytest.mark.parametrize("decision", [None, [], {}, {**RULE_1, "temperature": 2.0}, {**RULE_1, "vote": "geometric"}])
@pytest.mark.parametrize("version", [1, 2])
def test_rule_that_is_none_is_refused(decision: Any, version: int) -> None:
    with pytest.raises(InputError, match="`decision` must be"):
        Rule.from_dict(decision, version=version)
