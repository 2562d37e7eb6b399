"""Orders are sorted and timed as by hand."""

import numpy as np
import pytest

from benchmarks.order_replay import cheap_first, compare_orders, seconds_until
from tests.fixtures.recorded import Count, curve


@pytest.mark.parametrize(
    ("among", "count", "expected"),
    [
        (3, 3, [0, 2, 3, 1, 4]),  # the first three by price
        (5, 2, [1, 0, 3, 2, 4]),  # the two cheapest of all, then as before
        (5, 5, [1, 0, 4, 2, 3]),
        (9, 9, [1, 0, 4, 2, 3]),
        (5, 0, [3, 0, 2, 1, 4]),
    ],
)
def test_cheap_trials_move_to_the_front(among: int, count: int, expected: list[int]) -> None:
    orders, prices = np.array([[3, 0, 2, 1, 4]]), np.array([2.0, 1.0, 4.0, 5.0, 3.0])
    assert cheap_first(orders, prices, among=among, count=count).tolist() == [expected]


def test_equally_cheap_trials_keep_their_order() -> None:
    orders = np.array([[2, 0, 1], [1, 2, 0]])
    assert cheap_first(orders, np.ones(3), among=3, count=3).tolist() == orders.tolist()


def test_a_recall_is_reached_when_its_trial_ends() -> None:
    finals, costs = np.array([0.5, 0.7, 0.6]), np.array([1.0, 10.0, 100.0])
    assert seconds_until(0.6, np.array([[0, 1, 2], [2, 1, 0], [0, 2, 1]]), finals, costs).tolist() == [11, 100, 101]


def test_order_makes_no_difference_between_trials_alike() -> None:
    bar = Count()
    rows = compare_orders([curve(number, 0.5) for number in range(12)], resamples=4, seed=0, bar=bar)
    assert bar.n == 4
    assert len(rows) == 9
    assert all(row["ratio"] == {"median": 1, "low": 1, "high": 1} and row["random_s"] == 1 for row in rows)


def test_cheap_first_is_sooner_where_the_cheap_are_the_good() -> None:
    curves = [curve(number, 0.9 - 0.01 * number, epoch_s=1 + number, depth=number) for number in range(20)]
    rows = compare_orders(curves, resamples=20, seed=0, bar=Count())
    assert all(
        row["ratio"]["high"] < 1 for row in rows if row["order"] != "random start-up trials, shallow before deep"
    )
