"""Runs that learn from unlabelled images beside the labelled ones."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from core.archs import resolve_arch
from core.config import TrainConfig
from core.errors import InputError
from core.semisupervised import UnlabelledFeed, UnlabelledImages
from core.trainer import TrainData, Trainer
from tests.doubles import ArraySource
from tests.fixtures.colours import colour_config, go_on, resumed_after_a_cut

CPU = torch.device("cpu")


def coloured(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 3
    images = rng.integers(0, 120, (count, 3, 37, 37)).astype(np.uint8)
    images[np.arange(count), labels] += 100
    return torch.from_numpy(images), labels


def make_trainer(unlabelled: int = 40) -> Trainer:
    """Three classes that differ in colour, with few labels."""
    images, labels = coloured(72, 0)
    besides, unknown = coloured(unlabelled, 1)
    source = ArraySource(besides, np.full_like(unknown, -1))
    data = TrainData(
        source=ArraySource(images, labels),
        labels=labels,
        train_rows=np.arange(30),
        val_rows=np.arange(30, 72),
        classes=("a", "b", "c"),
        unlabelled=UnlabelledImages(source=source, count=unlabelled),
    )
    arch = dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)
    return Trainer(arch=arch, weights=None, data=data, device=CPU, seed=0, checkpoint_share=math.inf)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return make_trainer()


def config(trainer: Trainer, **values: object) -> TrainConfig:
    given = {"batch_size": 8, "unlabelled_weight": 1.0, "unlabelled_ratio": 2, "confidence": 0.4, **values}
    return colour_config(trainer, **given)


def losses(history: list[dict[str, float]]) -> list[float]:
    return [row["train_loss"] for row in history]


@pytest.mark.parametrize("depth", [2, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (0, None))])
def test_an_interrupted_run_continues_with_the_same_numbers(
    trainer: Trainer, tmp_path: Path, depth: int | None
) -> None:
    depth = trainer.model.max_unfreeze_depth if depth is None else depth
    wanted = config(trainer, epochs=3, unfreeze_depth=depth, drop_rate=0.3)
    undisturbed = trainer.train(wanted, go_on)
    resumed = resumed_after_a_cut(trainer, wanted, tmp_path / "checkpoint.safetensors")
    assert losses(undisturbed.history) == losses(resumed.history)
    np.testing.assert_array_equal(undisturbed.val_probs, resumed.val_probs)


def test_losses_of_the_first_epochs_are_those_of_before() -> None:
    trainer = make_trainer()
    history = trainer.train(config(trainer, epochs=3, drop_rate=0.3), go_on).history
    assert losses(history) == pytest.approx([1.0677, 0.6638, 0.4769], rel=1e-3)


def test_unlabelled_images_change_what_is_learned_and_only_where_they_are_asked_for(trainer: Trainer) -> None:
    alone = trainer.train(config(trainer, unlabelled_weight=0.0), go_on)
    besides = trainer.train(config(trainer), go_on)
    assert losses(alone.history)[-1] != losses(besides.history)[-1]
    without = make_trainer()
    without.data = dataclasses.replace(without.data, unlabelled=None)
    np.testing.assert_array_equal(
        alone.val_probs, without.train(config(without, unlabelled_weight=0.0), go_on).val_probs
    )


def test_a_config_that_needs_unlabelled_images_is_refused_without_them() -> None:
    without = make_trainer()
    without.data = dataclasses.replace(without.data, unlabelled=None)
    with pytest.raises(InputError, match=r"`unlabelled_weight` must be 0 without .*--unlabelled"):
        without.train(config(without), go_on)


def test_every_image_comes_once_before_any_comes_again(trainer: Trainer) -> None:
    images, _ = coloured(10, 2)
    seen: list[list[int]] = []

    class Watched(ArraySource):
        def _batches(self, rows, batch_size):
            for batch in super()._batches(rows, batch_size):
                seen.append(batch.rows.tolist())
                yield batch

    source = Watched(images, np.full(10, -1))
    wanted = config(trainer, batch_size=4, unlabelled_ratio=1)
    feed = UnlabelledFeed(
        UnlabelledImages(source=source, count=10), arch=trainer.arch, config=wanted, pass_frozen=lambda views: views
    )
    sizes = [len(views) for epoch in range(3) for views in feed.batches([4, 4, 2], epoch)]
    assert sizes == [8, 8, 4] * 3
    assert [len(rows) for rows in seen] == [4, 4, 2] * 3
    in_order = [row for rows in seen for row in rows]
    assert [sorted(in_order[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
    assert in_order[:10] != in_order[10:20]


def test_a_small_pool_comes_several_times_an_epoch_in_other_views(trainer: Trainer) -> None:
    images, labels = coloured(3, 2)
    pool = UnlabelledImages(source=ArraySource(images, labels), count=3)
    feed = UnlabelledFeed(
        pool, arch=trainer.arch, config=config(trainer, unlabelled_ratio=1), pass_frozen=lambda views: views
    )
    batches = list(feed.batches([6, 6], 0))
    assert [len(views) for views in batches] == [12, 12]
    assert not any(torch.equal(a, b) for a in batches[0] for b in batches[1])


def test_views_that_are_held_against_each_other_are_not_equally_bright(trainer: Trainer) -> None:
    grey = torch.full((200, 3, 37, 37), 128, dtype=torch.uint8)
    pool = UnlabelledImages(source=ArraySource(grey, np.full(200, -1)), count=200)
    feed = UnlabelledFeed(
        pool, arch=trainer.arch, config=config(trainer, unlabelled_ratio=1), pass_frozen=lambda views: views
    )
    strong_U, mild_U = next(feed.batches([200], 0)).amax((1, 2, 3)).chunk(2)
    assert abs(np.corrcoef(strong_U.numpy(), mild_U.numpy())[0, 1]) < 0.3


def test_what_labels_are_made_of_keeps_all_its_features(trainer: Trainer) -> None:
    model, features = trainer.model.train(), torch.rand(6, trainer.model.draw(1).shape[1])
    model.set_drop_rate(0.5)
    drawn = model.draw(4)
    some = model.classify(features, drawn)
    torch.testing.assert_close(some[:4], model.classify(features[:4], drawn))
    torch.testing.assert_close(some[4:], model.eval().classify(features)[4:])
    model.set_drop_rate(0.0)


@pytest.mark.gpu
def test_recorded_steps_give_the_numbers_of_steps_that_are_not() -> None:
    images, labels = coloured(72, 0)
    device = torch.device("cuda")
    pool = UnlabelledImages(source=ArraySource(images[:40], labels[:40], device), count=40)
    data = TrainData(
        source=ArraySource(images, labels, device),
        labels=labels,
        train_rows=np.arange(30),
        val_rows=np.arange(30, 72),
        classes=("a", "b", "c"),
        unlabelled=pool,
    )
    arch = dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)
    trainer = Trainer(arch=arch, weights=None, data=data, device=device, seed=0)
    recorded = trainer.train(config(trainer), go_on)
    trainer._recorder = None
    np.testing.assert_array_equal(recorded.val_probs, trainer.train(config(trainer), go_on).val_probs)
