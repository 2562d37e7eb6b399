"""The two numbers of the decision rule: the votes at each tau, and the temperature.

Shapes: M members, N examples, T values of tau, C classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.metrics import SMALLEST_PROBABILITY, Floats
from ensemble.decision import TEMPERATURES

# 0 corrects nothing, 1 is what theory says of true posteriors; networks that are too sure of themselves want more.
TAUS = tuple(round(0.1 * step, 1) for step in range(21))
_HALVINGS = 24  # of the logarithm of the temperature's range, down to 3e-7 of it


def votes_at(
    probs_MNC: Floats, priors_MC: Floats, weights_M: Floats, vote: str, taus: Sequence[float] = TAUS
) -> npt.NDArray[np.float64]:
    """The vote of members that are corrected with each tau (T, N, C); as `soft_vote` of `correct_members`, faster."""
    logs_MC = np.log(np.maximum(priors_MC, SMALLEST_PROBABILITY))
    taus_T = np.asarray(taus, np.float64)
    shape = (probs_MNC.shape[2], len(taus), probs_MNC.shape[1])
    # Classes outermost: sums over them are then of whole rows, several times as fast.
    votes_CTN = np.zeros(shape)
    for m in np.flatnonzero(weights_M):
        p_CN = probs_MNC[m].T.astype(np.float64)
        factors_CT = np.exp(-logs_MC[m][:, None] * taus_T)
        scale_TN = 1 / (factors_CT.T @ p_CN)
        for c, p_N in enumerate(p_CN):
            corrected_TN = scale_TN * p_N * factors_CT[c][:, None]
            if vote == "geometric":
                corrected_TN = np.log(np.maximum(corrected_TN, SMALLEST_PROBABILITY))
            votes_CTN[c] += weights_M[m] * corrected_TN
    if vote == "geometric":
        votes_CTN = np.exp(votes_CTN / weights_M.sum() - (votes_CTN / weights_M.sum()).max(axis=0))
    votes_CTN /= votes_CTN.sum(axis=0)
    return np.moveaxis(votes_CTN, 0, 2)


def fit_temperature(probs_NC: Floats, labels_N: npt.NDArray[np.int64]) -> float:
    """The temperature that makes the probabilities most likely, for `ensemble.decision.temper`.

    Each row is taken to be a little of every class, all together one example: else the best one for few rows that are
    all classified rightly would be 0.

    Source: Platt, "Probabilistic outputs for support vector machines" (1999), section 2.2, for that.
    """
    logs_NC = np.log(np.maximum(np.asarray(probs_NC, np.float64), SMALLEST_PROBABILITY))
    count, classes = logs_NC.shape
    other = 1 / ((count + 1) * classes)
    true_N = logs_NC[np.arange(count), labels_N]
    told = ((1 - classes * other) * true_N + other * logs_NC.sum(axis=1)).mean()
    top_N1 = logs_NC.max(axis=1, keepdims=True)

    def is_too_sharp(inverse: float) -> bool:
        """Whether the likelihood, which is concave in 1 / temperature, falls here."""
        powers_NC = np.exp(inverse * (logs_NC - top_N1))
        expected_N = (powers_NC * logs_NC).sum(axis=1) / powers_NC.sum(axis=1)
        return bool(expected_N.mean() > told)

    low, high = np.log(TEMPERATURES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_sharp(np.exp(-middle)) else (low, middle)
    return round(float(np.exp((low + high) / 2)), 4)
