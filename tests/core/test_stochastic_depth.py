"""Residual branches are left out at random while training, where the architecture has any, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.archs import resolve_arch
from core.backbones import build_classifier, drop_path_shares
from core.microbatches import keeps_images_apart
from core.stochastic_depth import StochasticDepth, set_drop_path
from core.trainer import Trainer
from tests.fixtures.colours import colour_config, colour_trainer, go_on, resumed_after_a_cut, without_times


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return colour_trainer("test_convnext")


def test_a_branch_is_left_out_for_some_images_and_scaled_for_the_others() -> None:
    branch = StochasticDepth(share=0.5)
    branch.set_rate(0.8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept_B = branch(torch.ones(5000, 2, 3, 3)).flatten(1)
    assert (kept_B == kept_B[:, :1]).all(), "of an image it is left out as a whole"
    assert kept_B.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert kept_B.mean() == pytest.approx(1, abs=0.03)
    assert (kept_B == 0).float().mean() == pytest.approx(0.4, abs=0.02)


def test_without_a_rate_or_while_evaluating_nothing_is_left_out_or_drawn() -> None:
    images, branch = torch.rand(4, 2), StochasticDepth(share=1.0)
    before = torch.random.get_rng_state()
    assert branch(images) is images
    branch.set_rate(0.5)
    assert branch.eval()(images) is images
    assert torch.equal(torch.random.get_rng_state(), before)


def test_deeper_branches_are_left_out_more_often() -> None:
    for name in ("mobilenetv2_100", "efficientnet_b3", "test_convnext", "test_vit"):
        shares = list(drop_path_shares(name).values())
        assert shares == sorted(shares)
        assert 0 < shares[0] <= shares[-1] <= 1


def test_an_architecture_without_residual_branches_has_no_place_for_it() -> None:
    assert drop_path_shares("vgg11") == {}
    # Its blocks have places for it, but none of them has a shortcut past it.
    assert drop_path_shares("test_efficientnet") == {}


def test_frozen_blocks_leave_out_nothing() -> None:
    model = build_classifier(resolve_arch("test_vit"), num_classes=3, weights=None, seed=0)
    images = torch.rand(4, 3, 160, 160)
    set_drop_path(model, 0.9)
    model.set_unfreeze_depth(0)
    model.train()
    assert torch.equal(model.embed(images), model.embed(images))
    model.set_unfreeze_depth(model.max_unfreeze_depth)
    model.train()
    assert not torch.equal(model.embed(images), model.embed(images))


def test_it_is_no_part_of_what_is_kept_and_seen_by_who_would_divide_batches() -> None:
    model = build_classifier(resolve_arch("test_convnext"), num_classes=3, weights=None, seed=0)
    assert not [name for name in model.state_dict() if name.endswith("rate")]
    assert keeps_images_apart(model, 64)
    set_drop_path(model, 0.5)
    assert not keeps_images_apart(model, 64)


def test_it_changes_training_and_nothing_of_the_next_run(trainer: Trainer, tmp_path: Path) -> None:
    wanted = colour_config(trainer, drop_path=0.5)
    plain, dropping = trainer.train(colour_config(trainer), go_on), trainer.train(wanted, go_on)
    assert [row["train_loss"] for row in dropping.history] != [row["train_loss"] for row in plain.history]
    assert without_times(trainer.train(colour_config(trainer), go_on).history) == without_times(plain.history)

    resumed = resumed_after_a_cut(trainer, wanted, tmp_path / "running")
    assert without_times(resumed.history) == without_times(dropping.history)
    np.testing.assert_array_equal(resumed.val_probs, dropping.val_probs)
