"""Images of a batch are mixed in pairs, and so are their labels' losses: blended, or with a box of the other pasted in.

Mixup (Zhang et al. 2018) blends what the learning part is fed: pixels where everything learns, activations where
something is frozen (Verma et al. 2019, "Manifold mixup", at one layer). Blended pixels would make each activation of
the frozen part a new one, so that none could be remembered. Cutmix (Yun et al. 2019) pastes a box of pixels, so that it
is there only where everything learns: an activation has seen what lies around it, and pooled features have no places.

Shapes: N examples of an epoch, B batch, H image side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch

from core.config import TrainConfig
from core.losses import Criterion
from core.seeds import CUTMIX, MIXUP, derive_seed

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mix:
    """How images are mixed.

    Attributes:
        partners: Place of whom each is mixed with (N,).
        shares: Share of the image itself (N,), at least a half, so that it is its own rather than its partner's.
        boxes: What is the partner's, where images aren't blended (N, 4): top, bottom, left and right, pixels.
    """

    partners: Places
    shares: npt.NDArray[np.float64]
    boxes: Places | None = None

    def blend(self, values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers of the images, in the shares of the images."""
        return self.shares * values_N + (1 - self.shares) * values_N[self.partners]

    def batches(self, batch_size: int, device: torch.device) -> Iterator["BatchMix"]:
        """The part of each batch of the epoch, in their order."""
        # An epoch's at once: a card would stand still for each transfer.
        places_N = np.arange(len(self.partners))
        partners_N = torch.from_numpy(self.partners - places_N // batch_size * batch_size).to(device)
        # In double precision where there is one: MPS has none.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        shares = torch.from_numpy(self.shares[::batch_size]).to(device=device, dtype=dtype)
        boxes = repeat(None) if self.boxes is None else torch.from_numpy(self.boxes[::batch_size]).to(device)
        return map(BatchMix, torch.split(partners_N, batch_size), shares, boxes)


@dataclass(frozen=True, eq=False)
class BatchMix:
    """How a batch is mixed.

    Attributes:
        partners: Place in the batch of whom each is mixed with (B,).
        share: Of the image itself, a tensor without axes.
        box: What is the partner's (4,): top, bottom, left and right, pixels; None blends.
    """

    partners: torch.Tensor
    share: torch.Tensor
    box: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The fields that there are, which a recorded step is given."""
        return (self.partners, self.share) if self.box is None else (self.partners, self.share, self.box)

    def inputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Mixed inputs (B, ...); with a box, images (B, 3, H, H)."""
        if self.box is not None:
            return torch.where(_inside(self.box, inputs.shape[-1]), inputs[self.partners], inputs)
        # Its own first: the result has the memory layout of the first.
        return torch.lerp(inputs, inputs[self.partners], (1 - self.share).to(inputs.dtype))

    def loss(self, criterion: Criterion, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """The loss of mixed images: the mean over both labels' losses, in the same shares."""
        own, partners = criterion(logits_BC, labels_B), criterion(logits_BC, labels_B[self.partners])
        return (self.share * own + (1 - self.share) * partners).to(own.dtype)


def mix_epoch(count: int, config: TrainConfig, epoch: int) -> Mix | None:
    """Who is mixed with whom in an epoch: a function of (seed, trial, epoch); None where nobody is.

    Args:
        count: Images of the epoch.
        config: The parameter of Beta(mixup, mixup) or Beta(cutmix, cutmix), from which each batch has its share.
        epoch: Counted from 0.
    """
    if not mixes(config):
        return None
    parameter, purpose = (config.mixup, MIXUP) if config.mixup > 0 else (config.cutmix, CUTMIX)
    rng = np.random.default_rng(derive_seed(config.seed, config.trial, epoch, purpose))
    partners, shares = np.empty(count, dtype=np.int64), np.empty(count)
    boxes = np.empty((count, 4), dtype=np.int64) if config.cutmix > 0 else None
    for start in range(0, count, config.batch_size):
        size = min(config.batch_size, count - start)
        batch = slice(start, start + size)
        partners[batch] = start + rng.permutation(size)
        shares[batch] = share = _larger(rng.beta(parameter, parameter))
        if boxes is not None:
            boxes[batch] = box = _draw_box(1 - share, config.image_size, rng)
            shares[batch] = 1 - (box[1] - box[0]) * (box[3] - box[2]) / config.image_size**2  # the border cuts some off
    return Mix(partners, shares, boxes)


def mixes(config: TrainConfig) -> bool:
    """Whether images of a batch are mixed, of which each then depends on another."""
    return config.mixup > 0 or config.cutmix > 0


def _draw_box(share: float, side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a square of an image's area, less what lies beyond its border.

    Source: Yun et al., "CutMix", ICCV 2019, equation 2.

    Args:
        share: Of the area.
        side: Of the image, pixels.
        rng: Draws the centre, which may be anywhere in the image.
    """
    half = round(side * share**0.5) / 2
    edges = [(centre - half, centre + half) for centre in rng.uniform(0, side, 2)]
    (top, bottom), (left, right) = ((max(0, round(low)), min(side, round(high))) for low, high in edges)
    return top, bottom, left, right


def _inside(box: torch.Tensor, side: int) -> torch.Tensor:
    """Where a box is (H, H). Its edges stay on the device: a recorded step must not look at them."""
    places = torch.arange(side, device=box.device)
    rows, columns = ((places >= low) & (places < high) for low, high in (box[:2], box[2:]))
    inside: torch.Tensor = rows[:, None] & columns
    return inside


def _larger(share: float) -> float:
    return max(share, 1 - share)
