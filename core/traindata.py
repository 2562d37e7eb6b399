"""What a training run is given, and what it gives.

Shapes: N examples, C classes.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.checkpoint import RunState
from core.manifest import Manifest
from core.pixels import pixels_key
from core.semisupervised import UnlabelledImages
from core.sources import BatchSource
from core.sparsity import share_of_zeros
from core.splits import Split

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainData:
    """What a run learns from and is validated on; the test rows are nowhere in it.

    Attributes:
        source: Gives the images of `train_rows` and `val_rows`.
        labels: Class of every row of the manifest, int64.
        train_rows: Rows to learn from.
        val_rows: Rows to validate on; the order of all validation probabilities.
        classes: Class names.
        pixels: Names the source's pixels, for what is remembered of them; empty remembers nothing.
        unlabelled: Images without labels, for configs that learn from them too.
    """

    source: BatchSource
    labels: Rows
    train_rows: Rows
    val_rows: Rows
    classes: tuple[str, ...]
    pixels: str = ""
    unlabelled: UnlabelledImages | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the sources."""
        self.source.close()
        if self.unlabelled is not None:
            self.unlabelled.source.close()

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        split: Split,
        source: BatchSource,
        unlabelled: UnlabelledImages | None = None,
    ) -> "TrainData":
        """The train and validation parts of a split, their images from `source`."""
        return cls(
            source=source,
            labels=manifest.labels,
            train_rows=split.train,
            val_rows=split.val,
            classes=manifest.classes,
            pixels=pixels_key(manifest, source.frame),
            unlabelled=unlabelled,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult:
    """What a run gave.

    Attributes:
        history: One row an epoch, as `history.csv` has them.
        best_epoch: Epoch of the best validation recall, which the rest is of.
        val_probs: Uncorrected probabilities of the validation rows (N, C), float32.
        prior: The class frequencies that the model learned (C,).
        model: State dict, on the CPU.
        zeros: Share of its weights that are zero, of those that learned, biases and norms left out.
        elapsed_s: Seconds of training and validation.
        reason: Why it ended before its last epoch; empty if it did not.
    """

    history: list[dict[str, float]]
    best_epoch: int
    val_probs: npt.NDArray[np.float32]
    prior: npt.NDArray[np.float64]
    model: dict[str, torch.Tensor]
    zeros: float
    elapsed_s: float
    reason: str

    @classmethod
    def of(cls, state: RunState, reason: str, learning: nn.Module) -> "TrainResult":
        """What a run that is over leaves behind; the model says which weights learned."""
        return cls(
            history=state.history,
            best_epoch=state.best_epoch,
            val_probs=state.best_tensors["val_probs"].numpy(),
            prior=state.best_tensors["prior"].numpy(),
            model=state.best_model,
            zeros=share_of_zeros(learning, state.best_model),
            elapsed_s=state.elapsed_s,
            reason=reason,
        )
