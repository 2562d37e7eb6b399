"""What a classifier is judged by when classes are unbalanced. All metrics are fractions in [0, 1].

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

# A probability of exactly 0 would make logarithms and ratios infinite; float32 softmax can underflow to it.
SMALLEST_PROBABILITY = 1e-12


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def confusion_matrix(labels_N: Ints, predictions_N: Ints, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts (C, C): the row is the true class, the column the predicted one."""
    cells = np.asarray(labels_N, np.int64) * num_classes + np.asarray(predictions_N, np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def recall_per_class(confusion_CC: Ints) -> npt.NDArray[np.float64]:
    """The share of each class that was found (C,); NaN for a class without examples."""
    totals_C = confusion_CC.sum(1)
    recalls_C = np.full(len(totals_C), np.nan)
    np.divide(np.diag(confusion_CC), totals_C, out=recalls_C, where=totals_C > 0)
    return recalls_C


def macro_recall(confusion_CC: Ints) -> float:
    """Mean of the classes' recalls, over the classes that occur: a missed melanoma counts as much as a missed naevus.

    Equals scikit-learn's `balanced_accuracy_score`.
    """
    return float(np.nanmean(recall_per_class(confusion_CC)))


def accuracy(confusion_CC: Ints) -> float:
    """The share of examples classified rightly, which in single-label tasks is also the micro recall."""
    return float(np.trace(confusion_CC) / confusion_CC.sum())


def correct_prior(probs_NC: Floats, prior_C: Floats, tau: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities as they would be if every class were equally frequent: p / prior^tau, scaled to sum to 1 a row.

    The argmax of the result maximises the expected macro recall where `probs_NC` are true posteriors and tau is 1.

    Args:
        probs_NC: Probabilities (N, C).
        prior_C: The class frequencies that the model learned (C,), above 0.
        tau: How much of the prior is taken out: 0 nothing, 1 all of it.

    Source: Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    Neural Computation 14 (2002), equation 2.4; the exponent: Menon et al., "Long-tail learning via logit adjustment",
    ICLR 2021, equation 9.
    """
    ratios_NC = np.asarray(probs_NC, np.float64) / np.maximum(prior_C, SMALLEST_PROBABILITY) ** tau
    corrected_NC: npt.NDArray[np.float64] = ratios_NC / ratios_NC.sum(1, keepdims=True)
    return corrected_NC


def bootstrap_interval(
    labels_N: Ints,
    predictions_N: Ints,
    groups_N: Sequence[str],
    num_classes: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the macro recall, drawing whole groups within each class.

    Photos of one lesion are not independent, so lesions are drawn and not photos. Drawing within each class keeps every
    class in every resample.

    Args:
        labels_N: True classes (N,).
        predictions_N: Predicted classes (N,).
        groups_N: Lesion or patient of each example (N,).
        num_classes: C.
        level: Probability that the interval is meant to cover.
        resamples: Bootstrap draws.
        seed: Same seed, same interval.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    recalls = bootstrap_recalls(labels_N, predictions_N, groups_N, num_classes, resamples=resamples, seed=seed)
    return middle(np.nanmean(recalls, axis=1), level)


def bootstrap_recalls(
    labels_N: Ints,
    predictions_N: Ints,
    groups_N: Sequence[str],
    num_classes: int,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """The recall of each class in each bootstrap resample (resamples, C); NaN for a class without examples.

    See `bootstrap_interval` for the arguments and the scheme. Equal seeds draw equal lesions, so that two classifiers'
    resamples can be compared pair by pair.
    """
    hits_N = np.asarray(labels_N) == np.asarray(predictions_N)
    bootstrap = LesionBootstrap(labels_N, groups_N, num_classes, resamples=resamples, seed=seed)
    recalls: npt.NDArray[np.float64] = bootstrap.recalls(hits_N[None])[0]
    return recalls


class LesionBootstrap:
    """Resamples of whole lesions within each class, drawn once: classifiers that they judge are compared in pairs.

    See `bootstrap_interval` for the arguments and the scheme.

    Attributes:
        resamples: How many there are.
    """

    def __init__(
        self, labels_N: Ints, groups_N: Sequence[str], num_classes: int, *, resamples: int = 2000, seed: int = 0
    ) -> None:
        self.resamples, self._shape, self._images = resamples, (resamples, num_classes), len(labels_N)
        self._classes: list[_ResampledClass] = []
        labels_N, rng = np.asarray(labels_N), np.random.default_rng(seed)
        group_ids_N = np.unique(np.asarray(groups_N, dtype=str), return_inverse=True)[1]
        for c in range(num_classes):
            rows = np.flatnonzero(labels_N == c)
            if not len(rows):
                continue
            rows = rows[np.argsort(group_ids_N[rows], kind="stable")]
            starts, sizes = np.unique(group_ids_N[rows], return_index=True, return_counts=True)[1:]
            # A multinomial count per group is the same draw as indices with replacement, in far less memory.
            draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
            # Whole numbers below 2^24 are exact in float32, and it has a fast product.
            self._classes.append(_ResampledClass(c, rows, starts, draws.astype(np.float32), draws @ sizes))

    def recalls(self, hits_KN: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """The recall of each class in each resample (K, resamples, C); NaN for a class without examples.

        Args:
            hits_KN: Whether each of K classifiers is right about each example.
        """
        recalls = np.full((len(hits_KN), *self._shape), np.nan)
        for one in self._classes:
            found_KL = np.add.reduceat(hits_KN[:, one.rows].astype(np.float32), one.starts, axis=1)
            recalls[:, :, one.number] = (found_KL @ one.draws_RL.T) / one.images_R
        return recalls

    def weights(self, part: slice) -> npt.NDArray[np.float32]:
        """How often each resample of a part of them has each example (resamples, N)."""
        weights = np.zeros((len(range(*part.indices(self.resamples))), self._images), np.float32)
        for one in self._classes:
            sizes_L = np.diff(one.starts, append=len(one.rows))
            weights[:, one.rows] = np.repeat(one.draws_RL[part], sizes_L, axis=1)
        return weights

    def macro_recalls(self, hits_KN: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """The macro recall in each resample (K, resamples), see `recalls`."""
        macro: npt.NDArray[np.float64] = np.nanmean(self.recalls(hits_KN), axis=2)
        return macro

    def interval(self, hits_N: npt.NDArray[np.bool_]) -> Interval:
        """The 95 % percentile interval of one classifier's macro recall."""
        return middle(self.macro_recalls(hits_N[None])[0])


class _ResampledClass(NamedTuple):
    number: int
    rows: npt.NDArray[np.int64]  # of its examples, lesion by lesion
    starts: npt.NDArray[np.int64]  # where each of L lesions begins in `rows`
    draws_RL: npt.NDArray[np.float32]  # how often each resample has each lesion
    images_R: npt.NDArray[np.int64]  # how many examples each resample has


def middle(values_R: Floats, level: float = 0.95) -> Interval:
    """The interval that holds the middle of resampled values."""
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def wilson_interval(share: float, n: int, z: float = 1.96) -> Interval:
    """Interval of a share seen in `n` independent draws; unlike the bootstrap's it has width at 0 and at 1.

    For a class's recall, give as `n` its lesions and not its photos, which are not independent.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    centre, margin = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    return Interval(max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale))


def share_among(
    hits_N: npt.NDArray[np.bool_], among_N: npt.NDArray[np.bool_], groups_N: npt.NDArray[np.str_]
) -> tuple[float | None, Interval | None]:
    """A share among some examples and its 95 % interval, with n = lesions; None of none.

    Args:
        hits_N: What is counted (N,).
        among_N: Of which examples (N,).
        groups_N: Lesion of each (N,).
    """
    if not among_N.any():
        return None, None
    share = float(hits_N[among_N].mean())
    return share, wilson_interval(share, len(np.unique(groups_N[among_N])))


def negative_log_likelihood(labels_N: Ints, probs_NC: Floats) -> float:
    """Mean of -log p(true class), in nats."""
    true_N = np.asarray(probs_NC, np.float64)[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.maximum(true_N, SMALLEST_PROBABILITY)).mean())


class ConfidenceBin(NamedTuple):
    """Examples about which a classifier is about equally sure."""

    size: int  # how many there are
    confidence: float  # mean probability of the class that is the most probable
    accuracy: float  # share in which it is the true one


def confidence_bins(labels_N: Ints, probs_NC: Floats, bins: int = 15) -> tuple[ConfidenceBin, ...]:
    """Examples in equally wide bins of confidence, the empty ones left out: what a reliability diagram shows.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.
    """
    confidence_N, hits_N = np.max(probs_NC, axis=1), np.argmax(probs_NC, axis=1) == labels_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    counts = np.bincount(bin_N, minlength=bins)
    sums = np.stack([np.bincount(bin_N, weights=values, minlength=bins) for values in (confidence_N, hits_N)])
    confidences, accuracies = sums[:, counts > 0] / counts[counts > 0]
    return tuple(map(ConfidenceBin, counts[counts > 0].tolist(), confidences.tolist(), accuracies.tolist()))


def expected_calibration_error(labels_N: Ints, probs_NC: Floats, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence, weighted by their counts.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    filled = confidence_bins(labels_N, probs_NC, bins)
    return sum(each.size * abs(each.confidence - each.accuracy) for each in filled) / len(labels_N)
