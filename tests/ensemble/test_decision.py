import numpy as np
import pytest

from core.errors import InputError
from ensemble.decision import RULE, check_rule, choose, correct_members


def test_each_member_is_corrected_for_its_own_prior() -> None:
    probs_MNC = np.array([[[0.5, 0.5]], [[0.5, 0.5]]])
    corrected = correct_members(probs_MNC, np.array([[0.75, 0.25], [0.5, 0.5]]))
    np.testing.assert_allclose(corrected, [[[0.25, 0.75]], [[0.5, 0.5]]])


def test_members_that_believe_their_priors_know_nothing_after_correction() -> None:
    prior = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(correct_members(prior[None], prior), np.full((1, 1, 3), 1 / 3))


def test_choice_is_the_most_probable_class_and_of_equals_the_first() -> None:
    assert choose(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])).tolist() == [1, 0]


def test_unknown_rule_is_refused() -> None:
    check_rule(dict(RULE))
    with pytest.raises(InputError, match="`decision` must be"):
        check_rule({**RULE, "temperature": 2.0})
