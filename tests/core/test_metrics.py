import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from core import metrics

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 0])


def test_recall_by_hand() -> None:
    confusion = metrics.confusion_matrix(LABELS, PREDICTIONS, 3)
    np.testing.assert_array_equal(confusion, [[2, 1, 0], [0, 2, 0], [1, 0, 0]])
    np.testing.assert_allclose(metrics.recall_per_class(confusion), [2 / 3, 1, 0])
    assert metrics.macro_recall(confusion) == pytest.approx(5 / 9)
    assert metrics.accuracy(confusion) == pytest.approx(4 / 6)


@given(st.integers(0, 2**32 - 1))
def test_macro_recall_is_scikit_learns_to_the_last_digit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), rng.integers(0, 5, 60)])
    predictions = rng.integers(0, 5, 65)
    ours = metrics.confusion_matrix(labels, predictions, 5)
    np.testing.assert_array_equal(ours, confusion_matrix(labels, predictions))
    assert metrics.macro_recall(ours) == balanced_accuracy_score(labels, predictions)
    assert metrics.macro_recall(ours) == pytest.approx(recall_score(labels, predictions, average="macro"), abs=1e-15)


def test_a_class_without_examples_does_not_count() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 2]), 3)
    assert np.isnan(metrics.recall_per_class(confusion)[2])
    assert metrics.macro_recall(confusion) == pytest.approx(0.25)


def test_prior_correction_by_hand() -> None:
    corrected = metrics.correct_prior(np.array([[0.8, 0.2]]), np.array([0.9, 0.1]))
    ratios = np.array([0.8 / 0.9, 0.2 / 0.1])
    np.testing.assert_allclose(corrected[0], ratios / ratios.sum())


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32)))
def test_corrected_probabilities_sum_to_one(raw: np.ndarray) -> None:
    probs = (raw + 1e-3) / (raw + 1e-3).sum(1, keepdims=True)
    np.testing.assert_allclose(metrics.correct_prior(probs, np.array([0.7, 0.3, 0.0])).sum(1), 1)


def test_a_flat_prior_changes_nothing() -> None:
    probs = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(metrics.correct_prior(probs, np.full(3, 1 / 3)), probs)


def test_the_interval_covers_the_recall_and_narrows_with_more_lesions() -> None:
    rng = np.random.default_rng(0)

    def width(lesions: int) -> float:
        labels = np.repeat(np.arange(4), lesions)
        predictions = np.where(rng.random(len(labels)) < 0.7, labels, (labels + 1) % 4)
        recall = metrics.macro_recall(metrics.confusion_matrix(labels, predictions, 4))
        low, high = metrics.bootstrap_interval(labels, predictions, [str(i) for i in range(len(labels))], 4)
        assert low < recall < high
        return high - low

    assert width(400) < 0.6 * width(50)


def test_photos_of_one_lesion_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    predictions = np.where(rng.random(120) < 0.7, labels, 1 - labels)
    alone = metrics.bootstrap_interval(labels, predictions, [str(i) for i in range(120)], 2)
    labels, predictions = np.repeat(labels, 4), np.repeat(predictions, 4)
    together = metrics.bootstrap_interval(labels, predictions, [str(i // 4) for i in range(480)], 2)
    ignoring = metrics.bootstrap_interval(labels, predictions, [str(i) for i in range(480)], 2)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert ignoring.high - ignoring.low < 0.7 * (together.high - together.low)


def test_the_interval_is_near_the_known_standard_error() -> None:
    # One class of 400 independent lesions at recall 0.8: the standard error is sqrt(0.8 * 0.2 / 400) = 0.02.
    labels, predictions = np.zeros(400, int), (np.arange(400) % 5 == 0).astype(int)
    low, high = metrics.bootstrap_interval(labels, predictions, [str(i) for i in range(400)], 2)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.02, rel=0.1)


def test_wilson_interval_matches_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    low, high = metrics.wilson_interval(81 / 263, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_wilson_interval_has_width_at_the_ends() -> None:
    assert metrics.wilson_interval(1.0, 6).low < 0.65
    assert metrics.wilson_interval(0.0, 6).high > 0.35


def test_negative_log_likelihood_by_hand() -> None:
    probs = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert metrics.negative_log_likelihood(np.array([0, 1]), probs) == pytest.approx(-np.log([0.5, 0.75]).mean())


def test_calibration_error_by_hand() -> None:
    # Four predictions at confidence 0.9 of which three hold: a gap of 0.15 in the only bin that is used.
    probs = np.tile([0.9, 0.1], (4, 1))
    assert metrics.expected_calibration_error(np.array([0, 0, 0, 1]), probs) == pytest.approx(0.15)


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(0.01, 1)), st.floats(0, 3))
def test_tau_is_the_exponent_of_the_prior(raw: np.ndarray, tau: float) -> None:
    prior = np.array([0.7, 0.2, 0.1])
    probs = raw / raw.sum(1, keepdims=True)
    np.testing.assert_allclose(metrics.correct_prior(probs, prior, tau), metrics.correct_prior(probs, prior**tau))


def test_resamples_of_lesions_judge_all_classifiers_alike() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 90), [str(n // 2) for n in range(90)]
    predictions_KN = np.stack([rng.integers(0, 3, 90), labels])
    bootstrap = metrics.LesionBootstrap(labels, groups, 4)
    recalls = bootstrap.recalls(predictions_KN == labels)
    for one, predictions_N in zip(recalls, predictions_KN, strict=True):
        np.testing.assert_array_equal(one, metrics.bootstrap_recalls(labels, predictions_N, groups, 4))
    assert np.isnan(recalls[:, :, 3]).all()
    assert (bootstrap.macro_recalls(predictions_KN == labels)[1] == 1).all()
    expected = metrics.bootstrap_interval(labels, predictions_KN[0], groups, 4)
    assert bootstrap.interval(predictions_KN[0] == labels) == expected


def test_resamples_hold_whole_lesions_of_a_class() -> None:
    # Two lesions of three images each, one recognised: any resample has 0, 1 or 2 of the recognised one.
    labels, groups = np.zeros(6, int), ["x", "y"] * 3
    recalls = metrics.LesionBootstrap(labels, groups, 1).recalls(np.array([[True, False] * 3]))
    assert sorted(set(recalls.ravel().tolist())) == [0, 0.5, 1]
