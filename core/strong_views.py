"""Strongly distorted views, for learning without labels: batched, on the device, and the same for whoever asks.

The sibling of `core.augment`: random numbers come from the same hash. Blur and solarisation, which Grill et al. use on
photographs, are left out: what tells skin lesions apart is fine structure.

Shapes: B batch, C colour channels, S stored side, H output side, both in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from core.augment import uniform_draws

# Area, aspect, two shifts, angle, flip, contrast, brightness, saturation, hue, grey, two places and the side of a hole.
_DRAWS = 14
_MAX_LOG_ASPECT = math.log(4 / 3)  # as Szegedy et al. 2015, "Going deeper with convolutions", section 6
# The primaries' luminance and two axes of colour, in which saturation is a scale and hue an angle (NTSC's YIQ).
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How strongly images are distorted; angles and flips are always drawn from all there are.

    Attributes:
        least_area: Share of the stored area that a view shows at least, in (0, 1].
        log_contrast: Of the factor about mid-grey, either way.
        brightness: Of the full range, either way.
        log_saturation: Of the factor, either way.
        hue: Radians, either way.
        grey: Probability that a view has no colours.
        hole: Side of the largest square that is hidden, over the view's; 0 hides nothing.
    """

    least_area: float
    log_contrast: float
    brightness: float
    log_saturation: float
    hue: float
    grey: float
    hole: float


# Two views of one image (Chen, He 2021, appendix A, and Grill et al. 2020, appendix B, milder where skin asks for it:
# lesions lie in the middle of their photos, so that smaller crops show bare skin, and colours tell them apart).
SELF_SUPERVISED = Ranges(
    least_area=0.25, log_contrast=0.4, brightness=0.2, log_saturation=0.4, hue=0.2, grey=0.1, hole=0.0
)
# What a pseudo-label is held against (Sohn et al. 2020, section 2.3, with Cutout, DeVries, Taylor 2017). A label must
# survive it, so that colours stay and most of the lesion is seen.
PSEUDO_LABELLED = Ranges(
    least_area=0.4, log_contrast=0.4, brightness=0.2, log_saturation=0.4, hue=0.1, grey=0.0, hole=0.4
)


class StrongAugmenter:
    """Turns uint8 batches into strongly distorted views.

    Args:
        ranges: How strongly.
        image_size: Side of the output, pixels.
        mean: Mean of each colour channel in [0, 1], as the weight tag wants it.
        std: Standard deviation likewise.
        seed: Seed of the views.
        device: Where batches lie.
    """

    def __init__(
        self,
        ranges: Ranges,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: torch.device,
    ) -> None:
        self.ranges, self.image_size, self.seed = ranges, image_size, seed
        self._mean_C = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std_C = torch.tensor(std, dtype=torch.float32, device=device)
        self._yiq_CC = torch.tensor(_YIQ, dtype=torch.float32, device=device)
        self._rgb_CC = torch.linalg.inv(torch.tensor(_YIQ, dtype=torch.float64)).float().to(device)

    def view(self, images_BCSS: torch.Tensor, rows_B: torch.Tensor, number: int) -> torch.Tensor:
        """One of the views of each image.

        Args:
            images_BCSS: uint8 (B, 3, S, S).
            rows_B: int64 (B,), the images' rows.
            number: Which view; another number is another view.

        Returns:
            float32 (B, 3, H, H), channels_last, normalised.
        """
        # Wrapping 64-bit products are not promised on mps.
        rows_B = rows_B.cpu() if rows_B.device.type == "mps" else rows_B
        draws = uniform_draws(self.seed, rows_B, number, _DRAWS).to(images_BCSS.device)
        size = [len(images_BCSS), 3, self.image_size, self.image_size]
        grid = F.affine_grid(self._places(draws[:, :6]), size, align_corners=False)
        pixels = F.grid_sample(
            images_BCSS.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        colours_BCC, offset_BC = self._colours(draws[:, 6:11])
        views = torch.einsum("bij,bjhw->bihw", colours_BCC / 255, pixels) + offset_BC[:, :, None, None]
        if self.ranges.hole > 0:
            views = views * self._kept(draws[:, 11:14])
        return views.contiguous(memory_format=torch.channels_last)

    def _places(self, draws_B6: torch.Tensor) -> torch.Tensor:
        """Matrices (B, 2, 3) from output to input coordinates in [-1, 1]: flip, crop, turn, shift."""
        area = self.ranges.least_area + (1 - self.ranges.least_area) * draws_B6[:, 0]
        aspect = torch.exp((2 * draws_B6[:, 1] - 1) * _MAX_LOG_ASPECT)
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        shift = (2 * draws_B6[:, 2:4] - 1) * (1 - torch.stack([width, height], 1))
        angle = (2 * draws_B6[:, 4] - 1) * math.pi
        flip = 1 - 2 * (draws_B6[:, 5] < 0.5).float()
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = [torch.stack([cos * width * flip, -sin * height], 1), torch.stack([sin * width * flip, cos * height], 1)]
        return torch.cat([torch.stack(rows, 1), shift[:, :, None]], 2)

    def _colours(self, draws_B5: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What turns pixels in [0, 1] into normalised ones of other colours: matrices (B, C, C) and offsets (B, C)."""
        signed, ranges = 2 * draws_B5 - 1, self.ranges
        contrast = torch.exp(signed[:, 0] * ranges.log_contrast)
        coloured = (draws_B5[:, 4] >= ranges.grey).float()
        saturation = torch.exp(signed[:, 2] * ranges.log_saturation) * coloured
        hue = signed[:, 3] * ranges.hue
        cos, sin = saturation * torch.cos(hue), saturation * torch.sin(hue)
        one, none = torch.ones_like(cos), torch.zeros_like(cos)
        rows = ([one, none, none], [none, cos, -sin], [none, sin, cos])
        turned_BCC = torch.stack([torch.stack(row, 1) for row in rows], 1)
        colours_BCC = contrast[:, None, None] * (self._rgb_CC @ turned_BCC @ self._yiq_CC)
        # A grey keeps its luminance under the matrix, so that mid-grey stays what contrast turns about.
        offset_B = 0.5 * (1 - contrast) + signed[:, 1] * ranges.brightness
        return colours_BCC / self._std_C[:, None], (offset_B[:, None] - self._mean_C) / self._std_C

    def _kept(self, draws_B3: torch.Tensor) -> torch.Tensor:
        """0 where a view is hidden, which then shows the mean colour, and 1 elsewhere; float32 (B, 1, H, H)."""
        places_H = (torch.arange(self.image_size, device=draws_B3.device) + 0.5) / self.image_size
        half_B1 = 0.5 * self.ranges.hole * draws_B3[:, 2:3]
        across_BH, down_BH = ((places_H - draws_B3[:, axis, None]).abs() < half_B1 for axis in (0, 1))
        hidden_BHH = down_BH[:, :, None] & across_BH[:, None, :]
        return 1 - hidden_BHH[:, None].float()
