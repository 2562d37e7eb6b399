"""Stochastic depth: while training, residual branches are left out at random, image by image."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Leaves a residual branch out for some images of a batch, and scales it for the others (Huang et al. 2016).

    Args:
        share: Rate of this branch over the network's.

    Attributes:
        rate: Probability of leaving it out, a tensor without axes, as `core.classifier.Classifier.drop_rate`. It is a
            setting and no part of the state dict.
        active: Whether it does anything. Where not, nothing is drawn: other runs must not notice that it is there.
    """

    rate: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.active = share, False
        self.register_buffer("rate", torch.zeros(()), persistent=False)

    def set_rate(self, rate: float) -> None:
        """Sets the network's rate, in place."""
        self.active = rate > 0
        self.rate.fill_(rate * self.share)

    def forward(self, branch: Tensor) -> Tensor:
        """What is left of a branch (B, ...)."""
        if not (self.training and self.active):
            return branch
        drawn = torch.rand(len(branch), *(1,) * (branch.ndim - 1), dtype=torch.float32, device=branch.device)
        keep = 1 - self.rate
        return branch * ((drawn < keep) / keep).to(branch.dtype)


def insert_stochastic_depth(backbone: nn.Module, shares: Mapping[str, float]) -> None:
    """Puts it where the architecture has a place for it.

    Args:
        backbone: Made without it.
        shares: Rate of each branch over the network's, by the name of its place.
    """
    for name, share in shares.items():
        parent, _, own = name.rpartition(".")
        setattr(backbone.get_submodule(parent), own, StochasticDepth(share))


def set_drop_path(network: nn.Module, rate: float) -> None:
    """Sets the rate of stochastic depth, in [0, 1), in place; a network without a place for it stays as it is."""
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.set_rate(rate)
