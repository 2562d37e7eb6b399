"""benchmarks.voting compares ways of voting in folders of studies, without weights and without the test split."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.voting import DEFAULT, ONE_OF_EACH, build_parser, main, votes_of
from core.cli import run
from core.metrics import correct_prior


def spoil(studies: Any, name: str, number: int, wrong: int) -> None:
    """Has a trial be wrong about some of the validation rows, each trial about others."""
    file = studies.folder.study(name).root / f"trial-{number:04d}" / "val_probs.npy"
    probs_NC = np.load(file)
    rows = np.arange(number * wrong, (number + 1) * wrong) % len(probs_NC)
    probs_NC[rows] = np.roll(probs_NC[rows], 1, axis=1)
    np.save(file, probs_NC)


@pytest.fixture
def two(tmp_path: Path, make_studies: Callable[[Path], Any], trial: Any) -> Path:
    """Two architectures with three trials each, none of which keeps its weights."""
    studies = make_studies(tmp_path / "studies")
    for name, arch in (("a", "test_efficientnet"), ("b", "test_resnet")):
        studies.add(name, [trial(0.9 - 0.01 * n, keeps_model=False) for n in range(3)], arch=arch)
        for number in range(3):
            spoil(studies, name, number, wrong=3)
    return studies.root


def test_mistakes_that_are_not_shared_are_outvoted(two: Path) -> None:
    recalls = {row["vote"]: row["macro_recall"] for row in votes_of(two)}
    assert recalls["mean of 3"] == recalls["geometric of 3"] == 1
    assert recalls["test_efficientnet alone"] < 1
    assert {row["trials"] for row in votes_of(two) if row["vote"] == ONE_OF_EACH} == {2}


def test_a_single_trial_has_its_own_recall(two: Path) -> None:
    from benchmarks.voting import best_trials
    from core.artifacts import StudiesFolder
    from ensemble.parts import read_validation
    from ensemble.studies import read_studies

    (member, *_) = best_trials(two)
    part, probs_MNC = read_validation([member])
    predicted = correct_prior(probs_MNC[0], np.asarray(member.prior)).argmax(1)
    expected = np.mean([(predicted[part.labels == c] == c).mean() for c in np.unique(part.labels)])
    (row,) = [row for row in votes_of(two) if row["vote"] == "test_efficientnet alone"]
    assert row["macro_recall"] == pytest.approx(expected)
    assert len(read_studies(StudiesFolder(two))) == 2


def test_the_command_writes_every_folder_and_ends_with_the_ratio(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "voting.json"
    other = shutil.copytree(two, tmp_path / "other")
    assert run(main, build_parser(), [str(two), str(other), "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert {row["studies"] for row in content["rows"]} == {two.name, "other"}
    recalls = {row["vote"]: row["macro_recall"] for row in content["rows"]}
    assert content["ratio"] == pytest.approx(recalls[DEFAULT] / recalls[ONE_OF_EACH])
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")


def test_a_folder_that_is_named_twice_is_refused(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, build_parser(), [str(two), f"{two}/../{two.name}"]) == 2
    assert "but got one of them twice" in capsys.readouterr().err


def test_a_folder_without_complete_trials_is_refused(
    tmp_path: Path, make_studies: Callable[[Path], Any], trial: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = make_studies(tmp_path / "studies")
    studies.add("a", [trial(0.9, state="pruned", keeps_model=False)])
    assert run(main, build_parser(), [str(studies.root), "--out", str(tmp_path / "out.json")]) == 2
    assert "must hold complete trials" in capsys.readouterr().err
