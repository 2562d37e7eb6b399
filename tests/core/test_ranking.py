import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.metrics import LesionBootstrap
from core.ranking import auroc, auroc_interval, average_precision, precision_recall, roc


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    # Few different scores, so that many are equal.
    scores = np.round(0.3 * (labels == 1) + rng.random(120), 1)
    return scores, labels, [f"{label}-{rng.integers(0, 20)}" for label in labels]


def test_interval_is_that_of_the_weighted_area_of_each_resample(
    scored: tuple[np.ndarray, np.ndarray, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, labels, groups = scored
    monkeypatch.setattr("core.ranking._AT_ONCE", 7 * len(labels))  # parts of seven resamples, the last one smaller
    bootstrap = LesionBootstrap(labels, groups, 3, resamples=50)
    areas = [roc_auc_score(labels == 1, scores, sample_weight=w) for w in bootstrap.weights(slice(None)).astype(float)]
    low, high = auroc_interval(scores, labels == 1, bootstrap)
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=1e-12)
    assert low < auroc(scores, labels == 1) < high


def test_weights_are_of_whole_lesions_and_keep_every_class(scored: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    _, labels, groups = scored
    weights = LesionBootstrap(labels, groups, 3, resamples=20).weights(slice(3, 9))
    assert weights.shape == (6, 120)
    for group in set(groups):
        assert np.ptp(weights[:, np.array(groups) == group], axis=1).max() == 0
    for c in range(3):
        lesions = [groups.index(group) for group in {g for g, label in zip(groups, labels, strict=True) if label == c}]
        assert (weights[:, lesions].sum(axis=1) == len(lesions)).all()


def test_a_score_that_separates_has_areas_of_one() -> None:
    is_class = np.array([False, True, False, True])
    scores = np.array([0.1, 0.8, 0.3, 0.9])
    assert (auroc(scores, is_class), average_precision(scores, is_class)) == (1, 1)
    assert roc(scores, is_class).y[-1] == 1
    assert precision_recall(scores, is_class).x[0] == 0
    assert precision_recall(scores, is_class).y[-1] == 0.5  # all are taken for it
