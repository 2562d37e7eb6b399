"""Which of several classifiers are as good as the best, and how much of the best one's lead is luck.

Legend: M classifiers, N examples, C classes, R resamples, G lesions of a class. Macro recall throughout.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Interval

Ints = npt.NDArray[np.integer]
Hits = npt.NDArray[np.bool_ | np.floating[Any]]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

RESAMPLES = 1000
_LEVEL = 0.95


class Difference(NamedTuple):
    """By how much one classifier is better than another on the same examples."""

    value: float
    interval: Interval  # 95 %

    @property
    def is_tie(self) -> bool:
        """Whether it may as well be nothing, or the other way round."""
        return self.interval.low <= 0 <= self.interval.high


class Optimism(NamedTuple):
    """By how much the recall of the best of several is too high, as it was chosen by that recall."""

    value: float
    interval: Interval  # 95 %


class Contest:
    """Several classifiers on the same examples, and the same resamples of these for all of them.

    Lesions are drawn and not photos, which are not independent, and within each class, so that every class is in every
    resample, as in `core.metrics.bootstrap_interval`.

    Args:
        labels_N: True classes (N,).
        hits_MN: Whether each is right about each example (M, N), the best classifier first; of one that stands for
            several, the share of them that is right.
        groups_N: Lesion or patient of each example (N,).
        resamples: R.
        seed: Same seed, same numbers.
    """

    def __init__(
        self,
        labels_N: Ints,
        hits_MN: Hits,
        groups_N: Sequence[str],
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        labels_N = np.asarray(labels_N)
        assert hits_MN.shape[1:] == labels_N.shape, f"{hits_MN.shape} for {labels_N.shape}"
        rng = np.random.default_rng(seed)
        group_ids_N = np.unique(np.asarray(groups_N, dtype=str), return_inverse=True)[1]
        self._classes = [
            _OneClass.of(hits_MN[:, labels_N == c], group_ids_N[labels_N == c], resamples, rng)
            for c in np.unique(labels_N)
        ]
        # One after the other: of thousands of trials, all classes at once would take much memory.
        total_RM = self._classes[0].recalls_RM()
        for each in self._classes[1:]:
            total_RM += each.recalls_RM()
        self._recalls_RM = total_RM / len(self._classes)

    def differences(self) -> list[Difference]:
        """By how much the best one is better than each, itself included."""
        recalls_M = np.mean([each.observed_M() for each in self._classes], axis=0)
        lows_M, highs_M = _quantiles(self._recalls_RM[:, [0]] - self._recalls_RM)
        ends = zip((recalls_M[0] - recalls_M).tolist(), lows_M.tolist(), highs_M.tolist(), strict=True)
        return [Difference(value, Interval(low, high)) for value, low, high in ends]

    def optimism(self) -> Optimism | None:
        """What having been chosen adds to the recall of the best, on average and with an interval.

        In each resample one is chosen by the lesions that were drawn, and judged by those that were not. What that
        gives on average is what choosing gives; the recall of the best is higher, by the optimism. The interval is that
        of the judging, and wider than need be, as a resample leaves out little more than a third of the lesions.

        The recall of the chosen ones on the lesions that they were chosen by is no good to compare with: drawn lesions
        repeat, which doubles its variance, and equally good classifiers would seem 1.4 times as optimistic as they are.

        Returns:
            None where nothing is chosen, or no class has a lesion that is ever left out.

        Source: Tsamardinos, Greasidou, Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and
        accurate cross-validation", Machine Learning 107 (2018), their BBC-CV.
        """
        if self._recalls_RM.shape[1] < 2:
            return None
        chosen_R = self._recalls_RM.argmax(axis=1)  # the earlier one, where two are equal
        excess_CR = np.stack([each.observed_M()[0] - each.left_out_R(chosen_R) for each in self._classes])
        told_R = ~np.isnan(excess_CR).all(axis=0)
        if not told_R.any():
            return None
        excess_R = np.nanmean(excess_CR[:, told_R], axis=0)
        low, high = _quantiles(excess_R)
        return Optimism(float(excess_R.mean()), Interval(float(low), float(high)))


class _OneClass(NamedTuple):
    """The examples of one class. Counts below 2^24 are exact in float32, which takes half the memory."""

    draws_RG: Float32s  # how often each lesion was drawn
    sizes_G: Float32s  # its photos
    found_GM: Float32s  # those that each classifier found

    @classmethod
    def of(cls, hits_MN: Hits, ids_N: Ints, resamples: int, rng: np.random.Generator) -> "_OneClass":
        """Draws lesions; of each photo of the class, whether each classifier found it, and its lesion."""
        order_N = np.argsort(ids_N, kind="stable")
        starts_G = np.unique(ids_N[order_N], return_index=True)[1]
        found_MG = np.add.reduceat(hits_MN[:, order_N].astype(np.float32), starts_G, axis=1)
        sizes_G = np.diff(np.append(starts_G, len(ids_N))).astype(np.float32)
        draws_RG = rng.multinomial(len(sizes_G), np.full(len(sizes_G), 1 / len(sizes_G)), size=resamples)
        return cls(draws_RG.astype(np.float32), sizes_G, found_MG.T)

    def observed_M(self) -> Float64s:
        """Recall of each classifier (M,)."""
        return np.asarray(self.found_GM.sum(axis=0), np.float64) / float(self.sizes_G.sum())

    def recalls_RM(self) -> Float64s:
        """The same in each resample (R, M)."""
        found_RM = np.asarray(self.draws_RG @ self.found_GM, np.float64)
        return found_RM / (self.draws_RG @ self.sizes_G)[:, None]

    def left_out_R(self, classifier_R: Ints) -> Float64s:
        """Recall of one classifier a resample on the lesions that were not drawn (R,); NaN where all were."""
        out_RG = self.draws_RG == 0
        left_R, found_R = out_RG @ self.sizes_G, (out_RG * self.found_GM[:, classifier_R].T).sum(axis=1)
        recalls_R = np.full(len(left_R), np.nan)
        np.divide(found_R, left_R, out=recalls_R, where=left_R > 0)
        return recalls_R


def _quantiles(values_R: Float64s) -> Float64s:
    """Both ends of the interval, of each column if there are several."""
    return np.asarray(np.quantile(values_R, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0))
