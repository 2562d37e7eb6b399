"""From the best single trials to the ensemble: what each step gains on the same images, and what it costs.

Shapes: N examples, K rungs, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.metrics import (
    Floats,
    Interval,
    LesionBootstrap,
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    macro_recall,
    middle,
    negative_log_likelihood,
)
from ensemble.decision import choose
from ensemble.parts import Part


class Rung(NamedTuple):
    """One step.

    The gain is the difference of its macro recall to that of the step before, with the 95 % interval of the difference:
    both are judged by the same resamples of lesions. The first step has none.
    """

    name: str
    recall: float
    interval: Interval
    gain: float | None
    gain_interval: Interval | None
    accuracy: float
    ece: float
    nll: float

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "step": self.name,
            "macro_recall": self.recall,
            "macro_recall_interval": list(self.interval),
            "gain": self.gain,
            "gain_interval": None if self.gain_interval is None else list(self.gain_interval),
            "accuracy": self.accuracy,
            "expected_calibration_error": self.ece,
            "negative_log_likelihood": self.nll,
        }


def climb(steps: Sequence[tuple[str, Floats]], part: Part, bootstrap: LesionBootstrap) -> tuple[Rung, ...]:
    """Judges each step, and against the step before.

    Args:
        steps: Their names and probabilities (N, C), in order.
        part: The images' true classes.
        bootstrap: Resamples of their lesions, within each class.
    """
    hits_KN = np.stack([choose(probs_NC) == part.labels for _, probs_NC in steps])
    resampled_KR = bootstrap.macro_recalls(hits_KN)
    rungs: list[Rung] = []
    for k, (name, probs_NC) in enumerate(steps):
        confusion_CC = confusion_matrix(part.labels, choose(probs_NC), probs_NC.shape[1])
        recall = macro_recall(confusion_CC)
        rungs.append(
            Rung(
                name=name,
                recall=recall,
                interval=middle(resampled_KR[k]),
                gain=recall - rungs[-1].recall if rungs else None,
                gain_interval=middle(resampled_KR[k] - resampled_KR[k - 1]) if rungs else None,
                accuracy=accuracy(confusion_CC),
                ece=expected_calibration_error(part.labels, probs_NC),
                nll=negative_log_likelihood(part.labels, probs_NC),
            )
        )
    return tuple(rungs)
