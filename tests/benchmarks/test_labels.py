"""What images without labels add: the table of known runs, the labelled lesions, and one whole run on the smallest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import labels
from benchmarks.labels_table import ARMS, BASE, SELF, SEMI, compare, draw, markdown, verdict
from benchmarks.setup import Task, open_task
from core import cli
from core.dataspec import DataSpec
from core.demo import write_demo
from core.splits import joined_groups


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=160, width=64, height=48, workers=1)


def recorded(seed: int, arm: str, recall: float, share: float = 0.1, reason: str = "") -> dict[str, Any]:
    run = {"seed": seed, "share": share, "arm": arm, "reason": reason, "train_images": 70}
    return run if reason else {**run, "recall": recall}


RUNS = [
    *(recorded(seed, BASE, recall) for seed, recall in enumerate((0.5, 0.6, 0.7))),
    *(recorded(seed, SELF, recall) for seed, recall in enumerate((0.54, 0.65, 0.75))),
    *(recorded(seed, SEMI, recall) for seed, recall in enumerate((0.40, 0.65, 0.70))),
    recorded(0, BASE, 0.8, share=1.0),
    recorded(0, SELF, 0.0, share=1.0, reason="the loss was not finite"),
]


def test_gains_are_paired_within_seeds_and_say_no_more_than_their_interval() -> None:
    rows = compare(RUNS, [0.1, 1.0])
    base, self_supervised, semi_supervised = rows[:3]
    assert (base["recall"], base["gain"], verdict(base)) == (pytest.approx(0.6), None, "")
    assert self_supervised["gain"] == pytest.approx(0.14 / 3)
    assert verdict(self_supervised) == "helps"
    assert semi_supervised["gain"] == pytest.approx(-0.05 / 3)
    assert verdict(semi_supervised) == "no difference shown"
    assert verdict({**base, "gain": -0.2, "gain_interval": (-0.3, -0.1)}) == "harms"
    lines = markdown(rows).splitlines()
    assert lines[3].startswith("| 10 % | 70 | self-supervised | 3 | 64.7 (")
    assert lines[-1] == "| 100 % | 70 | first weights | 1 | 80.0 |  |  |", "failed runs have no row"


def test_the_plot_shows_what_there_is(tmp_path: Path) -> None:
    draw(compare(RUNS, [0.1, 1.0]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def task(images: Path) -> Task:
    return open_task(DataSpec((images,)), "test_efficientnet", image_size=32, weights="none")


def test_few_labels_are_whole_lesions_of_every_class_and_among_more_labels(task: Task) -> None:
    few, some, all_ = (labels.labelled_rows(task, share) for share in (0.01, 0.3, 1.0))
    assert set(task.manifest.labels[few]) == set(range(7))
    assert set(few) < set(some) < set(all_)
    np.testing.assert_array_equal(all_, task.split.train)
    groups = joined_groups(task.manifest)
    assert not set(groups[few]) & set(groups[np.setdiff1d(task.split.train, few)])


def test_wrong_shares_and_places_are_refused(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(labels.main, labels.build_parser(), ["--data", str(images), "--shares", "0"]) == 2
    assert "`--shares` must be in (0, 1], but got --shares 0." in capsys.readouterr().err
    assert cli.run(labels.main, labels.build_parser(), []) == 2
    assert "`--data` must be one folder, but got 0 places" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_command_again_adds_nothing(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", images, "--arch", "test_efficientnet", "--image-size", 32, "--weights", "none", "--shares", 0.5]
    words += ["--seeds", 1, "--epochs", 1, "--pretrain-epochs", 1, "--recording", tmp_path / "runs.json"]
    words += ["--out", tmp_path / "table.json", "--device", "cpu"]
    for missing in (3, 0):
        assert cli.run(labels.main, labels.build_parser(), [str(word) for word in words]) == 0
        output = capsys.readouterr().out
        assert f"3 runs, of which {missing} are missing" in output
        assert "ratio: " in output.splitlines()[-1]
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [run["arm"] for run in runs] == list(ARMS)
    assert (tmp_path / "table.png").is_file()
