"""How a classifier fares on each class against the rest.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Floats, Interval, share_among
from core.ranking import auroc
from ensemble.parts import Part

_INTERVALS = ("interval", "precision_interval", "specificity_interval")


class ClassScores(NamedTuple):
    """One class. Shares are None where there is nothing that they would be of; intervals are 95 %, with n = lesions."""

    name: str
    images: int
    lesions: int
    recall: float | None  # of its images, the share that is given it
    interval: Interval | None
    precision: float | None  # of the images that are given it, the share that is of it
    precision_interval: Interval | None
    specificity: float | None  # of all other images, the share that is not given it
    specificity_interval: Interval | None
    auroc: float | None  # see `core.ranking.auroc`

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            name: list(value) if name in _INTERVALS and value is not None else value
            for name, value in self._asdict().items()
        }


def score_classes(
    probs_NC: Floats, chosen_N: npt.NDArray[np.int64], part: Part, classes: Sequence[str]
) -> tuple[ClassScores, ...]:
    """Scores each class.

    Args:
        probs_NC: The classifier's probabilities.
        chosen_N: The class that it gives each image.
        part: What the images are.
        classes: Class names.
    """
    groups_N, rows = np.asarray(part.groups, dtype=str), []
    for c, name in enumerate(classes):
        is_class_N, given_N = part.labels == c, chosen_N == c
        lesions, some = len(np.unique(groups_N[is_class_N])), is_class_N.any() and not is_class_N.all()
        rows.append(
            ClassScores(
                name,
                int(is_class_N.sum()),
                lesions,
                *share_among(given_N, is_class_N, groups_N),
                *share_among(is_class_N, given_N, groups_N),
                *share_among(~given_N, ~is_class_N, groups_N),
                auroc(probs_NC[:, c], is_class_N) if some else None,
            )
        )
    return tuple(rows)
