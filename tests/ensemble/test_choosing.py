import numpy as np
import pytest

from ensemble.choosing import Chooser, Way, ways_to_vote
from ensemble.crossfit import Truth
from ensemble.fitting import fit_rule
from ensemble.weighting import Candidates


def candidates(skills: list[float], *, rows: int = 600, seed: int = 0, noise: float = 1.0) -> Candidates:
    rng = np.random.default_rng(seed)
    labels_N = np.concatenate([np.arange(3), rng.integers(0, 3, rows - 3)])
    logits_MNC = noise * rng.normal(size=(len(skills), rows, 3)) + np.array(skills)[:, None, None] * np.eye(3)[labels_N]
    probs_MNC = np.exp(logits_MNC) / np.exp(logits_MNC).sum(axis=2, keepdims=True)
    truth = Truth.of(labels_N, [str(n) for n in range(rows)], 3)
    priors_MC = np.full((len(skills), 3), 1 / 3)
    return Candidates(probs_MNC=probs_MNC, priors_MC=priors_MC, archs=["a"] * len(skills), truth=truth)


def everything(trials: Candidates) -> np.ndarray:
    return np.ones(len(trials.truth.labels_N), bool)


def test_simpler_ways_come_first() -> None:
    assert ways_to_vote("mean", 3, 5) == [Way("mean", 3)]
    assert ways_to_vote("geometric", None, 4) == [Way("geometric", k) for k in (1, 2, 3, 4)]
    assert ways_to_vote("mean", None, 50)[-1] == Way("mean", 21)
    names = [way.name for way in ways_to_vote("auto", None, 3)]
    assert names == ["mean"] * 3 + ["geometric"] * 3 + ["weights"] * 3 + ["greedy"]
    assert ways_to_vote("greedy", 2, 2) == [Way("greedy", 2)]


def test_more_members_are_taken_where_they_help_by_more_than_noise() -> None:
    trials = candidates([1.0] * 8, rows=2000)
    chosen = Chooser(trials, ways_to_vote("mean", None, trials.most)).choose(everything(trials))
    assert chosen.top_k > 1


def test_one_member_is_taken_where_others_add_nothing() -> None:
    trials = candidates([3.0, 0.0, 0.0, 0.0])
    chosen = Chooser(trials, ways_to_vote("auto", None, trials.most)).choose(everything(trials))
    assert chosen == Way("mean", 1)


def test_recall_of_greedy_selection_out_of_fold_is_not_inflated() -> None:
    """Among many members that know nothing, selection finds some that fit by chance."""
    trials = candidates([0.0] * 40, rows=300)
    way = Way("greedy", 40)
    truth = trials.truth
    weights_M = trials.weigh("greedy", 40, everything(trials))
    inside = truth.recalls((np.tensordot(weights_M, trials.corrected_MNC, 1).argmax(1) == truth.labels_N)[None])[0]
    told = {row["vote"]: row["macro_recall"] for row in Chooser(trials, [Way("mean", 1), way]).compared()}
    assert inside > 0.42
    assert told["greedy"] == pytest.approx(1 / 3, abs=0.07)


def test_what_was_compared_says_what_was_taken() -> None:
    trials = candidates([1.0, 0.9, 0.8], rows=300)
    chooser = Chooser(trials, ways_to_vote("auto", None, 3))
    rows = chooser.compared()
    assert [row["chosen"] for row in rows].count(True) == 1
    taken = next(row for row in rows if row["chosen"])
    way = chooser.choose(everything(trials))
    assert (taken["vote"], taken["top_k"]) == (way.name, None if way.name == "greedy" else way.top_k)
    for row in rows:
        low, high = row["macro_recall_interval"]
        assert low <= row["macro_recall"] <= high
    assert Chooser(trials, [Way("mean", 1)]).compared() == []


def test_each_fold_chooses_its_way_without_itself() -> None:
    trials = candidates([1.0] * 6, rows=300)
    chooser = Chooser(trials, ways_to_vote("auto", None, trials.most))
    fit_N, held_N = next(iter(trials.truth.held_out()))
    before = chooser.choose(fit_N)
    assert chooser._hits_KN is not None
    chooser._hits_KN[:, held_N] = np.arange(len(chooser.ways))[:, None] == 5  # would be taken, were it looked at
    assert chooser.choose(fit_N) == before


def test_ways_fit_a_rule() -> None:
    trials = candidates([1.0, 0.9, 0.8, 0.7], rows=300)
    for way in ways_to_vote("auto", 2, trials.most):
        fit = fit_rule(trials.probs_MNC, trials.priors_MC, trials.truth, Chooser(trials, [way]).weigh)
        assert fit.rule.vote == way.vote
        assert fit.weights_M.sum() == pytest.approx(1)
        np.testing.assert_allclose(fit.probs_NC.sum(axis=1), 1)
