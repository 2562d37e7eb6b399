"""Replayed searches end as they do by hand, and the tables say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.pruners import MedianPruner, NopPruner
from scipy.stats import spearmanr

from benchmarks.pruning import (
    Curve,
    Fate,
    Recording,
    add_options,
    build_parser,
    candidates,
    chance_regret,
    cheap_first,
    compare_orders,
    compare_pruners,
    compare_sizes,
    curve_of,
    draw_searches,
    epochs_of_patience,
    main,
    match,
    pareto_front,
    read_curves,
    recommend,
    regret_of_choosing,
    replay,
    score,
    seconds_until,
    spearman,
)
from core.cli import run
from core.errors import InputError
from search.samplers import PRUNERS, build_pruner


class Count:
    """A progress bar that only counts."""

    def __init__(self) -> None:
        self.n = 0

    def advance(self, n: int = 1) -> None:
        self.n += n


def curve(number: int, *recalls: float, epoch_s: float = 1.0, depth: int = 0, complete: bool = True) -> Curve:
    return Curve(
        number=number,
        params={"unfreeze_depth": depth},
        recalls=recalls,
        elapsed_s=tuple(epoch_s * (epoch + 1) for epoch in range(len(recalls))),
        complete=complete,
    )


def recording(*finals: float, image_size: int = 64) -> Recording:
    curves = [curve(number, final) for number, final in enumerate(finals)]
    return Recording(curves=curves, epochs=1, image_size=image_size, provenance={})


def trial(number: int, *recalls: float, reason: str = "") -> dict[str, Any]:
    return {
        "number": number,
        "params": {"unfreeze_depth": number % 3},
        "recall": list(recalls),
        "elapsed_s": [2.0 * (epoch + 1) for epoch in range(len(recalls))],
        "reason": reason,
    }


def write_curves(path: Path, trials: list[dict[str, Any]], *, epochs: int, image_size: int = 64) -> Path:
    fixed = {"epochs": epochs, "image_size": image_size}
    path.write_text(json.dumps({"provenance": {"fixed": fixed}, "trials": trials}))
    return path


# After two trials have ended, a third needs 0.6 in its second epoch.
FIRST, SECOND = curve(0, 0.5, 0.6, 0.7, epoch_s=1), curve(1, 0.4, 0.6, 0.8, epoch_s=2)
LATE, EVEN = curve(2, 0.3, 0.5, 0.9, epoch_s=4), curve(3, 0.6, 0.6, 0.6, epoch_s=8)
BROKEN = curve(4, 0.95, epoch_s=16, complete=False)


def median() -> MedianPruner:
    return MedianPruner(n_startup_trials=2, n_warmup_steps=1)


@pytest.mark.parametrize(
    ("recalls", "patience", "epochs"),
    [
        ([0.5, 0.6, 0.7], 1, None),
        ([0.5, 0.5, 0.5], 2, 3),  # as good is no gain
        ([0.5, 0.4, 0.6, 0.5, 0.55, 0.9], 2, 5),
        ([0.5, 0.4, 0.3], 3, None),
        ([0.5, 0.4, 0.3], 0, None),
        ([], 1, None),
    ],
)
def test_patience_ends_a_trial_after_as_many_epochs_without_gain(
    recalls: list[float], patience: int, epochs: int | None
) -> None:
    assert epochs_of_patience(recalls, patience) == epochs


def test_a_trial_that_patience_ends_before_its_loss_breaks_is_complete() -> None:
    ended = curve_of(trial(0, 0.5, 0.4, 0.4, reason="NaN"), 2)
    assert (ended.recalls, ended.elapsed_s, ended.final) == ((0.5, 0.4, 0.4), (2.0, 4.0, 6.0), 0.5)
    broken = curve_of(trial(0, 0.5, 0.4, 0.4, reason="NaN"), 3)
    assert (len(broken.recalls), broken.complete, broken.final) == (3, False, 0.0)


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
    assert [(row["small"], row["large"], row["n"]) for row in rows] == [(64, 128, 4)] * 3
    assert rows[0]["rho"]["value"] == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert rows[0]["rho"]["low"] <= 0.8 <= rows[0]["rho"]["high"]
    assert rows[0]["seconds"] == 1
    assert [(row["k"], row["regret"]) for row in rows[1:]] == [(1, pytest.approx(0.1)), (3, 0)]


def test_two_trials_in_common_are_not_compared() -> None:
    rows = compare_sizes(recording(0.5, 0.6), recording(0.5, 0.6, 0.7, image_size=128), resamples=5, seed=0)
    assert rows == [{"table": "sizes", "small": 64, "large": 128, "n": 2}]


def test_the_other_size_must_be_another() -> None:
    with pytest.raises(InputError, match="another image size, but got --other of 64 pixels"):
        compare_sizes(recording(0.5), recording(0.6), resamples=5, seed=0)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a file that exists, but got .*none\.json\. Write one"):
        read_curves(tmp_path / "none.json", 4)
    (tmp_path / "foreign.json").write_text('{"trials": []}')
    with pytest.raises(InputError, match=r"written by benchmarks\.curves, but it lacks 'provenance'"):
        read_curves(tmp_path / "foreign.json", 4)
    broken = write_curves(tmp_path / "broken.json", [trial(0, reason="NaN")], epochs=2)
    with pytest.raises(InputError, match="must hold a complete trial, but it holds none"):
        read_curves(broken, 4)


def test_command_prints_three_tables_and_ends_with_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(n, *(0.4 + 0.02 * n + 0.03 * epoch for epoch in range(4))) for n in range(7)]
    trials.append(trial(7, reason="the loss was not finite"))
    curves = write_curves(tmp_path / "64.json", trials, epochs=4)
    other = write_curves(tmp_path / "128.json", trials, epochs=4, image_size=128)
    out = tmp_path / "pruning.json"
    small = ["--curves", str(curves), "--out", str(out), "--replays", "2", "--resamples", "5"]

    assert run(main, build_parser(), [*small, "--other", str(other)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert "8 recorded trials of 4 epochs at 64 pixels, patience 4; 2 replays of 8 trials" in printed
    assert "Spearman's rho of the best recalls: 1.00 (1.00 to 1.00)" in printed
    assert printed.splitlines()[-1] == f"ratio: {content['ratio']:.3g}"
    assert {row["table"] for row in content["rows"]} == {"setting", "pruners", "order", "sizes"}
    shipped = [row for row in content["rows"] if row.get("ships")]
    assert [(row["option"], row["epochs"]) for row in shipped] == [("median", content["ratio"])]
    assert (content["rows"][0]["recorded"], content["rows"][0]["complete"]) == (8, 7)

    assert run(main, build_parser(), small) == 0
    assert "no second size has been recorded" in capsys.readouterr().out
