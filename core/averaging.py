"""Averages of the weights that a run passes through: they often validate better than the last ones, at no cost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from core.config import TrainConfig


def averages(config: TrainConfig) -> bool:
    """Whether a config asks for an average."""
    return config.ema > 0 or config.average_last > 0


def share_of_newest(config: TrainConfig, *, epoch: int, step: int, steps: int) -> float:
    """How much of the average the weights after a step are; in (0, 1].

    With a horizon of H steps it is 1/H, as in any exponential moving average. Until there have been as many it is 1/n,
    the plain mean of all so far: at usual rates, made for runs of a hundred epochs, a short one would end before its
    average has forgotten the first weights. The mean of the last epochs is that of all steps since they began.

    Args:
        config: Horizon or last epochs.
        epoch: Counted from 0.
        step: Of the epoch, counted from 0.
        steps: Of each epoch.
    """
    first = max(0, config.epochs - config.average_last) * steps if config.average_last else 0
    so_far = max(1, epoch * steps + step + 1 - first)
    return min(1.0, max(1 / (config.ema * steps), 1 / so_far)) if config.ema else 1 / so_far


class WeightAverage:
    """A running average of a model's tensors.

    Running statistics of batch normalisation are averaged with the weights, as timm does it. Each is itself an average
    of the last ten steps or so, and the horizons here are longer.

    Args:
        tensors: What changes while training, by name; always the same memory.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._names = list(tensors)
        self._newest = [tensor.detach() for tensor in tensors.values()]
        self._means = [tensor.clone() for tensor in self._newest]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The average, by name."""
        return dict(zip(self._names, self._means, strict=True))

    def update(self, share: float) -> None:
        """Moves the average towards the model by a share of the way."""
        torch._foreach_lerp_(self._means, self._newest, share)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts another average in the place of this one.

        Raises:
            ValueError: It is of other tensors.
        """
        own = self.tensors
        if {n: (t.shape, t.dtype) for n, t in tensors.items()} != {n: (t.shape, t.dtype) for n, t in own.items()}:
            raise ValueError("its average is not of the model")
        for name, mean in own.items():
            mean.copy_(tensors[name])  # keeps the memory layout, which a file doesn't know

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model is its average; afterwards it is itself again, to the last bit."""
        newest = [tensor.clone() for tensor in self._newest]
        torch._foreach_copy_(self._newest, self._means)
        try:
            yield
        finally:
            torch._foreach_copy_(self._newest, newest)
