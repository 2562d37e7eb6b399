"""Rows in folds of whole lesions, and the rule by which noise chooses nothing.

Whatever is fitted to validation is told with the figure that it reaches on lesions that it wasn't fitted to.
Shapes: N examples, K candidates, C classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Interval, LesionBootstrap

FOLDS = 5

Hits = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.bool_]


class _Lesions(NamedTuple):
    lesion_N: npt.NDArray[np.int64]  # number of each row's
    sizes_L: npt.NDArray[np.int64]  # rows of each
    class_L: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What some rows are.

    Attributes:
        labels_N: True class of each, int64.
        groups_N: Lesion of each, str.
        num_classes: C.
    """

    labels_N: npt.NDArray[np.int64]
    groups_N: npt.NDArray[np.str_]
    num_classes: int

    @classmethod
    def of(cls, labels: Sequence[int] | npt.NDArray[np.int64], groups: Sequence[str], num_classes: int) -> "Truth":
        """From lists."""
        return cls(labels_N=np.asarray(labels, np.int64), groups_N=np.asarray(groups, str), num_classes=num_classes)

    def take(self, mask_N: Mask) -> "Truth":
        """Some of the rows."""
        return Truth(labels_N=self.labels_N[mask_N], groups_N=self.groups_N[mask_N], num_classes=self.num_classes)

    @cached_property
    def balance_N(self) -> npt.NDArray[np.float64]:
        """Weight of each row, summing to 1, by which every class that occurs counts the same."""
        counts_C = np.bincount(self.labels_N, minlength=self.num_classes)
        weights_N: npt.NDArray[np.float64] = 1 / (counts_C[self.labels_N] * np.count_nonzero(counts_C))
        return weights_N

    def recalls(self, hits_KN: Hits) -> npt.NDArray[np.float64]:
        """Macro recall of each of K candidates."""
        recalls_K: npt.NDArray[np.float64] = hits_KN @ self.balance_N
        return recalls_K

    def interval(self, hits_N: Hits) -> Interval:
        """95 % interval of the macro recall, see `core.metrics.bootstrap_interval`."""
        return self.bootstrap.interval(hits_N)

    @cached_property
    def bootstrap(self) -> LesionBootstrap:
        """What intervals are drawn from."""
        return LesionBootstrap(self.labels_N, self.groups_N.tolist(), self.num_classes)

    def standard_error(self, hits_N: Hits) -> float:
        """Standard error of the macro recall over lesions, drawn within each class.

        That of the bootstrap to first order, without its draws.

        Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), chapter 6.
        """
        found_L = np.bincount(self._lesions.lesion_N, weights=hits_N)
        sizes_L, class_L = self._lesions.sizes_L, self._lesions.class_L
        sizes_C = np.bincount(class_L, weights=sizes_L, minlength=self.num_classes)
        there_C = sizes_C > 0
        recalls_C = np.bincount(class_L, weights=found_L, minlength=self.num_classes) / np.maximum(sizes_C, 1)
        deviations_L = found_L - recalls_C[class_L] * sizes_L
        squares_C = np.bincount(class_L, weights=deviations_L**2, minlength=self.num_classes)
        return float(np.sqrt((squares_C[there_C] / sizes_C[there_C] ** 2).sum()) / there_C.sum())

    @cached_property
    def _lesions(self) -> _Lesions:
        """Lesions within each class: one with images of two classes counts in both."""
        group_N = np.unique(self.groups_N, return_inverse=True)[1]
        ids_N = group_N * self.num_classes + self.labels_N
        ids_L, lesion_N, sizes_L = np.unique(ids_N, return_inverse=True, return_counts=True)
        return _Lesions(lesion_N, sizes_L, ids_L % self.num_classes)

    @cached_property
    def folds(self) -> list[Mask]:
        """The rows of each fold (N,): whole lesions, classes spread evenly, the same whatever the rows' order.

        A patient with images of several classes counts for the one that fewest have: malignant ones mostly have benign
        images too, and would else fall into folds at random.
        """
        rarity_C = np.bincount(self._lesions.class_L, minlength=self.num_classes).tolist()
        class_of: dict[str, int] = {}
        for group, label in zip(self.groups_N.tolist(), self.labels_N.tolist(), strict=True):
            class_of[group] = min(label, class_of.get(group, label), key=lambda c: (rarity_C[c], c))
        order = sorted(class_of, key=lambda group: (class_of[group], hashlib.sha256(group.encode()).digest()))
        fold_of = {group: place % FOLDS for place, group in enumerate(order)}
        fold_N = np.asarray([fold_of[group] for group in self.groups_N.tolist()])
        return [fold_N == fold for fold in range(min(FOLDS, len(order)))]

    def held_out(self) -> Iterator[tuple[Mask, Mask]]:
        """For each fold the rows to fit to and those to judge by. One lesion alone is fitted to itself."""
        for fold_N in self.folds:
            yield (fold_N if fold_N.all() else ~fold_N), fold_N


def simplest(hits_KN: Hits, truth: Truth, costs: Sequence[float]) -> int:
    """Which of K candidates to take: the simplest whose macro recall is within one standard error of the best.

    Args:
        hits_KN: Whether each candidate is right about each row.
        truth: The rows.
        costs: How far from simple each candidate is; of equals the better one is taken, then the first.

    Source: the one-standard-error rule of Breiman et al., "Classification and Regression Trees" (1984), section 3.4.3.
    """
    recalls_K = truth.recalls(hits_KN)
    best = int(recalls_K.argmax())
    least = recalls_K[best] - truth.standard_error(hits_KN[best])
    # A rounding error of a sum decides nothing.
    near = np.flatnonzero(recalls_K >= least - 1e-12).tolist()
    return min(near, key=lambda k: (costs[k], -recalls_K[k]))
