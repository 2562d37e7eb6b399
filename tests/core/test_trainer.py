import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.archs import Arch, resolve_arch
from core.augment import Augmenter
from core.errors import InputError
from core.evaluation import predict_proba
from core.seeds import derive_seed, epoch_order
from core.trainer import EpochResult, NonFiniteLossError, TrainData, Trainer
from tests.doubles import ArraySource
from tests.fixtures.colours import PowerCut, go_on, resumed_after_a_cut
from tests.fixtures.colours import colour_config as config

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
GOLDEN_TRAIN_LOSSES = [0.99177, 0.67336, 0.44180]


@pytest.fixture(scope="module")
def arch() -> Arch:
    return dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)


@pytest.fixture(scope="module")
def data() -> TrainData:
    """Three classes that differ in colour, with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = rng.integers(0, 120, (96, 3, 37, 37)).astype(np.uint8)
    images[np.arange(96), labels] += 100
    rows = rng.permutation(96)
    source = ArraySource(torch.from_numpy(images), labels)
    return TrainData(source=source, labels=labels, train_rows=rows[:64], val_rows=rows[64:], classes=CLASSES)


@pytest.fixture(scope="module")
def trainer(arch: Arch, data: TrainData) -> Trainer:
    return Trainer(arch=arch, weights=None, data=data, device=CPU, seed=0, checkpoint_share=math.inf)


def losses(history: list[dict[str, float]]) -> list[float]:
    return [row["train_loss"] for row in history]


def test_training_learns_colours(trainer: Trainer) -> None:
    result = trainer.train(config(trainer, epochs=6), go_on)
    assert losses(result.history)[-1] < 0.6 * losses(result.history)[0]
    assert result.history[result.best_epoch]["val_recall"] > 0.8
    np.testing.assert_allclose(result.val_probs.sum(1), 1, rtol=1e-5)
    assert result.prior.sum() == pytest.approx(1)


def test_the_same_config_gives_the_same_numbers_whatever_ran_before(trainer: Trainer) -> None:
    first = trainer.train(config(trainer), go_on)
    trainer.train(config(trainer, lr=1e-2, drop_rate=0.5, unfreeze_depth=1), go_on)
    second = trainer.train(config(trainer), go_on)
    assert losses(first.history) == losses(second.history)
    np.testing.assert_array_equal(first.val_probs, second.val_probs)


def test_training_leaves_the_global_generator_alone(trainer: Trainer) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.train(config(trainer, epochs=1, warmup_epochs=0.5), go_on)
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("moment", ["in the third epoch", "while the third epoch is reported"])
def test_an_interrupted_run_continues_with_the_same_numbers(
    trainer: Trainer, tmp_path: Path, optimizer: str, moment: str
) -> None:
    wanted = config(trainer, epochs=4, optimizer=optimizer, schedule="plateau")
    undisturbed = trainer.train(wanted, go_on)
    steps = 0

    def cut_in_epoch(images: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 11 and moment == "in the third epoch":
            raise PowerCut

    def cut_in_report(result: EpochResult) -> None:
        if result.epoch == 2:
            raise PowerCut

    checkpoint = tmp_path / "running.safetensors"
    with pytest.raises(PowerCut):
        trainer.train(wanted, cut_in_report, checkpoint_file=checkpoint, on_step=cut_in_epoch)
    trainer.train(config(trainer, lr=1e-2), go_on)
    epochs = []
    resumed = trainer.train(wanted, lambda result: epochs.append(result.epoch), checkpoint_file=checkpoint)
    assert epochs == [2, 3]
    assert losses(resumed.history) == losses(undisturbed.history)
    np.testing.assert_array_equal(resumed.val_probs, undisturbed.val_probs)
    assert all(torch.equal(tensor, undisturbed.model[name]) for name, tensor in resumed.model.items())


@pytest.mark.gpu
def test_an_interrupted_run_continues_with_the_same_numbers_on_a_card(
    arch: Arch, data: TrainData, tmp_path: Path
) -> None:
    cuda = torch.device("cuda")
    assert isinstance(data.source, ArraySource)
    source = ArraySource(data.source.images, data.labels, cuda)
    trainer = Trainer(arch=arch, weights=None, data=dataclasses.replace(data, source=source), device=cuda, seed=0)
    wanted = config(trainer, epochs=3)
    undisturbed = trainer.train(wanted, go_on)

    def cut(result: EpochResult) -> None:
        if result.epoch == 1:
            raise PowerCut

    checkpoint = tmp_path / "running.safetensors"
    with pytest.raises(PowerCut):
        trainer.train(wanted, cut, checkpoint_file=checkpoint)
    resumed = trainer.train(wanted, go_on, checkpoint_file=checkpoint)
    assert losses(resumed.history) == losses(undisturbed.history)
    np.testing.assert_array_equal(resumed.val_probs, undisturbed.val_probs)


def test_a_checkpoint_of_another_config_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    checkpoint = tmp_path / "running.safetensors"
    trainer.train(config(trainer, epochs=2), go_on, checkpoint_file=checkpoint)
    with pytest.raises(InputError, match="must be of the same config as the run"):
        trainer.train(config(trainer, epochs=3), go_on, checkpoint_file=checkpoint)


def test_frozen_parameters_and_statistics_do_not_move(trainer: Trainer) -> None:
    trainer.prepare(config(trainer))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    result = trainer.train(config(trainer, unfreeze_depth=0), go_on)
    moved = [name for name, tensor in result.model.items() if not torch.equal(tensor, before[name])]
    assert moved == ["backbone.classifier.weight", "backbone.classifier.bias"]


def test_the_caller_can_end_a_run_and_its_reason_is_kept(trainer: Trainer) -> None:
    result = trainer.train(config(trainer), lambda epoch: "pruned" if epoch.epoch == 1 else None)
    assert (len(result.history), result.reason) == (2, "pruned")


def test_a_run_without_gain_ends_early(trainer: Trainer) -> None:
    # At a rate of almost nothing the recall stays as it is, so that the first epoch stays the best.
    result = trainer.train(config(trainer, lr=1e-12, epochs=9, patience=2, augment_strength=0), go_on)
    assert result.reason.startswith("no better validation recall for 2 epochs")
    assert len(result.history) == result.best_epoch + 3


def test_a_loss_that_is_not_finite_ends_the_run_with_epoch_and_step(trainer: Trainer) -> None:
    with pytest.raises(NonFiniteLossError, match=r"not finite in epoch \d+, step \d+") as caught:
        trainer.train(config(trainer, lr=1e30, optimizer="sgd", warmup_epochs=0), go_on)
    assert caught.value.epoch == 0
    assert 1 <= caught.value.step <= 3


def test_history_rows_hold_everything_per_epoch(trainer: Trainer) -> None:
    row = trainer.train(config(trainer, epochs=1, warmup_epochs=0.5), go_on).history[0]
    parts = [f"{part}_{name}" for part in ("train", "val") for name in ("loss", "accuracy", "recall", "recall_argmax")]
    recalls = [f"{part}_recall_{name}" for part in ("train", "val") for name in CLASSES]
    assert set(row) == {"epoch", "lr", "images_per_s", "elapsed_s", *parts, *recalls}


def test_the_prior_is_what_the_model_learned_under_class_weights(trainer: Trainer, data: TrainData) -> None:
    rare = np.concatenate([data.train_rows[data.labels[data.train_rows] != 0], data.train_rows[:4]])
    unbalanced = dataclasses.replace(data, train_rows=rare)
    other = Trainer(arch=trainer.arch, weights=None, data=unbalanced, device=CPU, seed=0)
    plain = other.train(config(trainer, epochs=4), go_on).prior
    weighted = other.train(config(trainer, epochs=4, rebalance=1.0), go_on).prior
    assert plain.min() < 0.2
    assert weighted.min() > plain.min() + 0.05


@pytest.mark.parametrize(
    "mechanism",
    [
        {"loss": "logit_adjusted", "rebalance": 1.0},
        {"loss": "focal", "focal_gamma": 2.0},
        {"loss": "cross_entropy", "sampler": "balanced", "rebalance": 1.0},
    ],
)
def test_every_mechanism_of_rebalancing_learns_colours(trainer: Trainer, mechanism: dict[str, Any]) -> None:
    result = trainer.train(config(trainer, epochs=6, **mechanism), go_on)
    assert result.history[result.best_epoch]["val_recall"] > 0.8


def test_probabilities_do_not_depend_on_the_batch_size(trainer: Trainer, data: TrainData) -> None:
    trainer.prepare(config(trainer))
    augmenter = Augmenter(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0, device=CPU)
    one, many = (
        predict_proba(trainer.model, data.source, data.val_rows, augmenter=augmenter, batch_size=size)
        for size in (1, 32)
    )
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_measuring_an_epoch_changes_nothing(trainer: Trainer) -> None:
    before = losses(trainer.train(config(trainer), go_on).history)
    assert trainer.measure_epoch_s(config(trainer)) > 0
    assert losses(trainer.train(config(trainer), go_on).history) == before


def test_orders_differ_between_trials_and_epochs_and_leave_no_batch_of_one(trainer: Trainer) -> None:
    rows, labels = np.arange(33), np.arange(34) % 3
    orders = [
        tuple(epoch_order(rows, labels, config(trainer, trial=trial), epoch))
        for trial in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert {len(order) for order in orders} == {32}
    assert len(epoch_order(np.arange(34), labels, config(trainer), 0)) == 34


def test_derived_seeds_do_not_collide_where_sums_would() -> None:
    assert derive_seed(0, 1) != derive_seed(1, 0)
    assert len({derive_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}) == 512


def test_golden_losses_of_a_short_run(trainer: Trainer) -> None:
    """A refactoring keeps these; whoever changes them on purpose says why."""
    result = trainer.train(config(trainer, batch_size=32, drop_rate=0.3, label_smoothing=0.1), go_on)
    assert losses(result.history) == pytest.approx(GOLDEN_TRAIN_LOSSES, rel=1e-3)


def test_a_run_that_cannot_fit_is_told_before_it_takes_the_memory(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.trainer.memory_in_reach", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"batches of 24 at 32 pixels take about 0\.\d GB of memory, and 0\.0 GB"):
        trainer.train(config(trainer, batch_size=24), go_on)


def test_with_layer_decay_early_blocks_move_less_and_the_next_run_has_nothing_of_it(trainer: Trainer) -> None:
    def moves(**changes: Any) -> list[float]:
        wanted = config(trainer, epochs=1, optimizer="sgd", lr=1e-3, **changes)
        run = trainer.prepare(wanted)
        before = {name: tensor.detach().clone() for name, tensor in trainer.model.backbone.named_parameters()}
        run.train_epoch(0, lambda images: None)
        after = {name: tensor.detach() for name, tensor in trainer.model.backbone.named_parameters()}
        kernels = [next(n for n in block if n in after and after[n].ndim > 1) for block in trainer.model.blocks]
        return [float((after[name] - before[name]).norm()) for name in kernels]

    plain, layered = moves(), moves(layer_decay=0.5)
    ratios = [one / other for one, other in zip(layered, plain, strict=True)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.2
    assert moves() == plain


def test_an_interrupted_run_in_layers_continues_with_the_same_numbers(trainer: Trainer, tmp_path: Path) -> None:
    wanted = config(trainer, layer_decay=0.7)
    undisturbed = trainer.train(wanted, go_on)

    resumed = resumed_after_a_cut(trainer, wanted, tmp_path / "running")
    assert losses(resumed.history) == losses(undisturbed.history)
    np.testing.assert_array_equal(resumed.val_probs, undisturbed.val_probs)
