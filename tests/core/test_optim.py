import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.archs import resolve_arch
from core.backbones import build_classifier
from core.config import TrainConfig
from core.optim import (
    build_optimizer,
    count_plateaus,
    learning_rate,
    parameter_groups,
    reset_optimizer,
    set_rate,
)


def config(**changes: object) -> TrainConfig:
    return TrainConfig.from_dict({"arch": "a", "image_size": 64, "lr": 0.1, "epochs": 10, "warmup_epochs": 1} | changes)


@given(
    st.floats(0, 9.999),
    st.sampled_from(["cosine", "step", "plateau"]),
    st.lists(st.floats(0, 1), max_size=10),
    st.floats(0, 3),
)
def test_the_rate_stays_between_zero_and_its_peak(
    progress: float, schedule: str, recalls: list[float], warmup: float
) -> None:
    rate = learning_rate(config(schedule=schedule, warmup_epochs=warmup), progress, recalls)
    assert 0 <= rate <= 0.1


def test_the_warm_up_rises_evenly() -> None:
    assert learning_rate(config(), 0.25, []) == pytest.approx(0.025)
    assert learning_rate(config(), 0.5, []) == pytest.approx(0.05)


def test_the_cosine_falls_to_half_in_the_middle() -> None:
    assert learning_rate(config(), 1.0, []) == pytest.approx(0.1)
    assert learning_rate(config(), 5.5, []) == pytest.approx(0.05)
    assert learning_rate(config(), 9.999, []) < 1e-6


def test_steps_come_at_half_and_three_quarters() -> None:
    rates = [learning_rate(config(schedule="step", warmup_epochs=0), progress, []) for progress in (4.9, 5.0, 7.5)]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_a_plateau_halves_the_rate_after_two_epochs_without_gain() -> None:
    recalls = [0.5, 0.6, 0.6, 0.55, 0.61, 0.6, 0.6]
    assert count_plateaus(recalls) == 2
    assert learning_rate(config(schedule="plateau"), 7.0, recalls) == pytest.approx(0.025)


def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    decaying, others = parameter_groups(model, 0.3)
    assert decaying["weight_decay"] == 0.3
    assert others["weight_decay"] == 0.0
    assert [p.shape for p in decaying["params"]] == [(2, 4)]
    assert [tuple(p.shape) for p in others["params"]] == [(4,), (4,), (4,), (2,)]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_each_name_is_its_optimizer_and_learns(name: str, kind: type) -> None:
    model = nn.Linear(3, 1)
    optimizer = build_optimizer(config(optimizer=name), model)
    assert type(optimizer) is kind
    before = model(torch.ones(1, 3)).item()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert model(torch.ones(1, 3)).item() < before
    assert math.isfinite(before)


def test_each_block_learns_slower_than_the_one_after_it() -> None:
    model = build_classifier(resolve_arch("test_efficientnet"), num_classes=3, weights=None, seed=0)
    model.set_unfreeze_depth(3)
    wanted = config(layer_decay=0.5, weight_decay=0.3)
    optimizer = build_optimizer(wanted, model)
    reset_optimizer(optimizer, wanted)
    set_rate(optimizer, wanted, 0.08)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.backbone.named_parameters())
    by_block = [sorted({rates[id(named[name])] for name in block if name in named}) for block in model.blocks[-3:]]
    assert [rate for rates_of_block in by_block for rate in rates_of_block] == pytest.approx([0.01, 0.02, 0.04])
    assert {rates[id(p)] for p in model.backbone.get_classifier().parameters()} == {0.08}
    learning = [p for p in model.parameters() if p.requires_grad]
    assert rates.keys() == {id(p) for p in learning}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decays[id(p)] == (0.3 if p.ndim > 1 else 0.0) for p in learning)


def test_without_layer_decay_the_rate_is_everywhere_the_same_to_the_last_bit() -> None:
    model = nn.Linear(3, 1)
    optimizer = build_optimizer(config(), model)
    set_rate(optimizer, config(), 0.1 / 3)
    assert [group["lr"] for group in optimizer.param_groups] == 2 * [0.1 / 3]
