"""Two image sizes are compared on the trials that both completed, by ranks and by regret."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.recording import Recording
from benchmarks.size_ranking import chance_regret, compare_sizes, compare_times, match, regret_of_choosing, spearman
from core.errors import InputError
from tests.fixtures.recorded import curve


def recording(*finals: float, image_size: int = 64) -> Recording:
    curves = [curve(number, final) for number, final in enumerate(finals)]
    return Recording(curves=curves, epochs=1, image_size=image_size, provenance={})


def test_rank_correlation_is_that_of_scipy() -> None:
    first, second = np.random.default_rng(0).integers(5, size=(2, 3, 12)).astype(float)
    expected = [spearmanr(one, other).statistic for one, other in zip(first, second, strict=True)]
    assert spearman(first, second) == pytest.approx(expected)
    assert np.isnan(spearman(np.ones((1, 4)), np.arange(4.0)[None])).all()


def test_only_complete_trials_of_equal_parameters_match() -> None:
    first = [curve(0, 0.5), curve(1, 0.5), curve(2, 0.5, depth=1), curve(3, 0.5), curve(4, 0.5, complete=False)]
    second = [curve(4, 0.5), curve(3, 0.5, complete=False), curve(2, 0.5, depth=2), curve(1, 0.6)]
    assert match(first, second) == [(first[1], second[3])]


def test_regret_of_a_small_size_and_of_chance() -> None:
    small, large = np.array([0.3, 0.2, 0.1]), np.array([0.5, 0.6, 0.8])
    assert [regret_of_choosing(small, large, k) for k in (1, 2, 3)] == pytest.approx([0.3, 0.2, 0])
    # Of one: the mean is 0.6333; of two: 0.6, 0.8 and 0.8.
    assert [chance_regret(large, k) for k in (1, 2, 3)] == pytest.approx([0.8 - 1.9 / 3, 0.8 - 2.2 / 3, 0])


def test_sizes_are_compared_from_the_smaller_to_the_larger() -> None:
    large, small = recording(0.6, 0.7, 0.8, 0.9, image_size=128), recording(0.1, 0.2, 0.4, 0.3, image_size=64)
    rows = compare_sizes(large, small, resamples=50, seed=0)
    assert {(row["small"], row["large"], row["n"]) for row in rows} == {(64, 128, 4)}
    assert rows[0]["rho"]["value"] == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert rows[0]["rho"]["low"] <= 0.8 <= rows[0]["rho"]["high"]
    assert rows[0]["seconds"] == 1
    assert [(row["k"], row["regret"]) for row in rows if "k" in row] == [(1, pytest.approx(0.1)), (3, 0)]
    assert [row["percentile"] for row in rows if "percentile" in row] == [80, 90, 95]


def test_a_search_of_small_images_pays_for_all_of_them_and_for_the_large_ones_that_it_needs() -> None:
    small, large = np.array([0.1, 0.2, 0.4, 0.3]), np.array([0.6, 0.7, 0.8, 0.9])
    # Percentile 95 is reached by the last trial alone, which the small images have second.
    times = compare_times(small, large, np.full(4, 1.0), np.full(4, 10.0), np.arange(4)[None])
    target, recall, ratio = list(times)[-1]
    assert (target, recall) == (95, pytest.approx(0.885))
    expected = (4 * 1 + 2 * 10) / (2.5 * 10)  # in a random order it comes between first and fourth
    assert ratio["median"] == pytest.approx(expected, rel=0.15)


def test_two_trials_in_common_are_not_compared() -> None:
    rows = compare_sizes(recording(0.5, 0.6), recording(0.5, 0.6, 0.7, image_size=128), resamples=5, seed=0)
    assert rows == [{"table": "sizes", "small": 64, "large": 128, "n": 2}]


def test_the_other_size_must_be_another() -> None:
    with pytest.raises(InputError, match="another image size, but got --other of 64 pixels"):
        compare_sizes(recording(0.5), recording(0.6), resamples=5, seed=0)
