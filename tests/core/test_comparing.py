import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.comparing import RESAMPLES, Contest
from core.metrics import bootstrap_interval, confusion_matrix, macro_recall

LESIONS = 100  # of each class
LABELS = np.repeat(np.arange(3), LESIONS)
GROUPS = [str(row) for row in range(len(LABELS))]


def predict(rng: np.random.Generator, labels: np.ndarray, recall: float) -> np.ndarray:
    """A classifier that finds each example with the same probability, whatever others do."""
    return np.where(rng.random(len(labels)) < recall, labels, (labels + 1) % 3)


def rank(labels: np.ndarray, predictions: list[np.ndarray]) -> list[np.ndarray]:
    return sorted(predictions, key=lambda each: -macro_recall(confusion_matrix(labels, each, 3)))


@given(st.integers(0, 2**32 - 1))
def test_lesions_are_drawn_as_for_a_single_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, 40)])
    groups = [f"{label} {lesion}" for label, lesion in zip(labels, rng.integers(0, 9, 43), strict=True)]
    predictions = rng.integers(0, 3, 43)
    _, behind = Contest(labels, np.stack([labels, predictions]) == labels, groups).differences()
    low, high = bootstrap_interval(labels, predictions, groups, 3, resamples=RESAMPLES)
    assert behind.value == pytest.approx(1 - macro_recall(confusion_matrix(labels, predictions, 3)))
    np.testing.assert_allclose(behind.interval, (1 - high, 1 - low), atol=1e-12)


def test_equal_classifiers_are_tied_and_a_clearly_worse_one_is_not() -> None:
    rng = np.random.default_rng(0)
    good, worse = predict(rng, LABELS, 0.8), predict(rng, LABELS, 0.6)
    itself, twin, other = Contest(LABELS, np.stack([good, good, worse]) == LABELS, GROUPS).differences()
    assert [itself.is_tie, twin.is_tie, other.is_tie] == [True, True, False]
    assert twin == (0, (0, 0))
    assert 0 < other.interval.low < other.value < other.interval.high


def test_pairing_tells_apart_what_intervals_of_each_would_not() -> None:
    rng = np.random.default_rng(0)
    good = predict(rng, LABELS, 0.7)
    worse = np.where(np.arange(len(LABELS)) % 25 == 0, (LABELS + 1) % 3, good)  # wrong where the other is, and more
    assert not Contest(LABELS, np.stack([good, worse]) == LABELS, GROUPS).differences()[1].is_tie
    best, second = (bootstrap_interval(LABELS, each, GROUPS, 3) for each in (good, worse))
    assert best.low < second.high


def test_one_that_stands_for_several_is_as_good_as_they_are_on_average() -> None:
    rng = np.random.default_rng(0)
    first, second, best = (predict(rng, LABELS, recall) == LABELS for recall in (0.7, 0.6, 0.8))
    alone = [Contest(LABELS, np.stack([best, each]), GROUPS).differences()[1].value for each in (first, second)]
    both = Contest(LABELS, np.stack([best, (first + second.astype(float)) / 2]), GROUPS).differences()[1]
    assert both.value == pytest.approx(np.mean(alone))


def mean_optimism(recalls: list[float], *, studies: int = 40) -> float:
    """What is estimated on average over studies whose trials have these recalls."""
    rng, values = np.random.default_rng(0), []
    for _ in range(studies):
        predictions = rank(LABELS, [predict(rng, LABELS, recall) for recall in recalls])
        optimism = Contest(LABELS, np.stack(predictions) == LABELS, GROUPS, resamples=300).optimism()
        assert optimism is not None
        assert optimism.interval.low < optimism.value < optimism.interval.high
        values.append(optimism.value)
    return float(np.mean(values))


def test_optimism_of_equal_classifiers_is_what_choosing_among_them_adds() -> None:
    found = np.random.default_rng(1).binomial(LESIONS, 0.7, size=(4000, 20, 3)) / LESIONS
    truth = found.mean(2).max(1).mean() - 0.7
    assert mean_optimism([0.7] * 20) == pytest.approx(truth, rel=0.12)


def test_optimism_is_none_where_one_is_clearly_better() -> None:
    assert mean_optimism([0.9, *[0.7] * 19], studies=10) == pytest.approx(0, abs=0.004)


def test_optimism_of_a_few_that_are_better_is_that_of_choosing_among_these() -> None:
    found = np.random.default_rng(1).binomial(LESIONS, 0.8, size=(4000, 3, 3)) / LESIONS
    truth = found.mean(2).max(1).mean() - 0.8
    assert mean_optimism([*[0.8] * 3, *[0.5] * 20]) == pytest.approx(truth, rel=0.25)


def test_where_nothing_is_chosen_or_nothing_left_out_there_is_no_optimism() -> None:
    rng = np.random.default_rng(0)
    assert Contest(LABELS, predict(rng, LABELS, 0.7)[None] == LABELS, GROUPS).optimism() is None
    labels = np.array([0, 0, 1, 2])
    predictions = np.array([[0, 1, 1, 2], [1, 1, 1, 2]])
    assert Contest(labels, predictions == labels, ["a", "a", "b", "c"]).optimism() is None


def test_fifty_trials_on_1500_rows_take_no_second() -> None:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, 1497)])
    groups = [str(lesion) for lesion in rng.integers(0, 1100, 1500)]
    predictions = np.stack(rank(labels, [predict(rng, labels, 0.7) for _ in range(50)]))
    start = time.process_time()
    contest = Contest(labels, predictions == labels, groups)
    contest.differences()
    contest.optimism()
    assert time.process_time() - start < 1
