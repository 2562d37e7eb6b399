"""The methods themselves, without a command around them."""

import pytest
import torch

from core.archs import resolve_arch
from core.backbones import build_classifier
from core.collapse import spread
from core.pretrain import METHODS
from core.selfsupervised import build_method, vicreg_loss
from tests.fixtures.looking import looking_at_numbers

pytest.importorskip("lightly", reason="lightly isn't installed: pip install -e .[unlabelled]")


def test_a_slow_copy_moves_towards_the_network_and_not_the_other_way():
    arch = resolve_arch("test_efficientnet")
    classifier = build_classifier(arch, num_classes=2, weights=None, seed=0)
    method = build_method("byol", classifier, image_size=32, seed=0)
    weight, copied = method.projection.layers[0].weight, method.target[1].layers[0].weight
    with torch.no_grad():
        weight.add_(1)
    method.after_step(0.0)
    torch.testing.assert_close(weight - copied, torch.full_like(weight, 0.99), atol=1e-5, rtol=0)
    method.after_step(1.0)  # at the end it stands still
    torch.testing.assert_close(weight - copied, torch.full_like(weight, 0.99), atol=1e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in method.target.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_no_step_looks_at_its_numbers_so_that_a_card_can_record_it(name):
    arch = resolve_arch("test_efficientnet")
    classifier = build_classifier(arch, num_classes=2, weights=None, seed=0)
    method = build_method(name, classifier, image_size=32, seed=0).train()
    with looking_at_numbers() as looks:
        loss, features_BF = method(torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32))
        loss.backward()
        spread(features_BF)
    assert looks == []


@pytest.mark.parametrize(
    "look",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.clone().index_put_((tensor > 0,), torch.zeros(())),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.unique(),
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: torch.equal(tensor, tensor),
        lambda tensor: tensor.repeat_interleave(tensor.long()),
    ],
)
def test_looking_is_seen(look):
    with looking_at_numbers() as looks:
        look(torch.tensor([1.0, 0.0, 2.0]))
    assert looks


def test_vicreg_is_that_of_lightly():
    from lightly.loss import VICRegLoss

    ours, theirs = ([torch.randn(24, 16, generator=torch.manual_seed(seed)) for seed in (0, 1)] for _ in range(2))
    for projection in (*ours, *theirs):
        projection.requires_grad_()
    losses = vicreg_loss(*ours), VICRegLoss()(*theirs)
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)
