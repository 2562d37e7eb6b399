"""What every contestant of benchmarks.loading is given, and how it answers.

Legend: S stored side in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from core.framing import Frame
    from core.manifest import Manifest
    from core.seeds import Rows

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

# Every call is an epoch: each image once, as batches that are ready to be used.
Epoch = Callable[[], "Iterator[torch.Tensor]"]


@dataclass(frozen=True)
class Plan:
    """What all contestants are given.

    Attributes:
        manifest: The images, no others.
        order: The rows as every epoch visits them.
        image_size: Side of the square that a model would see, pixels.
        device: Name of the device where batches shall be.
        augmented: Whether random views are asked for instead of the stored squares.
        folder: Where a contestant may keep files.
    """

    manifest: "Manifest"
    order: "Rows"
    image_size: int
    device: str
    augmented: bool
    folder: Path

    @property
    def frame(self) -> "Frame":
        """What is kept of each photo: the centre, on both sides."""
        from core.framing import Frame

        return Frame.of(self.image_size, "centre")

    @property
    def stored_size(self) -> int:
        """S, pixels."""
        return self.frame.size

    @property
    def files(self) -> list[Path]:
        """The files in the order of the epoch."""
        return [self.manifest.file(row) for row in self.order]


# Gets a contestant ready in its process; what has to be closed goes onto the stack.
Opener = Callable[[Plan, ExitStack], Epoch]


def view_of(plan: Plan) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
    """What our batches become: augmented views, or just what they are."""
    import torch

    from core.augment import Augmenter

    if not plan.augmented:
        return lambda images, rows: images
    augmenter = Augmenter(image_size=plan.image_size, mean=MEAN, std=STD, seed=0, device=torch.device(plan.device))
    augmenter.set_strength(1.0)
    return lambda images, rows: augmenter.train_view(images, rows, 0)
