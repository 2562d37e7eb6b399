"""What one epoch of a run gave, and how it may fail."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from core.evaluation import Evaluation


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss was not finite in epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


class EpochResult(NamedTuple):
    """One epoch."""

    epoch: int  # counted from 0
    lr: float  # of its last step
    images_per_s: float  # while training
    elapsed_s: float  # of the run so far, validation included
    train: Evaluation  # running: each batch before its step, as augmented and with dropout
    val: Evaluation

    def to_row(self, classes: Sequence[str]) -> dict[str, float]:
        """The epoch as a row of `history.csv`."""
        row = {"epoch": self.epoch, "lr": self.lr, "images_per_s": self.images_per_s, "elapsed_s": self.elapsed_s}
        for part, evaluation in (("train", self.train), ("val", self.val)):
            row |= {
                f"{part}_{name}": getattr(evaluation, name) for name in ("loss", "accuracy", "recall", "recall_argmax")
            }
            row |= {f"{part}_recall_{name}": recall for name, recall in zip(classes, evaluation.recalls, strict=True)}
        return row


def check_finite(losses: list[torch.Tensor], epoch: int, last_step: int) -> None:
    """Raises NonFiniteLossError for the first loss, of steps up to `last_step`, that is NaN or infinite."""
    finite = torch.isfinite(torch.stack(losses)).tolist()
    if not all(finite):
        raise NonFiniteLossError(epoch, last_step - len(losses) + 1 + finite.index(False))
