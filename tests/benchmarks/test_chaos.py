"""A short storm over a real search, and what is found when something was lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos import build_parser, main
from benchmarks.chaos_checks import check_artifacts, check_counts, untimed
from core.cli import run
from core.demo import write_demo
from search.run import build_parser as search_parser
from search.run import read_settings
from search.setup import Setup, prepare
from tests.search.test_run import SMALL, search


@pytest.mark.slow
def test_a_short_storm_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chaos.json"
    words = ["--workers", "2", "--trials", "3", "--kills", "2", "--epochs", "40", "--images", "120", "--seed", "1"]
    assert run(main, build_parser(), [*words, "--out", str(out)]) == 0, capsys.readouterr()
    assert capsys.readouterr().out.endswith("lost: 0\n")
    [row] = json.loads(out.read_text())["rows"]
    assert sum(row["blows"].values()) == 2
    assert row["lost"] == []


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    images = write_demo(tmp_path / "demo", images=80, width=96, height=72, workers=1)
    words = [str(word) for word in (*SMALL, "--data", images, "--studies", tmp_path / "studies", "--trials", 2)]
    words += ["--epochs", "1"]
    assert search(*words) == 0
    (settings,) = read_settings(search_parser().parse_args(words))
    return prepare(settings)


@pytest.mark.slow
def test_what_was_lost_is_found(setup: Setup) -> None:
    folder = setup.folder
    assert list(check_counts(setup, folder.read_trials(), 2)) == []
    assert list(check_artifacts(folder.read_trials())) == []
    assert list(check_counts(setup, folder.read_trials(), 3)) == ["2 trials are finished, and 3 were asked for"]
    assert "the folders have [0]" in next(check_counts(setup, folder.read_trials()[:1], 2))
    probs = folder.trial_folder(1) / "val_probs.npy"
    probs.write_bytes(probs.read_bytes()[:50])
    for record in folder.read_trials():
        record.model_file.unlink()
    losses = list(check_artifacts(folder.read_trials()))
    assert "val_probs.npy" in losses[0]
    assert losses[1] == "no trial kept its weights"


def test_histories_are_compared_without_times_and_with_classes_that_have_no_images() -> None:
    one = [{"epoch": 0, "val_recall_a": np.nan, "val_loss": 0.1, "elapsed_s": 1.0, "images_per_s": 9.0}]
    other = [{"epoch": 0.0, "val_recall_a": np.nan, "val_loss": 0.1, "elapsed_s": 2.0, "images_per_s": 8.0}]
    assert untimed(one) == untimed(other)
    assert untimed(one) != untimed([{**other[0], "val_loss": 0.1 + 1e-15}])
