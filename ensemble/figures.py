"""What probabilities are worth on images whose truth is known: how often they are right, and how far to be believed.

Shapes: N examples, C classes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from core.metrics import (
    Floats,
    Interval,
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    macro_recall,
    negative_log_likelihood,
)
from ensemble.decision import choose


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One step on the way to an ensemble.

    Attributes:
        name: Of the step.
        recall: Macro.
        interval: The 95 % interval of that, over lesions.
        accuracy: Share of right decisions.
        ece: Expected calibration error.
        nll: Mean negative log likelihood, nats.
    """

    name: str
    recall: float
    interval: Interval
    accuracy: float
    ece: float
    nll: float

    @classmethod
    def of(
        cls, name: str, probs_NC: Floats, labels_N: npt.NDArray[np.int64], *, interval: Interval, **others: Any
    ) -> Self:
        """Those of probabilities (N, C), by their argmax.

        Args:
            name: Of the step.
            probs_NC: As they are decided by.
            labels_N: The truth.
            interval: Of the recall; whoever compares steps draws the same lesions for all.
            others: The fields of a kind of step.
        """
        confusion_CC = confusion_matrix(labels_N, choose(probs_NC), probs_NC.shape[1])
        return cls(
            name=name,
            recall=macro_recall(confusion_CC),
            interval=interval,
            accuracy=accuracy(confusion_CC),
            ece=expected_calibration_error(labels_N, probs_NC),
            nll=negative_log_likelihood(labels_N, probs_NC),
            **others,
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "step": self.name,
            "macro_recall": self.recall,
            "macro_recall_interval": list(self.interval),
            "accuracy": self.accuracy,
            "expected_calibration_error": self.ece,
            "negative_log_likelihood": self.nll,
        }
