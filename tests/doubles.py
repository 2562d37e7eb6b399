"""Doubles that several tests share, made by hand."""

from collections.abc import Iterator

import numpy as np
import torch

from core.sources import Batch, BatchSource


class ArraySource(BatchSource):
    """Pixels in memory."""

    name = "array"

    def __init__(self, images: torch.Tensor, labels: np.ndarray) -> None:
        super().__init__(np.arange(len(labels)), stored_size=images.shape[-1], device=torch.device("cpu"))
        self.images, self.labels = images, torch.from_numpy(labels)

    def _batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        for part in torch.from_numpy(rows).split(batch_size):
            yield Batch(self.images[part], self.labels[part], part)
