"""From the members' probabilities to one class when recall counts.

Every class counts the same in the macro recall, so each member is first corrected for the class frequencies that it
learned. The correction comes before the average, because averaging flattens probabilities. Then the most probable
class is chosen. Nothing here is fitted to data.

Shapes: M members, N examples, C classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.metrics import Floats, correct_prior

# Stands in ensemble.json, so that a later version with other rules can't be misread.
RULE = {"correction": "p / prior", "vote": "mean", "choice": "argmax"}


def correct_members(probs_MNC: Floats, priors_MC: Floats) -> npt.NDArray[np.float64]:
    """Each member's probabilities as if all classes were equally frequent (M, N, C)."""
    return np.stack([correct_prior(probs_NC, prior_C) for probs_NC, prior_C in zip(probs_MNC, priors_MC, strict=True)])


def choose(probs_NC: Floats) -> npt.NDArray[np.int64]:
    """Index of the most probable class (N,); of equals, the first."""
    chosen_N: npt.NDArray[np.int64] = np.argmax(probs_NC, axis=1).astype(np.int64)
    return chosen_N


def check_rule(rule: Any) -> None:
    """Refuses a decision rule that this version doesn't know.

    Raises:
        InputError: The rule is not `RULE`.
    """
    if rule != RULE:
        raise InputError(
            f"`decision` must be {RULE}, but got decision={rule}. Update this project or build the ensemble anew."
        )
