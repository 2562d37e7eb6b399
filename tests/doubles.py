"""Doubles that several tests share, made by hand."""

from collections.abc import Iterator

import numpy as np
import torch

from core.framing import DEFAULT, Frame
from core.sources import Batch, BatchSource

CPU = torch.device("cpu")


class ArraySource(BatchSource):
    """Pixels in memory."""

    name = "array"

    def __init__(self, images: torch.Tensor, labels: np.ndarray, device: torch.device = CPU) -> None:
        super().__init__(np.arange(len(labels)), frame=Frame(images.shape[-1], DEFAULT), device=device)
        self.images, self.labels = images.to(device), torch.from_numpy(labels).to(device)

    def _batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        for part in torch.from_numpy(rows).to(self.device).split(batch_size):
            yield Batch(self.images[part], self.labels[part], part)
