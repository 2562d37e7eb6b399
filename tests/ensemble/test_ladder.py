import json

import numpy as np
import pytest

from core.metrics import LesionBootstrap, bootstrap_interval, bootstrap_recalls
from ensemble.ladder import climb
from ensemble.parts import Part


def part_of(labels_N: np.ndarray) -> Part:
    names = tuple(str(n) for n in range(len(labels_N)))
    return Part(images=names, groups=names, labels=labels_N)


def certain(predictions_N: np.ndarray) -> np.ndarray:
    return 0.7 * np.eye(3)[predictions_N] + 0.1


def test_gain_is_the_paired_difference_to_the_step_before() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 300)
    first_N = np.where(rng.random(300) < 0.6, labels_N, (labels_N + 1) % 3)
    second_N = np.where(rng.random(300) < 0.3, labels_N, first_N)  # right wherever the first is
    part = part_of(labels_N)
    bootstrap = LesionBootstrap(labels_N, part.groups, 3)
    one, two = climb([("one", certain(first_N)), ("two", certain(second_N))], part, bootstrap)
    assert (one.gain, one.gain_interval) == (None, None)
    assert two.gain == pytest.approx(two.recall - one.recall)
    assert one.interval == bootstrap_interval(labels_N, first_N, part.groups, 3)
    both = (first_N, second_N)
    recalls = [bootstrap_recalls(labels_N, predictions_N, part.groups, 3).mean(1) for predictions_N in both]
    np.testing.assert_allclose(two.gain_interval, np.quantile(recalls[1] - recalls[0], [0.025, 0.975]))
    # Pairs tell what two intervals that overlap don't.
    assert two.gain_interval is not None
    assert two.gain_interval.low > 0
    assert two.gain_interval.high - two.gain_interval.low < (one.interval.high - one.interval.low) / 1.2


def test_step_that_changes_no_decision_gains_exactly_nothing() -> None:
    labels_N = np.array([0, 1, 2] * 10)
    part = part_of(labels_N)
    steps = [("vote", certain(labels_N)), ("temperature", 0.1 * certain(labels_N) + 0.3)]
    _, rung = climb(steps, part, LesionBootstrap(labels_N, part.groups, 3))
    assert (rung.gain, rung.gain_interval) == (0, (0, 0))
    assert json.loads(json.dumps(rung.to_dict(), allow_nan=False))["gain"] == 0
