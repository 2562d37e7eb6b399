"""Replayed searches end as they do by hand, and the cheapest careful pruner is recommended."""

from typing import Any

import pytest
from optuna.pruners import MedianPruner, NopPruner

from benchmarks.pruner_replay import (
    Fate,
    add_options,
    candidates,
    compare_pruners,
    draw_searches,
    pareto_front,
    recommend,
    replay,
    score,
)
from search.samplers import PRUNERS, build_pruner
from tests.fixtures.recorded import Count, curve

# After two trials have ended, a third needs 0.6 in its second epoch.
FIRST, SECOND = curve(0, 0.5, 0.6, 0.7, epoch_s=1), curve(1, 0.4, 0.6, 0.8, epoch_s=2)
LATE, EVEN = curve(2, 0.3, 0.5, 0.9, epoch_s=4), curve(3, 0.6, 0.6, 0.6, epoch_s=8)
BROKEN = curve(4, 0.95, epoch_s=16, complete=False)


def median() -> MedianPruner:
    return MedianPruner(n_startup_trials=2, n_warmup_steps=1)


def test_a_trial_worse_than_the_median_is_pruned_and_an_equal_one_is_not() -> None:
    fates = replay([FIRST, SECOND, LATE, EVEN], median(), epochs=3, name="search")
    assert fates == [Fate(3, True), Fate(3, True), Fate(2, False), Fate(3, True)]


def test_order_decides_who_is_pruned() -> None:
    fates = replay([LATE, SECOND, FIRST, EVEN], median(), epochs=3, name="search")
    assert fates == [Fate(3, True)] * 4  # the median of 0.5 and 0.6 is below all of them


def test_nobody_is_asked_after_the_last_epoch() -> None:
    late = MedianPruner(n_startup_trials=2, n_warmup_steps=2)
    assert replay([FIRST, SECOND, EVEN], late, epochs=3, name="search")[-1] == Fate(3, True)
    assert replay([FIRST, SECOND, EVEN], late, epochs=4, name="search")[-1] == Fate(3, False)


def test_a_broken_trial_is_kept_by_no_pruner_and_judges_nobody() -> None:
    fates = replay([BROKEN, FIRST, EVEN], NopPruner(), epochs=3, name="search")
    assert fates == [Fate(1, False), Fate(3, True), Fate(3, True)]
    assert replay([BROKEN, FIRST, LATE], median(), epochs=3, name="search")[-1] == Fate(3, True)


def test_regret_is_what_the_pruned_search_lacks() -> None:
    curves = [FIRST, SECOND, LATE, EVEN]
    lossy = score(curves, [Fate(3, True), Fate(3, True), Fate(2, False), Fate(3, True)])
    assert (lossy.epochs, lossy.elapsed_s, lossy.lost_top) == (11, 3 + 6 + 8 + 24, True)
    assert lossy.regret == pytest.approx(0.9 - 0.8)
    harmless = score([*curves, BROKEN], [*[Fate(3, True)] * 3, Fate(1, False), Fate(1, False)])
    assert (harmless.epochs, harmless.regret, harmless.lost_top) == (11, 0.0, False)


def test_pruners_are_compared_on_the_same_searches() -> None:
    searches, bar = [[FIRST, SECOND, LATE, EVEN], [LATE, SECOND, FIRST, EVEN]], Count()
    rows = compare_pruners(searches, {"none": NopPruner, "median": median}, epochs=3, bar=bar)
    assert bar.n == 4
    assert [row["pruner"] for row in rows] == ["median", "none"]
    assert rows[0]["epochs"] == 23 / 24
    assert rows[0]["seconds"] == (2 * 45 - 4) / (2 * 45)
    assert rows[0]["regret"] == pytest.approx({"mean": 0.05, "median": 0.05, "p90": 0.09})
    assert rows[0]["lost_top"] == 0.5
    assert [row["front"] for row in rows] == [True, True]
    assert [row["recommended"] for row in rows] == [False, True]


def test_every_choice_of_the_search_is_a_candidate() -> None:
    builders = candidates(10)
    options = add_options(builders, 10)
    assert set(options.values()) == set(PRUNERS)
    assert options["none"] == "none"
    for name, option in options.items():
        ours, theirs = builders[name](), build_pruner(option, epochs=10)
        assert type(ours) is type(theirs)
        assert vars(ours) == vars(theirs)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_short_trials_have_candidates_too(epochs: int) -> None:
    builders = candidates(epochs)
    add_options(builders, epochs)
    curves = [curve(number, *[0.5 + 0.01 * number] * epochs) for number in range(12)]
    for build in builders.values():
        assert replay(curves, build(), epochs=epochs, name="search")[0] == Fate(epochs, True)


def test_searches_are_a_function_of_the_seed() -> None:
    curves = [curve(number, 0.5) for number in range(9)]
    searches = draw_searches(curves, 4, 3, seed=1)
    assert searches == draw_searches(curves, 4, 3, seed=1)
    assert searches != draw_searches(curves, 4, 3, seed=2)
    assert all(len({one.number for one in search}) == 4 for search in searches)


def row(pruner: str, epochs: float, mean: float, lost_top: float) -> dict[str, Any]:
    return {"pruner": pruner, "epochs": epochs, "regret": {"mean": mean}, "lost_top": lost_top}


def test_the_cheapest_that_loses_little_is_recommended() -> None:
    none, greedy, unlucky = row("none", 1, 0, 0), row("greedy", 0.4, 0.0031, 0), row("unlucky", 0.4, 0, 0.06)
    assert recommend([greedy, unlucky, none]) == "none"
    assert recommend([greedy, unlucky, row("careful", 0.6, 0.003, 0.05), row("timid", 0.9, 0, 0), none]) == "careful"


def test_equals_share_the_front() -> None:
    assert pareto_front([(0.5, 0.1), (0.5, 0.1), (0.6, 0.1), (1.0, 0.0)]) == [True, True, False, True]
