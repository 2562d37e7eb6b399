"""Augmented, normalised views of images: batched, on the device, and the same for whoever asks.

The view of an image in an epoch is a function of (seed, image, epoch, strength) alone. Its random numbers come from a
hash of these and not from a generator, so that order, batch size, device and earlier calls don't change them, and all
trials of a study see the same views (docs/decisions/0005).

Shapes: B batch, C colour channels, S stored side, H output side, both in pixels.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from core.framing import Framing

# Ranges at strength 1; a strength scales them. Lesions have no natural orientation, so rotation is soon all the way.
MAX_ANGLE = math.pi  # radians, either way; more than this would only repeat
MAX_LOG_ZOOM = 0.2  # the field shown is exp(±0.2) of the stored one; 1.15x stored pixels keep the rest from blurring
MAX_SHIFT = 0.1  # of half the field, in x and y: what cropping would move
MAX_LOG_CONTRAST = 0.2  # about mid-grey
MAX_BRIGHTNESS = 0.1  # of the full range

# Quarter turns, and whether mirrored before. Turned by a quarter, a squeezed photo shows things in proportions that no
# photo has, so that these come last.
_WAYS_TO_LIE: dict[Framing, tuple[tuple[int, bool], ...]] = {
    "whole": ((2, False), (0, True), (2, True), (1, False), (3, False), (1, True), (3, True)),
    "centre": ((1, False), (2, False), (3, False), (0, True), (1, True), (2, True), (3, True)),
}

_DRAWS = 8  # random numbers a view: angle, two flips, zoom, two shifts, contrast, brightness


def uniform_draws(seed: int, rows_B: torch.Tensor, epoch: int, count: int = _DRAWS) -> torch.Tensor:
    """Numbers in [0, 1) that look random and depend on (seed, row, epoch, position) alone.

    Args:
        seed: Seed of the views.
        rows_B: int64 (B,), one id an image.
        epoch: Counted from 0.
        count: Positions.

    Returns:
        float32 (B, count) on the device of `rows_B`.

    Source: the output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014), chained over the inputs.
    """
    state = _mix(torch.full((), seed, dtype=torch.int64, device=rows_B.device))
    state = _mix(state ^ epoch)
    state_B = _mix(state ^ rows_B)
    positions = torch.arange(count, device=rows_B.device)
    bits = _mix(state_B[:, None] ^ _mix(positions)[None, :])
    return _shift_right(bits, 40).float() / 2**24  # 24 bits are what float32 holds exactly


def _mix(x: torch.Tensor) -> torch.Tensor:
    # int64 arithmetic wraps, which makes it that of uint64; the constants are the signed twins of the paper's.
    x = x - 7046029254386353131
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift; torch's own repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Augmenter:
    """Turns uint8 batches into what a model sees.

    Args:
        image_size: Side of the output, pixels.
        mean: Mean of each colour channel in [0, 1], as the weight tag wants it.
        std: Standard deviation likewise.
        seed: Seed of the views.
        device: Where batches lie.
    """

    def __init__(
        self, *, image_size: int, mean: Sequence[float], std: Sequence[float], seed: int, device: torch.device
    ) -> None:
        self.image_size = image_size
        self.seed = seed
        self._mean_C = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std_C = torch.tensor(std, dtype=torch.float32, device=device)
        # In a tensor, which a card need not be sent at every batch.
        self._strength = torch.zeros((), device=device)

    def set_strength(self, strength: float) -> None:
        """Sets the scale of all ranges: 0 shows every image as it is."""
        self._strength.fill_(strength)

    def train_view(self, images_BCSS: torch.Tensor, rows_B: torch.Tensor, epoch: int) -> torch.Tensor:
        """The view of each image in an epoch.

        Args:
            images_BCSS: uint8 (B, 3, S, S).
            rows_B: int64 (B,), the images' rows in the manifest.
            epoch: Counted from 0.

        Returns:
            float32 (B, 3, H, H), channels_last, normalised.
        """
        # Wrapping 64-bit products are not promised on mps.
        rows_B = rows_B.cpu() if rows_B.device.type == "mps" else rows_B
        draws = uniform_draws(self.seed, rows_B, epoch).to(images_BCSS.device)
        signed = 2 * draws - 1
        strength = self._strength
        affine = _affine(
            angle=signed[:, 0] * MAX_ANGLE * strength.clamp(max=1),
            # Flips are either on or off: there is no half a mirror. `sign` keeps that free of a branch on the device.
            flips=1 - 2 * (draws[:, 1:3] < 0.5).float() * strength.sign(),
            zoom=torch.exp(signed[:, 3] * MAX_LOG_ZOOM * strength),
            shift=signed[:, 4:6] * MAX_SHIFT * strength,
        )
        contrast = torch.exp(signed[:, 6] * MAX_LOG_CONTRAST * strength)
        brightness = signed[:, 7] * MAX_BRIGHTNESS * strength
        return self._render(images_BCSS, affine, contrast, brightness)

    def eval_view(self, images_BCSS: torch.Tensor) -> torch.Tensor:
        """The whole field, unchanged but for its size and normalisation; shapes as in `train_view`."""
        # What an affine map that moves nothing would sample, in a third of the time.
        size = (self.image_size, self.image_size)
        pixels = F.interpolate(images_BCSS.float(), size=size, mode="bilinear", align_corners=False)
        return self._normalise(pixels, 1 / (255 * self._std_C)[None], (-self._mean_C / self._std_C)[None])

    def _render(
        self, images_BCSS: torch.Tensor, affine_B23: torch.Tensor, contrast_B: torch.Tensor, brightness_B: torch.Tensor
    ) -> torch.Tensor:
        size = [len(images_BCSS), 3, self.image_size, self.image_size]
        # Mixed precision, which the frozen part runs in, would place pixels with the 8 bits of bf16: a pixel beside.
        with torch.autocast(images_BCSS.device.type, enabled=False):
            grid = F.affine_grid(affine_B23, size, align_corners=False)
            # Reflection shows skin where a turned square leaves the photo; black corners would be a feature to learn.
            pixels = F.grid_sample(
                images_BCSS.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
            )
        scale_BC = contrast_B[:, None] / (255 * self._std_C)
        offset_BC = (0.5 * (1 - contrast_B) + brightness_B)[:, None] / self._std_C - self._mean_C / self._std_C
        return self._normalise(pixels, scale_BC, offset_BC)

    @staticmethod
    def _normalise(pixels_BCHH: torch.Tensor, scale_BC: torch.Tensor, offset_BC: torch.Tensor) -> torch.Tensor:
        views = pixels_BCHH.mul_(scale_BC[:, :, None, None]).add_(offset_BC[:, :, None, None])
        return views.contiguous(memory_format=torch.channels_last)


def dihedral_views(images_BCHH: torch.Tensor, count: int, framing: Framing) -> Iterator[torch.Tensor]:
    """The first of the eight ways in which a square can lie, beginning with the images as they are.

    Args:
        images_BCHH: Normalised images, channels_last.
        count: How many, 1 to 8.
        framing: What of a photo they show.
    """
    yield images_BCHH
    for quarters, mirrored in _WAYS_TO_LIE[framing][: count - 1]:
        turned_BCHH = torch.rot90(images_BCHH.flip(3) if mirrored else images_BCHH, quarters, (2, 3))
        yield turned_BCHH.contiguous(memory_format=torch.channels_last)


def _affine(*, angle: torch.Tensor, flips: torch.Tensor, zoom: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Matrices (B, 2, 3) from output to input coordinates in [-1, 1]: flip, then turn and zoom, then shift."""
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1) * flips[:, None, :]
    return torch.cat([rows, shift.expand(-1, 2)[:, :, None]], 2)
