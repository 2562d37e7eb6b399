"""Mixup: images of a batch are blended in pairs, and so are their labels' losses (Zhang et al. 2018).

What is blended is what the learning part is fed: pixels where everything learns, activations where something is frozen
(Verma et al. 2019, "Manifold mixup", at one layer). Blended pixels would make each activation of the frozen part a new
one, so that none could be remembered.

Shapes: N examples of an epoch, B batch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from core.config import TrainConfig
from core.losses import Criterion
from core.seeds import MIXUP, derive_seed

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mix:
    """How images are blended.

    Attributes:
        partners: Place of whom each is blended with (N,).
        shares: Share of the image itself (N,), at least a half, so that it is its own rather than its partner's.
    """

    partners: Places
    shares: npt.NDArray[np.float64]

    def blend(self, values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers of the images, in the shares of the images."""
        return self.shares * values_N + (1 - self.shares) * values_N[self.partners]

    def batch(self, start: int, size: int, device: torch.device) -> "BatchMix":
        """The part of a batch that begins at a place of the epoch."""
        partners = torch.from_numpy(self.partners[start : start + size] - start)
        return BatchMix(partners.to(device), torch.tensor(self.shares[start], device=device))


@dataclass(frozen=True, eq=False)
class BatchMix:
    """How a batch is blended.

    Attributes:
        partners: Place in the batch of whom each is blended with (B,).
        share: Of the image itself, float64 without axes.
    """

    partners: torch.Tensor
    share: torch.Tensor

    def inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Blended inputs (B, ...)."""
        # Its own first: the result has the memory layout of the first.
        return torch.lerp(inputs, inputs[self.partners], (1 - self.share).to(inputs.dtype))

    def loss(self, criterion: Criterion, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """The loss of blended images: the mean over both labels' losses, in the same shares."""
        own, partners = criterion(logits_BC, labels_B), criterion(logits_BC, labels_B[self.partners])
        return (self.share * own + (1 - self.share) * partners).to(own.dtype)


def mix_epoch(count: int, config: TrainConfig, epoch: int) -> Mix | None:
    """Who is blended with whom in an epoch: a function of (seed, trial, epoch); None where nobody is.

    Args:
        count: Images of the epoch.
        config: The parameter of Beta(mixup, mixup), from which each batch has its share.
        epoch: Counted from 0.
    """
    if config.mixup == 0:
        return None
    rng = np.random.default_rng(derive_seed(config.seed, config.trial, epoch, MIXUP))
    partners, shares = np.empty(count, dtype=np.int64), np.empty(count)
    for start in range(0, count, config.batch_size):
        size = min(config.batch_size, count - start)
        partners[start : start + size] = start + rng.permutation(size)
        shares[start : start + size] = _larger(rng.beta(config.mixup, config.mixup))
    return Mix(partners, shares)


def _larger(share: float) -> float:
    return max(share, 1 - share)
