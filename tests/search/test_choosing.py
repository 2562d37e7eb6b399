import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from core.artifacts import StudiesFolder, TrialRecord
from search.choosing import Verdict, judge_search
from search.summary import rank, table

LABELS = np.repeat(np.arange(3), 40)
GROUPS = [str(row) for row in range(len(LABELS))]


def predict(recall: float, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).random(len(LABELS)) < recall
    return np.where(found, LABELS, (LABELS + 1) % 3)


def record_of(root: Path, number: int, predictions: np.ndarray, **changes: object) -> TrialRecord:
    """A trial on disk that predicts so after correction by its prior, and not before."""
    prior = np.array([0.8, 0.1, 0.1])
    corrected = np.full((len(predictions), 3), 0.3)
    corrected[np.arange(len(predictions)), predictions] = 0.4
    probs = (corrected * prior / (corrected * prior).sum(1, keepdims=True)).astype(np.float32)
    made = TrialRecord(
        number=number,
        state="complete",
        folder=Path(),
        config={"lr": 0.001},
        recall=float(np.mean([(predictions == LABELS)[c == LABELS].mean() for c in range(3)])),
        recall_interval=(0.0, 1.0),
        recall_argmax=0.5,
        best_epoch=1,
        prior=tuple(prior.tolist()),
        elapsed_s=3.5,
    )
    study = StudiesFolder(root).study("mobilenet")
    history = [{"epoch": 0, "val_recall": 0.5}]
    return study.write_trial(dataclasses.replace(made, **changes), history=history, val_probs_NC=probs, model=None)


def test_trials_that_may_be_as_good_as_the_best_are_marked_as_tied(tmp_path: Path) -> None:
    best = predict(0.8, 0)
    twin = np.where(np.arange(len(best)) == np.flatnonzero(best == LABELS)[0], (LABELS + 1) % 3, best)
    records = [record_of(tmp_path, 3, best), record_of(tmp_path, 7, predict(0.4, 1)), record_of(tmp_path, 9, twin)]
    pruned = record_of(tmp_path, 5, best, state="pruned", recall=0.99)
    ranked = rank([*records, pruned])
    verdict = judge_search(ranked, LABELS, GROUPS, 3)
    assert verdict is not None
    assert verdict.numbers == (3, 9, 7)
    assert verdict.tied == (3, 9)
    assert [verdict.mark(number) for number in verdict.numbers] == ["best", "tied", ""]
    assert verdict.explain_ties() == (
        "Tied with trial 3, as the 95 % interval of the paired difference includes 0, are 1 of 2 others: 9."
    )
    lines = table(ranked, ["lr"], verdict).splitlines()
    assert [line.split()[5] if "tied" in line or "best" in line else "" for line in lines[1:]] == ["best", "tied", ""]
    facts = verdict.optimism_to_dict()
    assert facts is not None
    assert (facts["trials"], facts["resamples"]) == (3, 1000)
    assert verdict.explain_optimism().startswith("Having been chosen out of 3 makes the recall of trial 3 about ")


def test_a_single_trial_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    verdict = judge_search([record_of(tmp_path, 3, predict(0.8, 0))], LABELS, GROUPS, 3)
    assert verdict is not None
    assert verdict.explain_ties() == "Trial 3 is the only one, so that there is nothing to compare it with."
    assert (verdict.optimism_to_dict(), verdict.explain_optimism()) == (None, "")


def test_without_trials_there_is_no_verdict() -> None:
    assert judge_search([], LABELS, GROUPS, 3) is None


def test_many_ties_are_counted_and_some_of_them_named() -> None:
    predictions = [predict(0.8, 0)] * 20
    verdict = Verdict.of(list(range(20)), LABELS, np.stack(predictions) == LABELS, GROUPS)
    assert "are 19 of 19 others: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 7 more." in verdict.explain_ties()


def test_a_trial_with_probabilities_of_other_rows_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, whole = record_of(tmp_path, 3, predict(0.8, 0)), record_of(tmp_path, 4, predict(0.7, 1))
    np.save(damaged.folder / "val_probs.npy", np.ones((119, 3), np.float32) / 3)
    verdict = judge_search([damaged, whole], LABELS, GROUPS, 3)
    assert verdict is not None
    assert verdict.numbers == (4,)
    assert re.search(r"trial 3 is compared with none: .* must be of shape \(120, 3\), a row for each", caplog.text)
    assert judge_search([damaged], LABELS, GROUPS, 3) is None
