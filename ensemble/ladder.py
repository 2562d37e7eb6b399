"""From the best single trials to the ensemble: what each step gains on the same images, and what it costs.

Shapes: N examples, K rungs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.metrics import Floats, Interval, LesionBootstrap, middle
from ensemble.decision import choose
from ensemble.figures import Figures
from ensemble.parts import Part

BEST_SINGLE = "best single, "  # begins the names of the first steps


@dataclass(frozen=True, kw_only=True)
class Rung(Figures):
    """One step of the ladder.

    Attributes:
        gain: Difference of its macro recall to that of the step before; the first step has none.
        gain_interval: The 95 % interval of the difference: both are judged by the same resamples of lesions.
    """

    gain: float | None
    gain_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        interval = None if self.gain_interval is None else list(self.gain_interval)
        return super().to_dict() | {"gain": self.gain, "gain_interval": interval}


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
        rung = Rung.of(name, probs_NC, part.labels, interval=middle(resampled_KR[k]), gain=None, gain_interval=None)
        if rungs:
            gained_R = resampled_KR[k] - resampled_KR[k - 1]
            rung = replace(rung, gain=rung.recall - rungs[-1].recall, gain_interval=middle(gained_R))
        rungs.append(rung)
    return tuple(rungs)
