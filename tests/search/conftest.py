"""A tiny study on synthetic images, for tests of single trials and of the loop over them."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution

from core.archs import resolve_arch
from core.artifacts import StudiesFolder, TrialRecord
from core.config import TrainConfig
from core.demo import write_demo
from core.trainer import EpochResult, TrainData, Trainer
from search.asking import Asking
from search.crew import Crew
from search.file_leases import FileLeases
from search.loop import Turn, next_turn, run_turn
from search.objective import Objective
from search.pictures import Pictures
from search.space import Space
from search.storage import open_storage, open_study
from tests.doubles import ArraySource

CPU = torch.device("cpu")
LR = Space(distributions={"lr": FloatDistribution(1e-4, 1e-2, log=True)}, known_good={"lr": 1e-3})


class RecordingWatcher:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int]] = []
        self.done: list[tuple[int, str, str]] = []
        self.number = -1
        self.on_step: Any = lambda: None

    def check(self) -> None:
        """Nobody asks this watcher's search to stop between trials."""

    def trial_starts(self, number: int, config: TrainConfig, epochs_done: int) -> None:
        self.number = number

    def step_done(self, images: int) -> None:
        self.on_step()

    def epoch_done(self, result: EpochResult) -> None:
        self.epochs.append((self.number, result.epoch))

    def trial_done(self, number: int, state: str, record: TrialRecord | None, reason: str) -> None:
        self.done.append((number, state, reason))


@pytest.fixture(scope="session")
def tiny_trainer() -> Trainer:
    """Two classes that differ in colour, 32 pixels, a network of 0.4 million weights: an epoch takes 50 ms."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(0, 150, (64, 3, 37, 37)).astype(np.uint8)
    images[np.arange(64), labels] += 60
    source = ArraySource(torch.from_numpy(images), labels)
    data = TrainData(
        source=source, labels=labels, train_rows=np.arange(40), val_rows=np.arange(40, 64), classes=("a", "b")
    )
    arch = dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)
    return Trainer(arch=arch, weights=None, data=data, device=CPU, seed=0, checkpoint_share=math.inf)


@pytest.fixture
def watcher() -> RecordingWatcher:
    return RecordingWatcher()


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    made = open_study(open_storage(StudiesFolder(tmp_path)), "tiny")
    made.pruner = optuna.pruners.NopPruner()
    return made


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """A worker of the study, alone."""
    with Crew(FileLeases(StudiesFolder(tmp_path).study("tiny")), device="cpu") as alone:
        yield alone


def asks_nothing(study: optuna.Study) -> Asking:
    """For trials that have their parameters."""
    return Asking(study=study, space=LR, sampler="random", seed=lambda number: number)


def run_trial(objective: Objective, study: optuna.Study, crew: Crew, trial: optuna.Trial) -> None:
    """Runs a trial that has just been asked for."""
    with crew.leases.lock():
        hold = crew.take(trial.number)
    run_turn(study, objective, asks_nothing(study), Turn(trial, hold, False))


def go_on(objective: Objective, study: optuna.Study, crew: Crew) -> None:
    """Runs the trial that was left."""
    known = len(study.trials)
    with crew.leases.lock():
        turn = next_turn(study, crew, asks_nothing(study), n_trials=99)
    assert turn is not None
    assert len(study.trials) == known, "no trial was left"
    run_turn(study, objective, asks_nothing(study), turn)


@pytest.fixture
def objective(tmp_path: Path, tiny_trainer: Trainer, watcher: RecordingWatcher) -> Objective:
    depth, data = tiny_trainer.model.max_unfreeze_depth, tiny_trainer.data
    return Objective(
        folder=StudiesFolder(tmp_path).study("tiny"),
        pictures=Pictures(tmp_path / "artifacts", data.labels[data.val_rows], data.classes, drawer="here"),
        trainer=tiny_trainer,
        groups=tuple(str(row) for row in data.val_rows),
        fixed={"arch": tiny_trainer.arch.timm_name, "image_size": 32, "epochs": 2, "unfreeze_depth": depth},
        keep=2,
        watcher=watcher,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=96, height=72, workers=1)
