"""Batches that are computed in parts, for lack of memory, give what whole ones give."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import DropPath

from core.activations import Activations, MemoryTier
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.classifier import Classifier
from core.config import TrainConfig
from core.microbatches import keeps_images_apart, more_parts
from core.prefix import CPU_CHUNK, Fed
from core.trainer import EpochResult, Trainer, TrainResult
from tests.fixtures.colours import colour_trainer as make_trainer
from tests.fixtures.colours import go_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DEEPEST = -1
# Where neither other images nor chance take part: without batch normalisation, below it, and with the head alone.
APART = [("test_convnext", DEEPEST), ("test_convnext", 2), ("test_efficientnet_gn", DEEPEST), ("test_efficientnet", 0)]


def config(trainer: Trainer, depth: int, **changes: Any) -> TrainConfig:
    """SGD, because Adam makes large steps of the rounding in gradients that are nearly zero."""
    values = {
        "arch": trainer.arch.timm_name,
        "image_size": 32,
        "lr": 0.01,
        "epochs": 2,
        "batch_size": 32,
        "unfreeze_depth": trainer.model.max_unfreeze_depth if depth == DEEPEST else depth,
        "optimizer": "sgd",
        "drop_rate": 0.3,
        "label_smoothing": 0.1,
        "rebalance": 1.0,
    }
    return TrainConfig.from_dict(values | changes)


class SmallCard:
    """A card's memory, as a trainer's model meets it: its head refuses to train on more than some images at once.

    Args:
        trainer: Whose model runs on it.
        most: Images that it has room for.
    """

    def __init__(self, trainer: Trainer, most: float) -> None:
        self.most, self.seen, self.refused = most, list[int](), 0
        self._handle = trainer.model.backbone.get_submodule(trainer.model.head_name).register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if not torch.is_grad_enabled():
            return
        if len(inputs[0]) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(len(inputs[0]))

    def __enter__(self) -> "SmallCard":
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def assert_same(parted: TrainResult, whole: TrainResult, *, tolerance: float = 1e-5) -> None:
    """Up to the order in which numbers are added."""
    assert len(parted.history) == len(whole.history)
    for ours, theirs in zip(parted.history, whole.history, strict=True):
        for name in ours.keys() - {"elapsed_s", "images_per_s"}:
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance, abs=tolerance), name
    np.testing.assert_allclose(parted.val_probs, whole.val_probs, atol=tolerance)
    np.testing.assert_allclose(parted.prior, whole.prior, atol=tolerance)


@pytest.mark.parametrize(("name", "depth"), APART)
def test_what_runs_out_of_memory_is_computed_in_parts_with_the_same_result(name: str, depth: int) -> None:
    trainer = make_trainer(name)
    wanted = config(trainer, depth)
    whole = trainer.train(wanted, go_on)
    with SmallCard(trainer, most=8) as card:
        parted = trainer.train(wanted, go_on)
    assert_same(parted, whole)
    assert card.refused == 2  # 32 images, and 16
    assert card.seen == 2 * [8, 8, 8, 8, 8, 8, 8, 8, 6]
    assert_same(trainer.train(wanted, go_on), whole, tolerance=0)  # the next run has nothing of it


def step_in_parts(trainer: Trainer, parts: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, loss and gradients of one step on 30 images in double precision."""
    run = trainer.prepare(config(trainer, DEEPEST, drop_rate=0.5), parts=parts)
    numbers = torch.Generator().manual_seed(0)
    images = torch.rand(30, 3, 32, 32, dtype=torch.float64, generator=numbers)
    labels = torch.randint(3, (30,), generator=numbers)
    trainer.model.double().train()
    try:
        batch = list(map(Fed, images.split(32 // parts), labels.split(32 // parts)))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            logits, loss = run.step(batch, 30, 0.0)
        learning = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        return logits, loss, {name: p.grad.clone() for name, p in learning.items()}
    finally:
        trainer.model.float()


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_the_gradients_of_parts_add_up_to_those_of_the_batch(parts: int) -> None:
    trainer = make_trainer("test_efficientnet_gn")
    whole_logits, whole_loss, whole = step_in_parts(trainer, 1)
    logits, loss, gradients = step_in_parts(trainer, parts)
    torch.testing.assert_close(logits, whole_logits, rtol=1e-6, atol=1e-6)  # else a feature was dropped here or there
    torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=0)
    assert gradients.keys() == whole.keys()
    for name, gradient in gradients.items():
        # The loss is computed in single precision: its rounding is that of the largest part of a sum.
        torch.testing.assert_close(gradient, whole[name], rtol=1e-5, atol=1e-6 * float(whole[name].abs().max()))


def test_an_estimate_that_does_not_fit_is_divided_until_it_does_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer("test_convnext")
    wanted = config(trainer, DEEPEST)
    whole = trainer.train(wanted, go_on)
    assert trainer._survey is not None
    learning = {name for name, _ in trainer.model.backbone.named_parameters()}
    reach = trainer._survey.footprint(learning, chunk=None).of(8, 32)
    monkeypatch.setattr("core.trainer.memory_in_reach", lambda: reach)
    with SmallCard(trainer, most=math.inf) as card:
        parted = trainer.train(wanted, go_on)
    assert_same(parted, whole)
    assert max(card.seen) == 8
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "batches of 32 are more than memory has room for: they are computed 8 images at a time" in record.message


def test_what_fits_in_no_part_is_told_before_it_takes_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("test_convnext")
    monkeypatch.setattr("core.trainer.memory_in_reach", lambda: 1000)
    with pytest.raises(MemoryError, match=r"batches of 2 at 32 pixels take about 0\.\d GB of memory, and 0\.0 GB"):
        trainer.train(config(trainer, DEEPEST), go_on)


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_runs_out_of_memory_later_goes_on_from_its_checkpoint(tmp_path: Path, saved: bool) -> None:
    trainer = make_trainer("test_convnext")
    wanted = config(trainer, DEEPEST, epochs=4)
    whole = trainer.train(wanted, go_on)
    epochs = []
    with SmallCard(trainer, most=32) as card:

        def take_memory(result: EpochResult) -> None:
            epochs.append(result.epoch)
            if result.epoch == 1:
                card.most = 8

        parted = trainer.train(wanted, take_memory, checkpoint_file=tmp_path / "running" if saved else None)
    assert_same(parted, whole)
    assert epochs == ([0, 1, 2, 3] if saved else [0, 1, 0, 1, 2, 3])


def test_what_is_remembered_gives_way_first_and_changes_nothing() -> None:
    remembering = make_trainer("test_convnext", activations=Activations([MemoryTier(CPU, 10**9)]))
    wanted = config(remembering, 2)
    whole = make_trainer("test_convnext").train(wanted, go_on)
    for _ in range(2):  # the first fills, the second finds
        with SmallCard(remembering, most=8):
            assert_same(remembering.train(wanted, go_on), whole)
        assert remembering.prefix.held > 0


def test_what_is_remembered_gives_way_before_a_batch_is_divided(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer("test_efficientnet", activations=Activations([MemoryTier(CPU, 10**9)]))
    wanted = config(trainer, 2)  # with batch normalisation, so that nothing but room helps
    whole = trainer.train(wanted, go_on)
    assert trainer._survey is not None
    learning = {name for name, p in trainer.model.backbone.named_parameters() if p.requires_grad}
    reach = trainer._survey.footprint(learning, chunk=CPU_CHUNK).of(32) + trainer.prefix.held // 2
    monkeypatch.setattr("core.trainer.memory_in_reach", lambda: reach)
    assert_same(trainer.train(wanted, go_on), whole, tolerance=0)
    assert not caplog.records


def test_what_is_validated_is_computed_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("test_convnext")
    wanted = config(trainer, 0)
    whole = trainer.train(wanted, go_on)
    monkeypatch.setattr("core.trainer.images_at_once", lambda device, image_size: 16)
    sizes = []

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if not torch.is_grad_enabled() and len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = trainer.model.backbone.get_submodule(trainer.model.head_name).register_forward_pre_hook(refuse)
    assert_same(trainer.train(wanted, go_on), whole)
    handle.remove()
    assert sizes[-7:] == [4, 4, 4, 4, 4, 4, 2]


@pytest.mark.parametrize("depth", [1, DEEPEST])
def test_what_depends_on_the_batch_is_never_computed_in_parts(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer("test_efficientnet")
    with SmallCard(trainer, most=8) as card, pytest.raises(torch.OutOfMemoryError, match=r"allocate 2\.00 GiB"):
        trainer.train(config(trainer, depth), go_on)
    assert card.refused == 1
    assert not caplog.records


def build(name: str, image_size: int) -> Classifier:
    arch = dataclasses.replace(resolve_arch(name), image_size=image_size)
    return build_classifier(arch, num_classes=3, weights=None, seed=0)


@pytest.mark.parametrize(
    ("name", "image_size", "apart"),
    [
        ("test_vit", 160, True),
        ("test_convnext", 64, True),
        ("test_nfnet", 64, True),
        ("test_efficientnet_ln", 64, True),
        ("test_resnet", 64, False),
        ("test_byobnet", 64, False),
        ("test_mambaout", 64, True),
    ],
)
def test_networks_with_norms_of_their_own_keep_images_apart(name: str, image_size: int, apart: bool) -> None:
    model = build(name, image_size)
    assert keeps_images_apart(model, image_size) == apart
    model.set_unfreeze_depth(0)
    assert keeps_images_apart(model, image_size)


def test_norms_and_random_layers_without_any_weight_yet_are_seen() -> None:
    normed, dropping = build("test_resnet", 64), build("test_convnext", 64)
    dropping.backbone.stages[-1].blocks[-1].drop_path = DropPath(0.5)
    with torch.no_grad():
        for name, parameter in (*normed.named_parameters(), *dropping.named_parameters()):
            if "gamma" in name or "bn" in name or "downsample.1" in name:
                parameter.zero_()
    assert not keeps_images_apart(normed, 64)
    assert not keeps_images_apart(dropping, 64)


def test_trying_leaves_the_global_generator_alone() -> None:
    model = build("test_convnext", 32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    keeps_images_apart(model, 32)
    assert torch.equal(torch.rand(3), expected)


@given(st.integers(1, 2000))
def test_parts_are_equal_ever_smaller_and_never_too_small(batch_size: int) -> None:
    parts = 1
    while (more := more_parts(batch_size, parts)) is not None:
        assert batch_size % more == 0
        assert more >= 2 * parts
        assert batch_size // more >= 2
        parts = more


@pytest.mark.gpu
def test_a_card_that_is_full_computes_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("test_convnext", device=CUDA)
    wanted = config(trainer, DEEPEST)
    whole = trainer.train(wanted, go_on)
    criterion, sizes = trainer.criterion(wanted), []

    def greedy(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        sizes.append(len(labels_B))
        if len(labels_B) > 8:
            torch.empty(2**46, dtype=torch.uint8, device=CUDA)  # more than any card has
        return criterion(logits_BC, labels_B)

    monkeypatch.setattr(trainer, "criterion", lambda config: greedy)
    parted = trainer.train(wanted, go_on)
    # Once more without a recorded step before a batch is parted.
    assert sizes == [32, 32, 16, *2 * [8, 8, 8, 8, 8, 8, 8, 8, 6]]
    for ours, theirs in zip(parted.history, whole.history, strict=True):
        # Half precision rounds what kernels for other numbers of images add up in another order.
        assert [ours[f"{part}_loss"] for part in ("train", "val")] == pytest.approx(
            [theirs[f"{part}_loss"] for part in ("train", "val")], rel=0.02
        )
