"""Trials trained again on other rows: what steers them, what they look at, what they share."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.activations import Activations, open_activations
from core.archs import Arch, resolve_arch
from core.config import TrainConfig
from core.refit import REACHED, Refitter
from core.sources import Batch
from core.traindata import TrainData, TrainResult
from core.trainer import EpochResult, Trainer
from tests.doubles import ArraySource

CPU = torch.device("cpu")
ROWS = np.arange(90)
HELD_OUT = ROWS % 3 == 1
RECALLS = (0.4, 0.3, 0.5)


@pytest.fixture(autouse=True)
def _every_set_is_worth_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network this small is faster than any disk."""
    monkeypatch.setattr("core.disk_tier._LEAST_SAVED_S_PER_GB", 0.0)


class RecordingSource(ArraySource):
    """Writes down which rows it was asked for, call by call."""

    def __init__(self, images: torch.Tensor, labels: np.ndarray) -> None:
        super().__init__(images, labels)
        self.asked: list[set[int]] = []

    def _batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        self.asked.append(set(rows.tolist()))
        return super()._batches(rows, batch_size)


@pytest.fixture(scope="module")
def arch() -> Arch:
    return dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)


@pytest.fixture
def data() -> TrainData:
    rng = np.random.default_rng(0)
    labels = np.arange(90) // 3 % 3
    images = rng.integers(0, 120, (90, 3, 37, 37)).astype(np.uint8)
    images[np.arange(90), labels] += 100
    source = RecordingSource(torch.from_numpy(images), labels)
    return TrainData(
        source=source, labels=labels, train_rows=ROWS, val_rows=ROWS, classes=("a", "b", "c"), pixels="pixels"
    )


def refitter(arch: Arch, data: TrainData, *, seed: int = 0, activations: Activations | None = None) -> Refitter:
    made = Refitter(
        arch=arch,
        weights=None,
        data=data,
        device=CPU,
        seed=seed,
        activations=activations,
        checkpoint_share=math.inf,
    )
    made.turn_to(ROWS[~HELD_OUT], ROWS[HELD_OUT], seed=seed)
    return made


def config(arch: Arch, **changes: Any) -> TrainConfig:
    values = {"arch": arch.timm_name, "image_size": 32, "lr": 3e-3, "epochs": 6, "batch_size": 16, "unfreeze_depth": 1}
    return TrainConfig.from_dict(values | changes)


def assert_same(first: TrainResult, second: TrainResult) -> None:
    np.testing.assert_array_equal(first.val_probs, second.val_probs)
    np.testing.assert_array_equal(first.prior, second.prior)
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())


def test_the_last_epoch_is_taken_at_the_rates_of_the_whole_schedule(arch: Arch, data: TrainData) -> None:
    wanted = config(arch, patience=1)
    result = refitter(arch, data).refit(wanted, RECALLS)
    plain = Trainer(
        arch=arch,
        weights=None,
        data=dataclasses.replace(data, train_rows=ROWS[~HELD_OUT], val_rows=ROWS[HELD_OUT]),
        device=CPU,
        seed=0,
    )
    with torch.random.fork_rng(devices=[]):
        run = plain.prepare(wanted)
        for epoch in range(3):
            result_of_epoch = run.train_epoch(epoch, lambda images: None)
            run.state.history.append(result_of_epoch.to_row(data.classes))
        expected = run.predict_val(ROWS[HELD_OUT])
    assert (result.best_epoch, result.reason, len(result.history)) == (2, REACHED, 3)
    np.testing.assert_array_equal(result.val_probs, expected)
    assert result.prior.sum() == pytest.approx(1)


def test_held_out_rows_are_looked_at_once_after_the_last_epoch(arch: Arch, data: TrainData) -> None:
    assert isinstance(data.source, RecordingSource)
    made, asked_before = refitter(arch, data), []

    def look(result: EpochResult) -> None:
        asked_before.append(len(data.source.asked))  # type: ignore[attr-defined]

    made.refit(config(arch), RECALLS, on_epoch=look)
    held_out = set(ROWS[HELD_OUT].tolist())
    looks = [place for place, rows in enumerate(data.source.asked) if rows & held_out]
    assert looks == [len(data.source.asked) - 1]
    assert looks[0] >= asked_before[-2], "in an epoch before the last"
    assert data.source.asked[-1] == held_out


def test_a_plateau_is_where_the_trial_had_it(arch: Arch, data: TrainData) -> None:
    made, rates = refitter(arch, data), []
    recalls = (0.5, 0.4, 0.3, 0.45, 0.6)
    wanted = config(arch, schedule="plateau", warmup_epochs=0.0)
    made.refit(wanted, recalls, on_epoch=lambda result: rates.append(result.lr))
    np.testing.assert_allclose(rates, [3e-3, 3e-3, 3e-3, 1.5e-3, 1.5e-3])


def test_what_ran_before_changes_nothing(arch: Arch, data: TrainData, tmp_path: Path) -> None:
    """Other folds, seeds, and frozen noise that is remembered under another hash."""
    wanted = config(arch, unfreeze_depth=0, seed=5)
    expected = refitter(arch, data, seed=5).refit(wanted, RECALLS)
    activations = open_activations(device=CPU, memory=0, disk=10**9, folder=tmp_path)
    made = refitter(arch, data, activations=activations)
    made.refit(config(arch, unfreeze_depth=0), RECALLS)
    made.turn_to(ROWS[ROWS % 3 != 0], ROWS[ROWS % 3 == 0], seed=5)
    made.refit(wanted, RECALLS)
    made.turn_to(ROWS[~HELD_OUT], ROWS[HELD_OUT], seed=5)
    assert_same(made.refit(wanted, RECALLS), expected)


def test_what_one_fold_has_computed_serves_the_others(arch: Arch, data: TrainData, tmp_path: Path) -> None:
    assert isinstance(data.source, RecordingSource)
    made = refitter(arch, data, activations=open_activations(device=CPU, memory=10**9, disk=0, folder=tmp_path))
    made.refit(config(arch, unfreeze_depth=0), RECALLS)
    data.source.asked.clear()
    made.turn_to(ROWS[ROWS % 3 != 0], ROWS[ROWS % 3 == 0], seed=0)
    made.refit(config(arch, unfreeze_depth=0), RECALLS)
    assert data.source.asked == []


class PowerCut(Exception):
    """Ends a run in the middle of an epoch."""


def test_an_interrupted_run_continues_with_the_same_numbers(arch: Arch, data: TrainData, tmp_path: Path) -> None:
    made, steps = refitter(arch, data), 0
    expected = made.refit(config(arch), RECALLS)

    def cut(images: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 10:  # of four an epoch
            raise PowerCut

    checkpoint = tmp_path / "running.safetensors"
    with pytest.raises(PowerCut):
        made.refit(config(arch), RECALLS, checkpoint_file=checkpoint, on_step=cut)
    made.refit(config(arch, lr=1e-2), RECALLS)
    epochs: list[int] = []
    resumed = made.refit(
        config(arch), RECALLS, checkpoint_file=checkpoint, on_epoch=lambda result: epochs.append(result.epoch)
    )
    assert epochs == [2]
    assert_same(resumed, expected)
