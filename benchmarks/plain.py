"""The honest opponent: what a competent user writes with torchvision and a DataLoader, given its best settings.

Legend: B images of a batch, S side of an image in pixels.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from core.framing import Framing


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """Image files, decoded and scaled to a square whenever they are asked for."""

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        *,
        image_size: int,
        framing: Framing = "centre",
        augment_strength: float = 0.0,
        reflect: bool = False,
    ) -> None:
        """Decodes nothing yet.

        Args:
            files: One path an image.
            labels: One class an image.
            image_size: S, pixels.
            framing: What of a photo is shown; see `core.framing`.
            augment_strength: Scale of the ranges of the random transforms; 0 for none.
            reflect: As for `random_transforms`.
        """
        self.files = [str(file) for file in files]
        self.labels = [int(label) for label in labels]
        self.image_size = image_size
        self.framing = framing
        self.augment = random_transforms(augment_strength, reflect=reflect) if augment_strength else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One image, uint8 (3, S, S), and its label."""
        image: torch.Tensor = decode_image(self.files[index], mode=ImageReadMode.RGB)
        square = [self.image_size, self.image_size]
        if self.framing == "whole":
            image = v2.functional.resize(image, square, antialias=True)
        else:
            # As uint8, and cropped last: the decoder's channels_last image has the fast way through the resize.
            image = v2.functional.center_crop(v2.functional.resize(image, square[:1], antialias=True), square)
        return image if self.augment is None else self.augment(image), self.labels[index]


class ReflectingAffine(v2.RandomAffine):  # type: ignore[misc]  # torchvision has no types
    """Shows reflected skin where a turned image leaves the photo, but for the corners of the views that show most: the
    image is widened by a quarter on each side before."""

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """The turned image, as large as before."""
        size = list(inpt.shape[-2:])
        wider = v2.functional.pad(inpt, [size[-1] // 4], padding_mode="reflect")
        turned: torch.Tensor = v2.functional.center_crop(super().transform(wider, params), size)
        return turned


def random_transforms(strength: float, *, reflect: bool = False) -> v2.Transform:
    """torchvision's transforms with the ranges of `core.augment` at a strength, of square images.

    Args:
        strength: Scales the ranges.
        reflect: Whether reflected skin shows in the corners of what is turned and not black, as in `core.augment`. It
            takes longer, so that comparisons of speed alone are without; but networks that learn from few images with
            black corners recognise less in others, which have none.
    """
    factor = math.exp(0.2 * strength)  # of zoom and contrast
    affine = ReflectingAffine if reflect else v2.RandomAffine
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            affine(
                degrees=180 * min(strength, 1),
                translate=(0.05 * strength, 0.05 * strength),  # of the side; ours is 0.1 of its half
                scale=(1 / factor, factor),
                interpolation=InterpolationMode.BILINEAR,
                fill=None,  # black as by default, without a mask that is turned too
            ),
            v2.ColorJitter(
                brightness=0.2 * strength,  # a factor: at mid-grey 0.1 of the full range
                contrast=(1 / factor, factor),
            ),
        ]
    )


def plain_loader(
    images: PlainImages,
    *,
    batch_size: int,
    workers: int,
    prefetch: int = 2,
    shuffle: bool = False,
    pin_memory: bool = False,
    start: str = "spawn",
) -> DataLoader[tuple[torch.Tensor, int]]:
    """Batches of uint8 (B, 3, S, S) and int64 (B,); the last one may be smaller.

    Args:
        images: What to load.
        batch_size: B.
        workers: Processes, which outlive the epoch; 0 to decode in this one.
        prefetch: Batches that each worker prepares in advance.
        shuffle: Whether each epoch has another order.
        pin_memory: True where batches go to a GPU.
        start: How workers start. Forked ones start at once, but only where this process has no threads to lose.
    """
    return DataLoader(
        images,
        batch_size=batch_size,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context=start if workers else None,
        shuffle=shuffle,
        pin_memory=pin_memory,
    )


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """What a model sees of a batch, on its device: there, because as uint8 it travels in a quarter of the bytes.

    Args:
        images: uint8 (B, 3, S, S).
        mean: Mean of each channel in [0, 1].
        std: Standard deviation likewise.

    Returns:
        float32 (B, 3, S, S), channels_last.
    """
    scaled: torch.Tensor = v2.functional.normalize(images.float().div_(255), mean, std, inplace=True)
    return scaled.contiguous(memory_format=torch.channels_last)
