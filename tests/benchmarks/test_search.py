"""The plain search and its comparison with ours, on few images of the smallest of networks."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import search
from benchmarks.setup import Task, open_task
from core import cli
from core.dataspec import DataSpec
from core.demo import write_demo
from search.space import build_space

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=96, height=72, workers=1)


@pytest.fixture(scope="module")
def task(images: Path) -> Task:
    return open_task(DataSpec((images,)), "test_efficientnet", image_size=32, weights="none", train_images=32)


def test_the_plain_search_judges_and_ends_trials_as_ours(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import plain_search

    curves = iter([[0.1, 0.2, 0.3], [0.5, 0.4, 0.4], [0.2, 0.1, 0.1]])

    class Recorded(plain_search.PlainTrainer):
        """Replays curves."""

        def train(self, config: object, on_epoch: object = None) -> list[float]:
            recalls: list[float] = []
            for epoch, recall in enumerate(next(curves)):
                recalls.append(recall)
                if on_epoch(epoch, recall):  # type: ignore[operator]
                    break
            return recalls

    space = build_space("test_efficientnet", 5, parameters=400_000, pretrained=True)
    trainer = Recorded(task, torch.device("cpu"), workers=0)
    trials = plain_search.plain_search(trainer, space, n_trials=3, epochs=3, patience=1, seed=7, pruner="none")

    assert [trial.recalls for trial in trials] == [[0.1, 0.2, 0.3], [0.5, 0.4], [0.2, 0.1]]
    assert trials[0].params == space.known_good
    assert all(trial.params.keys() == space.distributions.keys() for trial in trials)
    assert trials[1].params != trials[2].params


def test_the_plain_trainer_learns_what_ours_does(task: Task) -> None:
    from benchmarks.plain_search import PlainTrainer

    trainer = PlainTrainer(task, torch.device("cpu"), workers=0)
    recalls = trainer.train(task.config(2, lr=1e-3, batch_size=16, unfreeze_depth=2))
    assert len(recalls) == 2
    assert all(0 <= recall <= 1 for recall in recalls)
    assert len(trainer.train(task.config(2, lr=1e-3, batch_size=16, unfreeze_depth=2), lambda *epoch: True)) == 1


@pytest.mark.slow
def test_both_parts_of_the_comparison(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--data", images, "--arch", "test_efficientnet", "--weights", "none", "--image-size", 32]
    arguments += ["--train-images", 32, "--epochs", 1, "--trials", 2, "--depths", 0, 2, "--workers", 1]
    arguments += ["--device", "cpu", "--out", tmp_path / "out.json"]

    cli.run(search.main, search.build_parser(), list(map(str, arguments)))

    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    depths = [row for row in rows if "depth" in row]
    (pair,) = [row for row in rows if "target" in row]
    assert [row["depth"] for row in depths] == [0, 2]
    assert all(row["allowed"] > 1 for row in depths)
    assert pair["target"] == min(max(recall for _, recall in climb) for climb in pair["climbs"].values())
    assert len(pair["searches"]["ours"]) == len(pair["searches"]["plain"]) == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")
