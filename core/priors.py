"""The class frequencies that a model learned: what its probabilities are divided by before recall counts.

Shapes: N examples, C classes.
"""

import numpy as np
import numpy.typing as npt

from core.config import TrainConfig
from core.metrics import SMALLEST_PROBABILITY

Floats = npt.NDArray[np.floating]

_BISECTIONS = 60  # halvings until a double changes no more


def learned_prior(
    config: TrainConfig, probs_NC: Floats, weights_N: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """The prior (C,) by which a model's probabilities are to be divided.

    A model that minimises a proper loss on a set of images gives, on average over it, the class frequencies of the set.
    So it is a mean over images, each as often as it occurs in the set that the loss is one of.

    Args:
        config: How the model was trained.
        probs_NC: What it makes of training images, in the order of training (N, C).
        weights_N: What `core.losses.image_weights` gave for them.
    """
    if config.loss == "focal":
        posteriors_NC = unfocus(np.asarray(probs_NC, np.float64), config.focal_gamma)
        return focus(posteriors_NC.mean(0), config.focal_gamma)
    if weights_N is None:
        return np.asarray(probs_NC.mean(0, dtype=np.float64))
    return np.asarray(np.average(np.asarray(probs_NC, np.float64), axis=0, weights=weights_N))


def unfocus(probs: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    """The probabilities (..., C) for which a model trained on the focal loss would best say `probs` (..., C).

    The focal loss is not proper: where the truth is 0.9, what costs least is less.

    Source: Charoenphakdee et al., "On focal loss for class-posterior probability estimation", CVPR 2021.
    """
    odds = _odds(np.clip(probs, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY), gamma)
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def focus(probs_C: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    """The inverse of `unfocus`, for one row: what a model that sees nothing but these frequencies would best say."""
    low, high = np.log(SMALLEST_PROBABILITY), np.log(_odds(np.array(1 - SMALLEST_PROBABILITY), gamma)) + 60
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        focused_C = _inverse_odds(probs_C * np.exp(middle), gamma)
        low, high = (low, middle) if focused_C.sum() > 1 else (middle, high)
    return np.asarray(focused_C / focused_C.sum())


def _odds(probs: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    """Proportional to the true probability of a class of which the model says `probs`: 1 / the slope of the loss."""
    others = 1 - probs
    return np.asarray(probs / (others**gamma - gamma * others ** (gamma - 1) * probs * np.log(probs)))


def _inverse_odds(odds_C: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    low_C = np.full(len(odds_C), SMALLEST_PROBABILITY)
    high_C = np.full(len(odds_C), 1 - SMALLEST_PROBABILITY)
    for _ in range(_BISECTIONS):
        middle_C = (low_C + high_C) / 2
        above_C = _odds(middle_C, gamma) > odds_C
        low_C, high_C = np.where(above_C, low_C, middle_C), np.where(above_C, middle_C, high_C)
    return np.asarray((low_C + high_C) / 2)
