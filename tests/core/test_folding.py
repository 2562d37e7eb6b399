"""Norms are folded where that changes nothing, and nowhere else."""

from typing import cast

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from benchmarks.contract import stir
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.folding import fold_norms

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def ready(network: nn.Module) -> nn.Module:
    """With statistics and weights that do something, in evaluation mode."""
    stir(network)
    with torch.no_grad():
        network.train()(IMAGES)
    return network.eval()


class Chain(nn.Module):
    """A convolution and what comes after it, in a subclass's own order."""

    def __init__(self, convolution: type[nn.Conv2d] = nn.Conv2d, *, statistics: bool = True) -> None:
        super().__init__()
        self.convolution = convolution(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=statistics)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.convolution(images)))


class Beside(Chain):
    def forward(self, images: Tensor) -> Tensor:
        convolved = self.convolution(images)
        return cast(Tensor, self.norm(convolved) + convolved)


class Between(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.convolution(images).relu()))


class Twice(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.convolution(images))[:, :, 1:] + self.convolution(images)[:, :, 1:])


class Deciding(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


class Forgetful(Chain):
    """Doesn't do what its trace says."""

    traced = False

    def forward(self, images: Tensor) -> Tensor:
        if not self.traced:
            self.traced = True
            return super().forward(images) + 1
        return super().forward(images)


def test_a_norm_behind_a_convolution_is_folded_and_the_network_stays_as_it_is() -> None:
    network = ready(Chain())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_norms(network, IMAGES)
    assert (norms(network), norms(folded)) == (1, 0)
    torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", [Beside, Between, Twice, lambda: Chain(StdConv2d), lambda: Chain(statistics=False)])
def test_a_norm_whose_input_is_something_else_as_well_stays(kind) -> None:  # type: ignore[no-untyped-def]
    network = ready(kind())
    folded = fold_norms(network, IMAGES)
    assert norms(folded) == 1
    torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Deciding, Forgetful, lambda: nn.Conv2d(3, 4, 3)])
def test_what_has_no_norm_or_no_trace_to_trust_is_given_back(kind) -> None:  # type: ignore[no-untyped-def]
    network = kind().eval()
    assert fold_norms(network, IMAGES) is network


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mobilenet", 0),
        ("tf_efficientnet_lite0", 0),
        ("test_resnet", 0),
        ("densenet121", 62),  # most of its norms take what several convolutions gave
    ],
)
def test_a_classifier_gives_the_same_logits(name: str, left: int) -> None:
    model = build_classifier(resolve_arch(name), num_classes=5, weights=None, seed=0)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stir(model)
    with torch.no_grad():
        model.train()(images)
    folded = model.folded(64)
    assert norms(folded) == left < norms(model)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
