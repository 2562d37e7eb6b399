"""Activations of the frozen part: remembered or computed, the numbers are the same."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.activations import Activations, MemoryTier, open_activations
from core.archs import Arch, resolve_arch
from core.config import TrainConfig
from core.disk_tier import DiskTier
from core.sources import Batch
from core.trainer import TrainData, Trainer, TrainResult
from tests.doubles import ArraySource

CPU = torch.device("cpu")
GB = 10**9
MEASURED = 16  # images of which the size and time of an activation are told, once a depth


class CountingSource(ArraySource):
    """Counts the images that were asked for."""

    given = 0

    def _batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        self.given += len(rows)
        return super()._batches(rows, batch_size)


@pytest.fixture(autouse=True)
def _every_set_is_worth_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network this small is faster than any disk."""
    monkeypatch.setattr("core.disk_tier._LEAST_SAVED_S_PER_GB", 0.0)


@pytest.fixture(scope="module")
def arch() -> Arch:
    return dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)


def make_data() -> TrainData:
    rng = np.random.default_rng(0)
    labels = np.arange(70) % 3
    images = rng.integers(0, 120, (70, 3, 37, 37)).astype(np.uint8)
    images[np.arange(70), labels] += 100
    rows = rng.permutation(70)
    source = CountingSource(torch.from_numpy(images), labels)
    return TrainData(
        source=source, labels=labels, train_rows=rows[:49], val_rows=rows[49:], classes=("a", "b", "c"), pixels="p"
    )


def make_trainer(arch: Arch, activations: Activations | None) -> Trainer:
    return Trainer(arch=arch, weights=None, data=make_data(), device=CPU, seed=0, activations=activations)


def train(trainer: Trainer, **changes: object) -> TrainResult:
    # 49 images in batches of 16 leave one image out of every epoch.
    values = {"arch": trainer.arch.timm_name, "image_size": 32, "lr": 3e-3, "epochs": 3, "batch_size": 16}
    return trainer.train(TrainConfig.from_dict(values | changes), lambda result: None)


def given(trainer: Trainer) -> int:
    source = trainer.data.source
    assert isinstance(source, CountingSource)
    return source.given


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("elapsed_s", "images_per_s")} for row in history]


def assert_same_numbers(first: TrainResult, second: TrainResult) -> None:
    """Exactly: not one bit may depend on what is remembered."""
    assert without_times(first.history) == without_times(second.history)
    np.testing.assert_array_equal(first.val_probs, second.val_probs)
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())


@pytest.mark.parametrize("tier", ["memory", "disk"])
@pytest.mark.parametrize("depth", [0, 1, 3, 5])
def test_remembering_changes_no_number(arch: Arch, tmp_path: Path, tier: str, depth: int) -> None:
    tiers = {"memory": MemoryTier(CPU, GB), "disk": DiskTier(tmp_path, CPU, GB)}
    remembering, plain = make_trainer(arch, Activations([tiers[tier]])), make_trainer(arch, None)
    for batch_size, lr in ((16, 1e-3), (32, 3e-3), (24, 2e-3)):  # the first fills, the others find
        values = {"unfreeze_depth": depth, "batch_size": batch_size, "lr": lr, "drop_rate": 0.3}
        assert_same_numbers(train(remembering, **values), train(plain, **values))


def test_remembering_changes_no_number_of_an_order_that_repeats_images(arch: Arch) -> None:
    remembering, plain = make_trainer(arch, Activations([MemoryTier(CPU, GB)])), make_trainer(arch, None)
    values = {"unfreeze_depth": 2, "loss": "cross_entropy", "sampler": "balanced", "rebalance": 1.0}
    for _ in range(2):  # the first fills, the second finds
        assert_same_numbers(train(remembering, **values), train(plain, **values))


def test_a_view_passes_the_frozen_part_once(arch: Arch, tmp_path: Path) -> None:
    trainer = make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)]))
    for _ in range(3):
        train(trainer, unfreeze_depth=2)
    assert given(trainer) == 3 * 49 + 21 + MEASURED


def test_other_processes_find_what_one_has_computed(arch: Arch, tmp_path: Path) -> None:
    first = train(make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)])), unfreeze_depth=2)
    other = make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)]))
    assert_same_numbers(train(other, unfreeze_depth=2), first)
    assert given(other) == MEASURED


@pytest.mark.parametrize(
    "changes", [{"augment_seed": 1}, {"augment_strength": 0.5}, {"unfreeze_depth": 3}, {"views": 2, "augment_seed": 3}]
)
def test_what_depends_on_something_else_is_computed_anew(
    arch: Arch, tmp_path: Path, changes: dict[str, object]
) -> None:
    trainer = make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)]))
    train(trainer, unfreeze_depth=2)
    before = given(trainer)
    values = {"unfreeze_depth": 2} | changes
    assert_same_numbers(train(trainer, **values), train(make_trainer(arch, None), **values))
    assert given(trainer) >= before + 2 * 49


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_later_cut_is_computed_from_an_earlier_one_and_not_from_the_images(
    arch: Arch, tmp_path: Path, memory: bool, depth: int
) -> None:
    trainer = make_trainer(arch, Activations([MemoryTier(CPU, GB) if memory else DiskTier(tmp_path, CPU, GB)]))
    train(trainer, unfreeze_depth=3)
    before = given(trainer)
    assert_same_numbers(
        train(trainer, unfreeze_depth=depth, drop_rate=0.5),
        train(make_trainer(arch, None), unfreeze_depth=depth, drop_rate=0.5),
    )
    assert given(trainer) == before + MEASURED


def test_an_earlier_cut_without_room_is_passed_over(arch: Arch) -> None:
    trainer = make_trainer(arch, Activations([MemoryTier(CPU, 1)]))
    for depth in (3, 2):
        assert_same_numbers(train(trainer, unfreeze_depth=depth), train(make_trainer(arch, None), unfreeze_depth=depth))


def test_other_weights_share_nothing(arch: Arch, tmp_path: Path) -> None:
    train(make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)])), unfreeze_depth=2)
    tier = DiskTier(tmp_path, CPU, GB)
    data = make_data()
    other = Trainer(arch=arch, weights=None, data=data, device=CPU, seed=1, activations=Activations([tier]))
    values = {"arch": arch.timm_name, "image_size": 32, "lr": 3e-3, "epochs": 3, "seed": 1, "unfreeze_depth": 2}
    other.train(TrainConfig.from_dict(values), lambda result: None)
    assert given(other) >= 3 * 49 + 21


def test_fewer_views_than_epochs_are_shown_in_turn(arch: Arch) -> None:
    trainer = make_trainer(arch, Activations([MemoryTier(CPU, GB)]))
    remembered = train(trainer, unfreeze_depth=2, epochs=5, views=2)
    assert given(trainer) == 2 * 49 + 21 + MEASURED
    assert_same_numbers(remembered, train(make_trainer(arch, None), unfreeze_depth=2, epochs=5, views=2))


class PowerCut(Exception):
    """Ends a run in the middle of an epoch."""


def test_half_an_epoch_is_not_remembered(arch: Arch, tmp_path: Path) -> None:
    trainer = make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)]))
    values = {"arch": arch.timm_name, "image_size": 32, "lr": 3e-3, "epochs": 3, "batch_size": 16, "unfreeze_depth": 2}

    def cut(images: int) -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        trainer.train(TrainConfig.from_dict(values), lambda result: None, on_step=cut)
    assert not list(tmp_path.glob("*.act"))
    assert not list(tmp_path.glob(".*.tmp"))
    assert_same_numbers(train(trainer, unfreeze_depth=2), train(make_trainer(arch, None), unfreeze_depth=2))


def test_what_has_no_room_is_computed_each_time(arch: Arch, tmp_path: Path) -> None:
    trainer = make_trainer(arch, open_activations(device=CPU, memory=1000, disk=1000, folder=tmp_path))
    assert_same_numbers(train(trainer, unfreeze_depth=2), train(make_trainer(arch, None), unfreeze_depth=2))
    assert not list(tmp_path.glob("*.act"))


def test_a_cut_file_is_computed_anew(arch: Arch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(arch, Activations([DiskTier(tmp_path, CPU, GB)]))
    first = train(trainer, unfreeze_depth=2)
    for file in tmp_path.glob("*.act"):
        file.write_bytes(file.read_bytes()[:-1])
    assert_same_numbers(train(trainer, unfreeze_depth=2), first)
    assert "is damaged and will be computed anew" in caplog.text
