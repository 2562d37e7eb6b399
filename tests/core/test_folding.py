"""Norms are folded where that changes nothing, and nowhere else."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn
from torch.nn.utils import fusion

from benchmarks.contract import check_architecture, stir
from core import folding
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.classifier import Classifier
from core.folding import fold_norms

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def ready(network: nn.Module) -> nn.Module:
    """With statistics and weights that do something, in evaluation mode."""
    stir(network)
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


class NormTwice(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.convolution(images)) + self.norm(self.convolution(-images)))


class Reading(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.norm.weight[:, None, None]


class Inside(nn.Module):
    """Calls a part of its norm by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm.act(-self.norm(self.convolution(images))))


class Keeping(Chain):
    """Keeps what it has seen."""

    seen: Any = 0.0

    def forward(self, images: Tensor) -> Tensor:
        images = images + 0 * self.seen
        self.seen = images.mean()
        return super().forward(images)


class Deciding(Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


class Hiding(Chain):
    """Doesn't do what its trace says."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 1 if isinstance(images, Tensor) else images)


def test_a_norm_behind_a_convolution_is_folded_and_the_network_stays_as_it_is() -> None:
    network = ready(Chain())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_norms(network, IMAGES)
    assert (norms(network), norms(folded)) == (1, 0)
    torch.testing.assert_close(folded(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


Kind = Callable[[], nn.Module]


@pytest.mark.parametrize(
    "kind",
    [
        *(Beside, Between, Twice, NormTwice, Reading, Inside),
        lambda: Chain(StdConv2d),
        lambda: Chain(statistics=False),
    ],
)
def test_a_norm_that_shares_its_input_or_is_more_than_a_norm_stays(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "are_close", lambda whole, other: True)  # what is folded wrongly isn't given back
    network = ready(kind())
    assert fold_norms(network, IMAGES) is network


@pytest.mark.parametrize("kind", [Deciding, Hiding, lambda: nn.Conv2d(3, 4, 3)])
def test_what_has_no_norm_or_no_trace_to_trust_is_given_back(kind: Kind) -> None:
    network = ready(kind())
    assert fold_norms(network, IMAGES) is network


def test_a_network_is_whole_after_its_trace() -> None:
    network = ready(Keeping())
    fold_norms(network, IMAGES)
    assert torch.isfinite(network(IMAGES)).all()


def test_a_fold_that_gives_other_numbers_or_none_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ready(Chain())
    for wrong in (1.1, float("nan")):

        def fuse(convolution: nn.Conv2d, norm: nn.BatchNorm2d, factor: float = wrong) -> nn.Conv2d:
            fused = fusion.fuse_conv_bn_eval(convolution, norm)
            fused.weight.data *= factor
            return fused

        monkeypatch.setattr(folding, "fuse_conv_bn_eval", fuse)
        assert fold_norms(network, IMAGES) is network


def test_the_contract_tells_how_many_norms_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_architecture("test_resnet", every_depth=False).folded == 15
    monkeypatch.setattr(folding, "fuse_conv_bn_eval", lambda convolution, norm: convolution)  # ignores the norm
    assert check_architecture("test_resnet", every_depth=False).folded == 0
    monkeypatch.setattr(folding, "are_close", lambda whole, other: True)
    with pytest.raises(AssertionError, match="test_resnet: its folded norms lead elsewhere"):
        check_architecture("test_resnet", every_depth=False)


def test_threads_may_fold_at_once() -> None:
    models = [build_classifier(resolve_arch("test_resnet"), num_classes=5, weights=None, seed=0) for _ in range(4)]
    folded: list[nn.Module] = []
    threads = [threading.Thread(target=lambda model=model: folded.append(model.folded(32))) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [norms(network) for network in folded] == [0] * 4
    assert torch.isfinite(models[0](IMAGES)).all()  # fx patches modules while it traces


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
    model: Classifier = build_classifier(resolve_arch(name), num_classes=5, weights=None, seed=0)
    model.set_drop_rate(0.5)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stir(model)
    with torch.no_grad():
        model.train()(images)
    folded = model.folded(64)
    assert norms(folded) == left < norms(model)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
