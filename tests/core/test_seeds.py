"""The balanced sampler: how often it shows whom."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrainConfig
from core.seeds import epoch_order

LABELS = np.repeat([0, 1, 3], [90, 9, 1])  # a class without images has no share


def config(**changes: Any) -> TrainConfig:
    values = {"arch": "a", "image_size": 32, "lr": 0.1, "rebalance": 1.0, "loss": "cross_entropy"}
    return TrainConfig.from_dict(values | {"sampler": "balanced"} | changes)


def counts_of(order: np.ndarray) -> list[int]:
    return np.bincount(LABELS[order], minlength=4).tolist()


def test_at_full_strength_all_classes_are_shown_equally_often() -> None:
    order = epoch_order(np.arange(100), LABELS, config(), 0)
    assert sorted(counts_of(order)) == [0, 33, 33, 34]


@given(st.lists(st.integers(1, 60), min_size=2, max_size=7), st.floats(0, 1), st.integers(0, 5))
def test_every_class_has_its_share_of_an_epoch_and_every_row_its_share_of_the_class(
    counts: list[int], strength: float, epoch: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = config(rebalance=strength, batch_size=512)
    order = epoch_order(np.arange(len(labels)), labels, wanted, epoch)
    weights = np.array(counts) ** -strength
    expected_C = len(labels) * weights * counts / (weights * counts).sum()
    shown_C = np.bincount(labels[order], minlength=len(counts))
    assert (np.abs(shown_C - expected_C) < 1 + 1e-6).all()
    shown_N = np.bincount(order, minlength=len(labels))
    assert (np.abs(shown_N - (expected_C / counts)[labels]) < 1 + 1e-6).all()


def test_without_strength_each_row_is_shown_once() -> None:
    order = epoch_order(np.arange(100), LABELS, config(rebalance=0.0), 0)
    assert sorted(order) == list(range(100))


def test_what_is_drawn_is_a_function_of_seed_trial_and_epoch() -> None:
    def order(epoch: int = 0, **changes: Any) -> tuple[int, ...]:
        return tuple(epoch_order(np.arange(100), LABELS, config(**changes), epoch))

    assert order() == order()
    assert len({order(), order(1), order(seed=1), order(trial=1)}) == 4


def test_over_the_epochs_every_row_of_a_frequent_class_comes_along() -> None:
    shown = np.concatenate([epoch_order(np.arange(100), LABELS, config(), epoch) for epoch in range(30)])
    assert set(shown) == set(range(100))
