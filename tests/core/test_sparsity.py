"""L1: what the proximal step does to weights, and to runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.config import TrainConfig
from core.optim import build_optimizer, set_rate
from core.sparsity import share_of_zeros, shrink
from core.trainer import Trainer
from tests.fixtures.colours import colour_config, colour_trainer, go_on, resumed_after_a_cut, without_times


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return colour_trainer()


def optimizer_of(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    config = TrainConfig.from_dict({"arch": "a", "image_size": 32, "lr": 0.1} | changes)
    optimizer = build_optimizer(config, model)
    set_rate(optimizer, config, 0.1)
    return optimizer


def test_weights_move_by_rate_times_l1_and_stop_at_zero_and_biases_stay() -> None:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -0.5, 0.04, -0.05]]))
        model.bias.fill_(0.5)
    shrink(optimizer_of(model), 0.5)
    # By hand: 0.1 x 0.5 = 0.05 nearer to zero, at most as far as zero.
    assert model.weight.tolist() == [pytest.approx([0.45, -0.45, 0.0, 0.0])]
    assert model.bias.item() == 0.5
    assert share_of_zeros(model, model.state_dict()) == 0.5


@given(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=9), st.floats(0, 1))
def test_no_weight_changes_its_sign_or_grows(values: list[float], l1: float) -> None:
    model = nn.Linear(len(values), 1)
    before = torch.tensor([values])
    with torch.no_grad():
        model.weight.copy_(before)
    shrink(optimizer_of(model), l1)
    assert (model.weight.abs() <= before.abs()).all()
    assert (model.weight * before >= 0).all()
    torch.testing.assert_close(model.weight.detach(), before - before.clamp(-0.1 * l1, 0.1 * l1))


def test_a_rate_in_a_tensor_is_read_when_the_step_is_taken() -> None:
    held, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(held.state_dict())
    optimizer = optimizer_of(held)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.1)  # as on a card
    shrink(optimizer, 0.2)
    shrink(optimizer_of(plain), 0.2)
    torch.testing.assert_close(held.weight, plain.weight)


def test_what_is_frozen_keeps_its_weights_and_counts_for_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].weight.zero_()
    before = model[1].weight.clone()
    shrink(optimizer_of(model), 1e-3)
    assert (model[1].weight.abs() < before.abs()).all()
    assert share_of_zeros(model, model.state_dict()) == 0.0


def test_a_weight_that_is_not_finite_stays_so() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), 1.0]]))
    shrink(optimizer_of(model), 0.1)
    assert model.weight.isnan().tolist() == [[True, False]], "a run that has gone wrong must be seen to have"


def test_weights_of_a_run_become_zero_and_more_of_them_with_a_stronger_pull(trainer: Trainer) -> None:
    plain = trainer.train(colour_config(trainer, epochs=6), go_on)
    shares = [trainer.train(colour_config(trainer, epochs=6, l1=l1), go_on).zeros for l1 in (0.1, 1.0)]
    assert plain.zeros == 0
    assert 0 < shares[0] < shares[1] < 1
    again = trainer.train(colour_config(trainer, epochs=6), go_on)
    assert without_times(again.history) == without_times(plain.history), "the next run has nothing of it"


@pytest.mark.parametrize("depth", [0, 2])
def test_only_what_learns_becomes_zero(trainer: Trainer, depth: int) -> None:
    result = trainer.train(colour_config(trainer, unfreeze_depth=depth, l1=1.0), go_on)
    frozen = {name: tensor for name, tensor in result.model.items() if not _learns(trainer, name)}
    assert result.zeros > 0
    assert all(torch.equal(tensor, trainer._first_state[name]) for name, tensor in frozen.items())


def _learns(trainer: Trainer, name: str) -> bool:
    return name in trainer.model.learning_tensors() or name.endswith("num_batches_tracked")


def test_an_interrupted_run_shrinks_the_same_weights(trainer: Trainer, tmp_path: Path) -> None:
    wanted = colour_config(trainer, l1=0.3, layer_decay=0.8)
    undisturbed = trainer.train(wanted, go_on)
    resumed = resumed_after_a_cut(trainer, wanted, tmp_path / "running")
    assert without_times(resumed.history) == without_times(undisturbed.history)
    np.testing.assert_array_equal(resumed.val_probs, undisturbed.val_probs)
    assert resumed.zeros == undisturbed.zeros > 0
