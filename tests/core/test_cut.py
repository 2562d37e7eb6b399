"""Where a network may be cut, and where it may not."""

import torch
from torch import Tensor, nn

from core.cut import agrees, cut_network
from core.tracing import holders


class Pairs(nn.Module):
    """Hands pairs from block to block, as some networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = First(), Second()

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(images))
        return result


class First(nn.Module):
    """Gives a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.conv(images)
        return [features, features + 1]


class Second(nn.Module):
    """Takes a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 5, 3)

    def forward(self, pair: list[Tensor]) -> Tensor:
        result: Tensor = self.conv(pair[0] + pair[1]).mean((2, 3))
        return result


class Turned(nn.Module):
    """Has something else than images along its first axis where it would be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).flatten(0, 1)
        result: Tensor = self.second(features.unflatten(0, (-1, 3))).mean((2, 3))
        return result


def test_what_is_no_tensor_cannot_be_remembered() -> None:
    network = Pairs().eval()
    names = [name for name, _ in network.named_parameters()]
    cut = cut_network(network, frozen=names[:2], learning=names[2:])
    assert cut is None or not agrees(cut, network, torch.rand(3, 3, 8, 8))


def test_an_activation_is_that_of_one_image() -> None:
    network = Turned().eval()
    names = [name for name, _ in network.named_parameters()]
    cut = cut_network(network, frozen=names[:2], learning=names[2:])
    assert cut is None or (
        agrees(cut, network, torch.rand(3, 3, 8, 8)) == (len(cut.frozen(torch.rand(2, 3, 8, 8))) == 2)
    )


def test_what_lies_in_a_module_lies_in_those_around_it() -> None:
    assert holders(["a.b.weight", "a.b.bias", "a.c.d.weight", "scale"]) == {"a.b", "a.c.d", "a.c", "a", ""}
    assert holders([""]) == holders([]) == set()
