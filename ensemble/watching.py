"""The classes that a report looks at closely: melanoma, and whatever `--min-sensitivity` was asked for.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Floats, Interval, LesionBootstrap
from core.ranking import Curve, Hits, auroc, auroc_interval, average_precision, precision_recall, roc
from ensemble.operating import OperatingPoint
from ensemble.parts import Part

_MELANOMA = ("mel", "melanoma")  # as HAM10000 and ISIC name it, whatever the case


class Place(NamedTuple):
    """What one way of deciding gives, as a place on the curves."""

    sensitivity: float
    specificity: float
    precision: float | None  # None where no image is taken for the class


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """How the ensemble tells one class from the rest.

    Attributes:
        name: Of the class.
        prevalence: Share of the images that are of it.
        auroc: See `core.ranking.auroc`.
        auroc_interval: Its 95 % interval, over lesions.
        average_precision: See `core.ranking.average_precision`.
        roc: 1 - specificity and sensitivity.
        precision_recall: Sensitivity and precision.
        chosen: Where choosing one class for each image lies.
        flagged: Where the flags of its operating point lie; None without one.
    """

    name: str
    prevalence: float
    auroc: float
    auroc_interval: Interval
    average_precision: float
    roc: Curve
    precision_recall: Curve
    chosen: Place
    flagged: Place | None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, the curves left out: they follow from the predictions."""
        return {
            "name": self.name,
            "prevalence": self.prevalence,
            "auroc": self.auroc,
            "auroc_interval": list(self.auroc_interval),
            "average_precision": self.average_precision,
            "chosen": self.chosen._asdict(),
            "flagged": None if self.flagged is None else self.flagged._asdict(),
        }


def watched_names(points: Sequence[OperatingPoint], classes: Sequence[str]) -> list[str]:
    """The classes to look at closely, in their order."""
    asked = {point.class_name for point in points}
    return [name for name in classes if name in asked or name.casefold() in _MELANOMA]


def watch(
    points: Sequence[OperatingPoint],
    flags: Sequence[Hits],
    probs_NC: Floats,
    chosen_N: npt.NDArray[np.int64],
    part: Part,
    classes: Sequence[str],
    bootstrap: LesionBootstrap,
) -> tuple[Watched, ...]:
    """Looks at each of `watched_names` of which there are images, and other images besides.

    Args:
        points: What was asked for.
        flags: Which images each point flags (N,).
        probs_NC: The ensemble's probabilities.
        chosen_N: The class that it gives each image.
        part: What the images are.
        classes: Class names.
        bootstrap: Resamples of their lesions.
    """
    flagged = {point.class_name: flags_N for point, flags_N in zip(points, flags, strict=True)}
    watched = []
    for name in watched_names(points, classes):
        c = list(classes).index(name)
        is_class_N, scores_N = part.labels == c, probs_NC[:, c]
        if not is_class_N.any() or is_class_N.all():
            continue
        watched.append(
            Watched(
                name=name,
                prevalence=float(is_class_N.mean()),
                auroc=auroc(scores_N, is_class_N),
                auroc_interval=auroc_interval(scores_N, is_class_N, bootstrap),
                average_precision=average_precision(scores_N, is_class_N),
                roc=roc(scores_N, is_class_N),
                precision_recall=precision_recall(scores_N, is_class_N),
                chosen=_place(chosen_N == c, is_class_N),
                flagged=_place(flagged[name], is_class_N) if name in flagged else None,
            )
        )
    return tuple(watched)


def _place(taken_N: Hits, is_class_N: Hits) -> Place:
    precision = float(is_class_N[taken_N].mean()) if taken_N.any() else None
    return Place(float(taken_N[is_class_N].mean()), float((~taken_N[~is_class_N]).mean()), precision)
