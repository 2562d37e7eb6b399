"""What a pre-training is given, and what each epoch gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.config import TrainConfig
from core.sources import BatchSource

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What decides the numbers of a pre-training, besides images and first weights.

    Attributes:
        method: One of `core.pretrain.METHODS`.
        descent: Architecture, image size, epochs, batch size, learning rate, weight decay, warm-up and seed; its other
            fields are of training with labels, and nothing here reads them.
    """

    method: str
    descent: TrainConfig

    def to_dict(self) -> dict[str, Any]:
        """The fields that are read, as JSON can hold them."""
        names = ("arch", "image_size", "epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "seed")
        fields = self.descent.to_dict()
        return {"method": self.method, **{name: fields[name] for name in names}}


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled images of the training part, by which the features are watched; nothing learns from their labels.

    Attributes:
        source: Gives them, as rows 0 to N - 1.
        labels: Class of each, int64 (N,).
        groups: A number for each one's lesion, int64 (N,).
        num_classes: Number of classes.
    """

    source: BatchSource
    labels: Ints
    groups: Ints
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class PretrainEpoch:
    """What an epoch gave.

    Attributes:
        epoch: Counted from 0.
        loss: Mean over the steps, in the method's own unit.
        spread: Mean of `core.collapse.spread` of the features, as a batch has them.
        recall: `core.collapse.neighbour_recall` of the features; None where it wasn't looked at.
        images_per_s: While training, since the process began or the epoch before ended.
    """

    epoch: int
    loss: float
    spread: float
    recall: float | None
    images_per_s: float
