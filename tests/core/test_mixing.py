"""Images blended in pairs: with whom, at which shares, and what that leaves alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.activations import Activations, MemoryTier
from core.config import TrainConfig
from core.mixing import BatchMix, mix_epoch
from core.trainer import Trainer
from tests.fixtures.colours import CPU, colour_config, colour_trainer, go_on, resumed_after_a_cut, without_times


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return colour_trainer()


def config(**changes: Any) -> TrainConfig:
    values = {"arch": "a", "image_size": 32, "lr": 0.1, "batch_size": 4, "mixup": 0.4}
    return TrainConfig.from_dict(values | changes)


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0.05, 10), st.integers(0, 3))
def test_each_image_is_blended_with_one_of_its_batch_and_stays_itself_for_the_most_part(
    count: int, batch_size: int, mixup: float, epoch: int
) -> None:
    mix = mix_epoch(count, config(batch_size=batch_size, mixup=mixup), epoch)
    assert mix is not None
    assert sorted(mix.partners) == list(range(count))
    assert (mix.partners // batch_size == np.arange(count) // batch_size).all()
    assert ((mix.shares >= 0.5) & (mix.shares <= 1)).all()
    for start in range(0, count, batch_size):
        assert len(set(mix.shares[start : start + batch_size])) == 1


@given(st.floats(0.05, 10), st.integers(32, 300), st.integers(0, 3))
def test_the_share_of_an_image_is_what_the_box_leaves_of_it(cutmix: float, side: int, epoch: int) -> None:
    mix = mix_epoch(10, config(mixup=0.0, cutmix=cutmix, image_size=side), epoch)
    assert mix is not None
    assert mix.boxes is not None
    for start in (0, 4, 8):
        top, bottom, left, right = mix.boxes[start]
        assert 0 <= top <= bottom <= side
        assert 0 <= left <= right <= side
        assert mix.shares[start] == pytest.approx(1 - (bottom - top) * (right - left) / side**2)
        assert mix.shares[start] >= 0.5 - 2 / side, "a box is rounded to whole pixels"


def test_a_box_of_the_partner_is_pasted_and_the_rest_is_left_alone() -> None:
    box = torch.tensor([1, 3, 0, 2])
    mix = BatchMix(torch.tensor([1, 0]), torch.tensor(0.75, dtype=torch.float64), box)
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    expected = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    mixed = mix.inputs(images)
    assert torch.equal(mixed[0], expected.expand(3, 4, 4))
    assert torch.equal(mixed[1], 1 - expected.expand(3, 4, 4))


def test_who_is_blended_is_a_function_of_seed_trial_and_epoch() -> None:
    def partners(epoch: int = 0, **changes: Any) -> tuple[int, ...]:
        mix = mix_epoch(40, config(**changes), epoch)
        assert mix is not None
        return tuple(mix.partners)

    assert partners() == partners()
    assert len({partners(), partners(1), partners(seed=1), partners(trial=1)}) == 4
    assert mix_epoch(40, config(mixup=0.0), 0) is None


def test_inputs_and_losses_are_blended_in_the_same_shares() -> None:
    mix = BatchMix(torch.tensor([1, 0, 2]), torch.tensor(0.75, dtype=torch.float64))
    torch.testing.assert_close(mix.inputs(torch.tensor([[0.0], [4.0], [8.0]])), torch.tensor([[1.0], [3.0], [8.0]]))
    logits, labels = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    targets = 0.75 * torch.eye(3) + 0.25 * torch.eye(3)[[1, 0, 2]]
    torch.testing.assert_close(mix.loss(F.cross_entropy, logits, labels), F.cross_entropy(logits, targets))


@pytest.mark.parametrize("values", [{"mixup": 0.4}, {"mixup": 0.0, "cutmix": 1.0}], ids=str)
def test_each_batch_is_given_its_own_part_of_the_epoch(values: dict[str, float]) -> None:
    mix = mix_epoch(10, config(**values), 0)  # batches of 4
    assert mix is not None
    batches = list(mix.batches(4, torch.device("cpu")))
    assert [len(batch.partners) for batch in batches] == [4, 4, 2]
    for start, batch in zip((0, 4, 8), batches, strict=True):
        assert (batch.partners + start).tolist() == mix.partners[start : start + 4].tolist()
        assert (float(batch.share), batch.share.ndim) == (mix.shares[start], 0)
        assert (batch.box is None) == (mix.boxes is None)
        if batch.box is not None and mix.boxes is not None:
            assert batch.box.tolist() == mix.boxes[start].tolist()


def test_a_blended_image_counts_in_the_prior_as_its_parts_do() -> None:
    mix = mix_epoch(8, config(), 0)
    assert mix is not None
    weights = np.arange(8.0)
    expected = [
        share * weights[n] + (1 - share) * weights[p]
        for n, (p, share) in enumerate(zip(mix.partners, mix.shares, strict=True))
    ]
    np.testing.assert_allclose(mix.blend(weights), expected)


@pytest.mark.parametrize("depth", [0, 2, 5])
def test_training_fits_blended_images_less_and_still_learns(trainer: Trainer, depth: int) -> None:
    wanted = colour_config(trainer, epochs=6, unfreeze_depth=depth, lr=1e-2)
    plain = trainer.train(wanted, go_on)
    mixed = trainer.train(colour_config(trainer, epochs=6, unfreeze_depth=depth, lr=1e-2, mixup=1.0), go_on)
    assert mixed.history[-1]["train_loss"] > plain.history[-1]["train_loss"]
    assert mixed.history[-1]["val_loss"] < mixed.history[0]["val_loss"]
    assert without_times(trainer.train(wanted, go_on).history) == without_times(plain.history)


def test_with_pasted_boxes_training_fits_less_and_still_learns(trainer: Trainer) -> None:
    plain = trainer.train(colour_config(trainer, epochs=6, lr=1e-2), go_on)
    mixed = trainer.train(colour_config(trainer, epochs=6, lr=1e-2, cutmix=1.0), go_on)
    assert mixed.history[-1]["train_loss"] > plain.history[-1]["train_loss"]
    assert mixed.history[-1]["val_loss"] < mixed.history[0]["val_loss"]


def test_what_is_remembered_is_not_blended() -> None:
    remembering, plain = colour_trainer(activations=Activations([MemoryTier(CPU, 10**9)])), colour_trainer()
    expected = plain.train(colour_config(plain, unfreeze_depth=2), go_on)
    blended = plain.train(colour_config(plain, unfreeze_depth=2, mixup=0.4), go_on)
    for _ in range(2):  # the first fills, the second finds
        ours = remembering.train(colour_config(plain, unfreeze_depth=2, mixup=0.4), go_on)
        assert without_times(ours.history) == without_times(blended.history)
    assert remembering.prefix.held > 0
    ours = remembering.train(colour_config(plain, unfreeze_depth=2), go_on)
    assert without_times(ours.history) == without_times(expected.history)


@pytest.mark.parametrize("values", [{"mixup": 0.4}, {"cutmix": 1.0}], ids=str)
def test_an_interrupted_run_mixes_the_same_images(trainer: Trainer, tmp_path: Path, values: dict[str, float]) -> None:
    wanted = colour_config(trainer, rebalance=0.5, **values)
    undisturbed = trainer.train(wanted, go_on)

    resumed = resumed_after_a_cut(trainer, wanted, tmp_path / "running")
    assert without_times(resumed.history) == without_times(undisturbed.history)


def test_blended_batches_are_never_computed_in_parts() -> None:
    trainer = colour_trainer("test_convnext")

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled() and len(inputs[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer.model.backbone.get_submodule(trainer.model.head_name).register_forward_pre_hook(refuse)
    trainer.train(colour_config(trainer, epochs=1), go_on)
    with pytest.raises(torch.OutOfMemoryError, match=r"allocate 2\.00 GiB"):
        trainer.train(colour_config(trainer, epochs=1, mixup=0.4), go_on)
