"""Averages of weights: what is validated and kept, and what an interrupted run goes on with."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.averaging import WeightAverage, share_of_newest
from core.checkpoint import CheckpointError
from core.config import TrainConfig
from core.files import read_tensors_with_metadata, write_tensors
from core.trainer import EpochResult, Trainer
from tests.fixtures.colours import PowerCut, colour_config, colour_trainer, go_on, without_times

AVERAGES = [{"ema": 0.7}, {"average_last": 2}]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return colour_trainer()


def shares(steps: int, **changes: Any) -> list[float]:
    config = TrainConfig.from_dict({"arch": "a", "image_size": 32, "lr": 0.1, "epochs": 3} | changes)
    return [share_of_newest(config, epoch=n // steps, step=n % steps, steps=steps) for n in range(3 * steps)]


def test_a_moving_average_is_a_plain_mean_until_its_horizon() -> None:
    assert shares(4, ema=1.5) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, *7 * [1 / 6]])
    assert shares(4, ema=0.01) == 12 * [1.0]


def test_the_last_epochs_are_averaged_step_by_step_and_none_before() -> None:
    assert shares(2, average_last=2) == pytest.approx([1, 1, 1, 1 / 2, 1 / 3, 1 / 4])
    assert shares(2, average_last=3) == pytest.approx([1 / n for n in range(1, 7)])


def test_weights_that_jump_about_their_best_are_nearer_to_it_on_average() -> None:
    noise = torch.Generator().manual_seed(0)
    weights, best = torch.zeros(50), torch.ones(50)
    average, errors = WeightAverage({"weights": weights}), []
    for _ in range(400):
        weights += 0.3 * (best - weights) + 0.3 * torch.randn(50, generator=noise)
        average.update(1 / 40)
        errors.append((weights - best).norm())
    assert (average.tensors["weights"] - best).norm() < 0.4 * torch.stack(errors[-100:]).mean()


def test_the_model_is_its_average_for_a_while_and_then_itself_again() -> None:
    kernel = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    average = WeightAverage({"kernel": kernel})
    kernel += 1
    before = kernel.clone()
    average.update(0.25)
    with contextlib.suppress(PowerCut), average.applied():
        torch.testing.assert_close(kernel, before - 0.75)
        raise PowerCut
    assert torch.equal(kernel, before)
    assert average.tensors["kernel"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_averaged_are_the_weights_after_each_step(trainer: Trainer) -> None:
    run = trainer.prepare(colour_config(trainer, average_last=1, epochs=1))
    seen: list[dict[str, torch.Tensor]] = []
    run.train_epoch(
        0, lambda images: seen.append({name: t.clone() for name, t in trainer.model.learning_tensors().items()})
    )
    assert len(seen) == 5
    assert run.average is not None
    for name, mean in run.average.tensors.items():
        torch.testing.assert_close(mean, torch.stack([each[name] for each in seen]).mean(0), rtol=1e-4, atol=1e-6)


def test_the_average_is_validated_and_kept_and_the_weights_go_on(trainer: Trainer) -> None:
    plain = trainer.train(colour_config(trainer), go_on)
    run = trainer.prepare(colour_config(trainer, ema=0.7))
    run.train_epoch(0, lambda images: None)
    after = {name: tensor.clone() for name, tensor in trainer.model.learning_tensors().items()}
    assert run.average is not None
    for name, mean in run.average.tensors.items():
        assert torch.equal(run.state.best_model[name], mean)
    assert any(not torch.equal(after[name], mean) for name, mean in run.average.tensors.items())
    with run.average.applied():
        np.testing.assert_array_equal(run.predict_val(run.val_rows), run.state.best_tensors["val_probs"].numpy())
    averaged = trainer.train(colour_config(trainer, ema=0.7), go_on)
    assert [row["train_loss"] for row in averaged.history] == [row["train_loss"] for row in plain.history]
    assert [row["val_loss"] for row in averaged.history] != [row["val_loss"] for row in plain.history]


def test_running_statistics_are_those_of_the_averaged_weights(trainer: Trainer) -> None:
    run = trainer.prepare(colour_config(trainer, ema=1.0, epochs=6, augment_strength=0))
    for epoch in range(6):
        run.train_epoch(epoch, lambda images: None)
    assert run.average is not None
    norms = [module for module in trainer.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with run.average.applied():
        averaged = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        trainer.model.train()
        with torch.no_grad():
            for fed in run.prefix.batches(run.train_part, run.train_rows, epoch=0, batch_size=35):
                run.prefix.classify(fed.inputs)
        own = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        for norm in norms:
            norm.momentum = 0.1
    gaps = [
        ((mean - own_mean) / own_var.sqrt()).abs().mean()
        for (mean, _), (own_mean, own_var) in zip(averaged, own, strict=True)
    ]
    assert max(gaps) < 0.3


@pytest.mark.parametrize("average", AVERAGES)
def test_an_interrupted_run_goes_on_with_its_average(trainer: Trainer, tmp_path: Path, average: dict[str, Any]) -> None:
    wanted = colour_config(trainer, epochs=4, **average)
    undisturbed = trainer.train(wanted, go_on)

    def cut(result: EpochResult) -> None:
        if result.epoch == 2:
            raise PowerCut

    checkpoint = tmp_path / "running.safetensors"
    with pytest.raises(PowerCut):
        trainer.train(wanted, cut, checkpoint_file=checkpoint)
    trainer.train(colour_config(trainer, lr=1e-2, ema=0.1), go_on)
    resumed = trainer.train(wanted, go_on, checkpoint_file=checkpoint)
    assert without_times(resumed.history) == without_times(undisturbed.history)
    assert all(torch.equal(tensor, undisturbed.model[name]) for name, tensor in resumed.model.items())


def test_a_checkpoint_without_its_average_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    wanted, checkpoint = colour_config(trainer, ema=1.0), tmp_path / "running.safetensors"
    trainer.train(wanted, go_on, checkpoint_file=checkpoint)
    tensors, facts = read_tensors_with_metadata(checkpoint)
    write_tensors(checkpoint, {n: t for n, t in tensors.items() if not n.startswith("average.backbone.c")}, facts)
    with pytest.raises(CheckpointError, match="its average is not of the model"):
        trainer.train(wanted, go_on, checkpoint_file=checkpoint)


def test_frozen_tensors_are_no_part_of_the_average(trainer: Trainer) -> None:
    run = trainer.prepare(colour_config(trainer, ema=1.0, unfreeze_depth=0))
    assert run.average is not None
    assert list(run.average.tensors) == ["backbone.classifier.weight", "backbone.classifier.bias"]
