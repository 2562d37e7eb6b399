import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics import confusion_matrix, macro_recall
from ensemble.crossfit import FOLDS, Truth, simplest


def random_truth(seed: int, lesions: int = 60, classes: int = 3) -> Truth:
    """Lesions of one class each and one to three images, in random order."""
    rng = np.random.default_rng(seed)
    class_of = np.concatenate([np.arange(classes), rng.integers(0, classes, lesions - classes)])
    lesion_N = rng.permutation(np.repeat(np.arange(lesions), rng.integers(1, 4, lesions)))
    return Truth.of(class_of[lesion_N], [f"lesion {lesion}" for lesion in lesion_N], classes)


@given(st.integers(0, 1000))
def test_every_lesion_is_held_out_once_and_whole(seed: int) -> None:
    truth = random_truth(seed)
    held = np.zeros(len(truth.labels_N), int)
    for fit_N, held_N in truth.held_out():
        held += held_N
        assert not set(truth.groups_N[fit_N]) & set(truth.groups_N[held_N])
        assert (fit_N | held_N).all()
    assert (held == 1).all()


@given(st.integers(0, 1000))
def test_folds_have_their_share_of_each_class(seed: int) -> None:
    truth = random_truth(seed)
    for c in range(truth.num_classes):
        lesions = [len(set(truth.groups_N[fold_N & (truth.labels_N == c)])) for fold_N in truth.folds]
        assert max(lesions) - min(lesions) <= 1


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    truth = random_truth(0)
    turned = Truth.of(truth.labels_N[::-1], truth.groups_N[::-1].tolist(), truth.num_classes)
    for fold_N, turned_N in zip(truth.folds, turned.folds, strict=True):
        np.testing.assert_array_equal(fold_N, turned_N[::-1])


def test_lesion_of_two_labels_stays_in_one_fold() -> None:
    truth = Truth.of([0, 1, 0, 1, 1], ["x", "x", "y", "z", "w"], 2)
    assert sum(fold_N[0] for fold_N in truth.folds) == sum(fold_N[0] and fold_N[1] for fold_N in truth.folds) == 1


@pytest.mark.parametrize("malignant", [0, 1])
def test_patients_of_two_classes_are_spread_by_the_rarer_one(malignant: int) -> None:
    labels, patients = [], []
    for patient in range(60):
        for is_malignant in [False, patient < 5][: 1 + (patient < 5)]:
            labels.append(malignant if is_malignant else 1 - malignant)
            patients.append(f"patient {patient}")
    truth = Truth.of(labels, patients, 2)
    assert [int((truth.labels_N[fold_N] == malignant).sum()) for fold_N in truth.folds] == [1] * FOLDS


def test_fewer_lesions_than_folds_make_fewer_folds_and_one_alone_is_fitted_to_itself() -> None:
    assert len(Truth.of([0, 1], ["x", "y"], 2).folds) == 2 < FOLDS
    ((fit_N, held_N),) = Truth.of([0, 0], ["x", "x"], 2).held_out()
    assert fit_N.all()
    assert held_N.all()


@given(st.integers(0, 1000))
def test_recall_of_candidates_is_the_macro_recall(seed: int) -> None:
    truth = random_truth(seed)
    predictions_KN = np.random.default_rng(seed).integers(0, 3, (4, len(truth.labels_N)))
    expected = [macro_recall(confusion_matrix(truth.labels_N, predictions_N, 3)) for predictions_N in predictions_KN]
    np.testing.assert_allclose(truth.recalls(predictions_KN == truth.labels_N), expected)


def test_standard_error_is_the_known_one() -> None:
    # One class of 400 independent lesions at recall 0.8: sqrt(0.8 * 0.2 / 400) = 0.02.
    truth = Truth.of(np.zeros(400, int), [str(n) for n in range(400)], 1)
    assert truth.standard_error(np.arange(400) % 5 > 0) == pytest.approx(0.02)


def test_standard_error_is_near_that_of_the_bootstrap_over_lesions() -> None:
    truth = random_truth(3, lesions=300)
    hits_N = np.random.default_rng(0).random(len(truth.labels_N)) < 0.7
    hits_N[truth.labels_N == 2] = np.char.endswith(truth.groups_N[truth.labels_N == 2], "1")  # whole lesions
    resampled = truth.bootstrap.macro_recalls(hits_N[None])
    assert truth.standard_error(hits_N) == pytest.approx(resampled.std(), rel=0.1)


def test_simplest_is_taken_unless_the_best_is_more_than_a_standard_error_better() -> None:
    truth = Truth.of(np.zeros(400, int), [str(n) for n in range(400)], 1)  # standard error 0.02
    hits = [np.arange(400) < round(400 * recall) for recall in (0.77, 0.79, 0.80)]
    assert simplest(np.stack(hits), truth, [0, 1, 2]) == 1
    assert simplest(np.stack(hits), truth, [0, 2, 1]) == 2
    assert simplest(np.stack([hits[1], hits[2]]), truth, [0, 0]) == 1  # equally simple: the better one
    assert simplest(np.stack([hits[2], hits[2]]), truth, [0, 0]) == 0  # equals: the first
