import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.metrics import wilson_interval
from ensemble.crossfit import Truth
from ensemble.operating import (
    OperatingPoint,
    check_classes,
    check_lesions,
    fit_points,
    fit_threshold,
    flag,
    flag_columns,
    judge_flags,
)

CLASSES = ("mel", "nv")


def test_threshold_finds_enough_and_lies_halfway_to_what_it_leaves() -> None:
    probs_N = np.array([0.9, 0.7, 0.5, 0.25, 0.75])
    is_mel_N = np.array([True, True, True, True, False])
    assert fit_threshold(probs_N, is_mel_N, 0.75) == 0.375  # three of four
    assert fit_threshold(probs_N, is_mel_N, 0.76) == 0.125
    assert fit_threshold(probs_N, is_mel_N, 0.01) == pytest.approx(0.825)  # the next one isn't of the class
    assert fit_threshold(probs_N, np.zeros(5, bool), 0.9) == 0


@given(st.integers(0, 1000), st.floats(0.01, 0.99))
def test_threshold_flags_as_few_as_may_be_however_their_probabilities_are_rounded(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    probs_N, is_mel_N = (rng.permutation(40) + 1) / 40, np.arange(40) < 11
    threshold = fit_threshold(probs_N, is_mel_N, least)
    flagged_N = probs_N >= threshold
    assert flagged_N[is_mel_N].mean() >= least - 1e-9
    last = np.min(probs_N, where=flagged_N, initial=1)
    assert (is_mel_N & (probs_N > last)).sum() / 11 < least  # one image less would be too few
    rounded_N = probs_N + rng.uniform(-0.01, 0.01, size=40)
    np.testing.assert_array_equal(rounded_N >= threshold, flagged_N)


def test_share_that_asks_for_a_whole_number_asks_for_no_more() -> None:
    assert fit_threshold(np.arange(10) / 10, np.ones(10, bool), 0.9) == pytest.approx(0.05)


def test_flags_of_the_rows_that_were_fitted_to_are_by_thresholds_of_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    labels_N, mel_N = np.arange(60) % 2, rng.random(60)
    truth = Truth.of(labels_N, [str(n // 2) for n in range(60)], 2)
    (point,), (flagged_N,) = fit_points([("mel", 0.8)], np.stack([mel_N, 1 - mel_N], axis=1), truth, CLASSES)
    assert point.threshold == fit_threshold(mel_N, labels_N == 0, 0.8)
    for fit_N, held_N in truth.held_out():
        threshold = fit_threshold(mel_N[fit_N], labels_N[fit_N] == 0, 0.8)
        np.testing.assert_array_equal(flagged_N[held_N], mel_N[held_N] >= threshold)


def test_flags_are_judged_by_lesions_beside_the_choice() -> None:
    truth = Truth.of([0, 0, 0, 1, 1], ["x", "x", "y", "z", "w"], 2)
    point = OperatingPoint(class_name="mel", min_sensitivity=0.9, threshold=0.3)
    mel_N = np.array([0.9, 0.4, 0.2, 0.35, 0.1])
    flags = flag([point], np.stack([mel_N, 1 - mel_N], axis=1), CLASSES)
    (judged,) = judge_flags([point], flags, (mel_N < 0.5).astype(int), truth, CLASSES)
    assert (judged.sensitivity, judged.specificity) == (pytest.approx(2 / 3), 0.5)
    assert (judged.argmax_sensitivity, judged.argmax_specificity) == (pytest.approx(1 / 3), 1)
    assert judged.sensitivity_interval == wilson_interval(2 / 3, 2)
    assert judged.specificity_interval == wilson_interval(0.5, 2)
    assert json.loads(json.dumps(judged.to_dict()))["threshold"] == 0.3


def test_part_without_the_class_has_no_sensitivity() -> None:
    truth = Truth.of([1], ["x"], 2)
    point = OperatingPoint(class_name="mel", min_sensitivity=0.9, threshold=0.3)
    (judged,) = judge_flags([point], [np.array([True])], np.array([1]), truth, CLASSES)
    assert (judged.sensitivity, judged.sensitivity_interval, judged.specificity) == (None, None, 0)


def test_image_at_the_threshold_is_flagged() -> None:
    point = OperatingPoint(class_name="nv", min_sensitivity=0.9, threshold=0.25)
    assert flag_columns([point], [0.75, 0.25], CLASSES) == {"flag_nv": 1}
    assert flag_columns([point], [0.76, 0.24], CLASSES) == {"flag_nv": 0}
    assert flag_columns([], [0.76, 0.24], CLASSES) == {}


def test_unknown_classes_and_those_named_twice_are_refused() -> None:
    check_classes([("mel", 0.9), ("nv", 0.5)], CLASSES)
    with pytest.raises(InputError, match="`--min-sensitivity` must name one of mel, nv, but got bcc"):
        check_classes([("bcc", 0.9)], CLASSES)
    with pytest.raises(InputError, match="`--min-sensitivity` must name each class once, but got mel 2 times"):
        check_classes([("mel", 0.9), ("nv", 0.8), ("mel", 0.8)], CLASSES)


@pytest.mark.parametrize(("labels", "groups", "number"), [([1, 1], "xy", "none"), ([0, 0, 1], "xxy", "one")])
def test_class_of_less_than_two_lesions_is_refused(labels: list[int], groups: str, number: str) -> None:
    truth = Truth.of(labels, list(groups), 2)
    with pytest.raises(InputError, match=f"there are two lesions to fit to, but of mel there is {number}"):
        check_lesions([("mel", 0.9)], truth, CLASSES)


def test_class_whose_lesions_all_lie_in_one_fold_is_refused() -> None:
    # Patients are dealt out to the five folds by their rarest class: p, the four of nv, and q comes where p went.
    classes, labels, groups = ("akiec", "nv", "vasc", "mel"), [0, 3, 1, 1, 1, 1, 2, 3], [*"ppabcdqq"]
    with pytest.raises(InputError, match="whose lesions lie in several folds, but the 2 of mel lie in one"):
        check_lesions([("mel", 0.9)], Truth.of(labels, groups, 4), classes)
    check_lesions([("nv", 0.9)], Truth.of(labels, groups, 4), classes)
