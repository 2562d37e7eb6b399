"""Thresholds for one class against the rest: at least so much of a class must be found, whatever that costs.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.metrics import Floats, Interval, share_among
from ensemble.crossfit import Hits, Truth


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Which images are flagged as perhaps of a class, whatever class they are given.

    Attributes:
        class_name: The class.
        min_sensitivity: The share of its validation images that had to be flagged.
        threshold: An image is flagged if the ensemble's probability of the class is at least this.
    """

    class_name: str
    min_sensitivity: float
    threshold: float


class Flagged(NamedTuple):
    """How flags fare, and how the choice of the most probable class does beside."""

    class_name: str
    min_sensitivity: float
    threshold: float
    sensitivity: float | None  # None where no image is of the class
    sensitivity_interval: Interval | None  # 95 %, over lesions
    specificity: float | None
    specificity_interval: Interval | None
    argmax_sensitivity: float | None
    argmax_specificity: float | None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        pairs = ("sensitivity_interval", "specificity_interval")
        return {
            name: list(value) if name in pairs and value is not None else value
            for name, value in self._asdict().items()
        }


def check_classes(wanted: Sequence[tuple[str, float]], classes: Sequence[str]) -> None:
    """Refuses what `--min-sensitivity` was given for classes that there aren't, or twice.

    Raises:
        InputError: A class is unknown, or was named twice.
    """
    names = [name for name, _ in wanted]
    if unknown := [name for name in names if name not in classes]:
        raise InputError(
            f"`--min-sensitivity` must name one of {', '.join(classes)}, but got {unknown[0]}. Choose one of them."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"`--min-sensitivity` must name each class once, but got {twice[0]} {names.count(twice[0])} times. "
            "Leave all but one out."
        )


def check_lesions(wanted: Sequence[tuple[str, float]], truth: Truth, classes: Sequence[str]) -> None:
    """Refuses thresholds that `fit_points` could not fit to some rows, from what the rows are alone.

    Raises:
        InputError: There are less than two lesions of a class, or some of the folds are fitted to none.
    """
    for name, _ in wanted:
        is_class_N = truth.labels_N == list(classes).index(name)
        lesions = len(np.unique(truth.groups_N[is_class_N]))
        if lesions < 2:  # one to fit to, and one to see what that gives
            raise InputError(
                f"`--min-sensitivity` must name a class of which there are two lesions to fit to, but of {name} there "
                f"{'is one' if lesions else 'is none'}. Leave it out."
            )
        if not all(is_class_N[fit_N].any() for fit_N, _ in truth.held_out()):
            raise InputError(
                f"`--min-sensitivity` must name a class whose lesions lie in several folds, but the {lesions} of "
                f"{name} lie in one, as they have images of other classes too. Leave it out."
            )


def fit_threshold(probs_N: Floats, is_class_N: Hits, min_sensitivity: float) -> float:
    """A threshold that flags so much of a class and as little else as that allows; 0, all, if none of it is there.

    It lies halfway from the least probability that it flags to the next one below: at that probability itself another
    way of rounding, as an exported file has, would miss its image.
    """
    found_K = np.sort(probs_N[is_class_N])[::-1]
    if not len(found_K):
        return 0.0
    # A hair less than a whole number of images asks for no further one: 0.9 of 10 are 9.
    needed = int(np.ceil(min_sensitivity * len(found_K) - 1e-9))
    least = found_K[needed - 1]
    below = np.max(probs_N, where=probs_N < least, initial=0.0)
    return float((least + below) / 2)


def fit_points(
    wanted: Sequence[tuple[str, float]], probs_NC: Floats, truth: Truth, classes: Sequence[str]
) -> tuple[tuple[OperatingPoint, ...], list[Hits]]:
    """Fits thresholds to validation.

    Args:
        wanted: Classes, and the least share of each that must be flagged.
        probs_NC: The ensemble's probabilities, out of fold.
        truth: The rows.
        classes: Class names.

    Returns:
        The points, and which rows each flags (N,) by thresholds of the other folds.
    """
    points, flags = [], []
    for name, least in wanted:
        c = list(classes).index(name)
        probs_N, is_class_N = probs_NC[:, c], truth.labels_N == c
        points.append(
            OperatingPoint(class_name=name, min_sensitivity=least, threshold=fit_threshold(probs_N, is_class_N, least))
        )
        flagged_N = np.zeros(len(probs_N), bool)
        for fit_N, held_N in truth.held_out():
            flagged_N[held_N] = probs_N[held_N] >= fit_threshold(probs_N[fit_N], is_class_N[fit_N], least)
        flags.append(flagged_N)
    return tuple(points), flags


def flag(points: Sequence[OperatingPoint], probs_NC: Floats, classes: Sequence[str]) -> list[Hits]:
    """Which images each point flags (N,)."""
    return [probs_NC[:, list(classes).index(point.class_name)] >= point.threshold for point in points]


def flag_columns(points: Sequence[OperatingPoint], probs_C: Sequence[float], classes: Sequence[str]) -> dict[str, int]:
    """Columns of a predictions file for one image: 1 where it is flagged."""
    flags = flag(points, np.asarray([probs_C]), classes)
    return {flag_name(point): int(flagged[0]) for point, flagged in zip(points, flags, strict=True)}


def flag_name(point: OperatingPoint) -> str:
    """Name of the column that has a point's flags."""
    return f"flag_{point.class_name}"


def judge_flags(
    points: Sequence[OperatingPoint],
    flags: Sequence[Hits],
    chosen_N: npt.NDArray[np.int64],
    truth: Truth,
    classes: Sequence[str],
) -> tuple[Flagged, ...]:
    """Judges flags, beside the choice of one class.

    Args:
        points: What was fitted.
        flags: Which images each flags (N,).
        chosen_N: The class chosen for each image.
        truth: The images' lesions and true classes.
        classes: Class names.
    """
    judged = []
    for point, flagged_N in zip(points, flags, strict=True):
        c = list(classes).index(point.class_name)
        is_class_N, groups_N = truth.labels_N == c, truth.groups_N
        sensitivity, found = share_among(flagged_N, is_class_N, groups_N)
        specificity, spared = share_among(~flagged_N, ~is_class_N, groups_N)
        judged.append(
            Flagged(
                class_name=point.class_name,
                min_sensitivity=point.min_sensitivity,
                threshold=point.threshold,
                sensitivity=sensitivity,
                sensitivity_interval=found,
                specificity=specificity,
                specificity_interval=spared,
                argmax_sensitivity=share_among(chosen_N == c, is_class_N, groups_N)[0],
                argmax_specificity=share_among(chosen_N != c, ~is_class_N, groups_N)[0],
            )
        )
    return tuple(judged)
