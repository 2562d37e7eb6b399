"""The methods themselves, without a command around them."""

import pytest
import torch

from core.archs import resolve_arch
from core.backbones import build_classifier
from core.selfsupervised import build_method

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
