"""How well a score ranks the images of one class before all others, whatever threshold is drawn.

Shapes: N examples, R resamples, G groups of equal scores.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from core.metrics import Floats, Interval, LesionBootstrap, middle

Hits = npt.NDArray[np.bool_]

_AT_ONCE = 2**22  # weights that are held at the same time: 16 MB


class Curve(NamedTuple):
    """Points of a curve, as many of each."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


def auroc(scores_N: Floats, is_class_N: Hits) -> float:
    """Probability that an image of the class has a higher score than one of another (area under the ROC curve).

    Args:
        scores_N: The higher, the surer that it is of the class (N,).
        is_class_N: Whether it is (N,); some must be and some not.
    """
    return float(roc_auc_score(is_class_N, scores_N))


def average_precision(scores_N: Floats, is_class_N: Hits) -> float:
    """Precision, averaged over the images of the class in the order of their scores; see `auroc` for the arguments."""
    return float(average_precision_score(is_class_N, scores_N))


def auroc_interval(scores_N: Floats, is_class_N: Hits, bootstrap: LesionBootstrap) -> Interval:
    """The 95 % percentile interval of `auroc` over resampled lesions.

    Args:
        scores_N: See `auroc`, as for the next.
        is_class_N: Whether it is of the class (N,).
        bootstrap: Resamples of these images' lesions.
    """
    order = np.argsort(scores_N, kind="stable")
    starts_G = np.flatnonzero(np.diff(scores_N[order], prepend=-np.inf) > 0)
    step = max(1, _AT_ONCE // len(order))
    parts = (slice(start, start + step) for start in range(0, bootstrap.resamples, step))
    drawn = [_weighted_aurocs(bootstrap.weights(part)[:, order], starts_G, is_class_N[order]) for part in parts]
    return middle(np.concatenate(drawn))


def _weighted_aurocs(weights_RN: npt.NDArray[np.float32], starts_G: npt.NDArray[np.intp], is_class_N: Hits) -> Floats:
    """The area for each row of weights, examples being in the order of their scores; equal scores count a half."""
    of_class_RG = np.add.reduceat(weights_RN * is_class_N, starts_G, axis=1, dtype=np.float64)
    others_RG = np.add.reduceat(weights_RN * ~is_class_N, starts_G, axis=1, dtype=np.float64)
    below_RG = np.cumsum(others_RG, axis=1) - others_RG / 2
    pairs_R = of_class_RG.sum(axis=1) * others_RG.sum(axis=1)
    return np.asarray((of_class_RG * below_RG).sum(axis=1) / pairs_R)


def roc(scores_N: Floats, is_class_N: Hits) -> Curve:
    """1 - specificity and sensitivity at every threshold that makes a difference."""
    false_alarms, found, _ = roc_curve(is_class_N, scores_N)
    return Curve(false_alarms, found)


def precision_recall(scores_N: Floats, is_class_N: Hits) -> Curve:
    """Sensitivity, which is the recall, and precision at every threshold that makes a difference."""
    precision, found, _ = precision_recall_curve(is_class_N, scores_N, drop_intermediate=True)
    return Curve(found[::-1], precision[::-1])
