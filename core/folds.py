"""Folds of the training and validation rows, for trials that are to be judged on all of them.

Legend: N rows, G groups, C classes, F folds.
"""

import numpy as np
import numpy.typing as npt

from core.errors import InputError, few
from core.manifest import Manifest
from core.splits import joined_groups, name_groups, order_groups

IntArray = npt.NDArray[np.int64]

# No seed: trials of all studies of the same images are judged over the same folds, whatever split found them.
_SALT = "fold"


def draw_folds(manifest: Manifest, rows: IntArray, *, folds: int) -> IntArray:
    """Shares rows out to folds: whole groups, and as many images of each class to each as whole groups allow.

    The rarest class comes first. Of each class the largest groups come first, since small ones even out what they
    leave, equals in the order of a hash of their images' bytes. Each goes to the fold that has the fewest images of
    the class by then.

    Args:
        manifest: All images.
        rows: Which of them, sorted (N,).
        folds: F, 2 or more.

    Returns:
        int64 (N,), the fold of each row, from 0.

    Raises:
        InputError: There are more folds than lesions of a class, or a class can't reach each of them.
    """
    group_of_N = np.unique(joined_groups(manifest)[rows], return_inverse=True)[1]
    labels_N = manifest.labels[rows]
    counts_GC = np.zeros((int(group_of_N.max()) + 1, len(manifest.classes)), dtype=np.int64)
    np.add.at(counts_GC, (group_of_N, labels_N), 1)
    _refuse_too_many(counts_GC, manifest.classes, folds)
    names_G = name_groups([manifest.sha256[row] for row in rows], group_of_N)
    fold_of_G = _share_out(counts_GC, order_groups(names_G, _SALT), folds)
    fold_of_N: IntArray = fold_of_G[group_of_N]
    _refuse_gaps(labels_N, fold_of_N, manifest.classes, folds)
    return fold_of_N


def _share_out(counts_GC: IntArray, order_G: IntArray, folds: int) -> IntArray:
    """The fold of each group (G,)."""
    fold_of_G = np.full(len(counts_GC), -1, dtype=np.int64)
    images_FC = np.zeros((folds, counts_GC.shape[1]), dtype=np.int64)
    for c in np.argsort(counts_GC.sum(axis=0), kind="stable"):
        mine = [g for g in order_G if counts_GC[g, c] and fold_of_G[g] < 0]
        for g in sorted(mine, key=lambda g: -counts_GC[g, c]):  # stable: equals stay in their order
            # Of folds that have as many of the class, the one with the fewest images in all.
            fold = np.lexsort((images_FC.sum(axis=1), images_FC[:, c]))[0]
            fold_of_G[g] = fold
            images_FC[fold] += counts_GC[g]
    return fold_of_G


def _refuse_too_many(counts_GC: IntArray, classes: tuple[str, ...], folds: int) -> None:
    groups_C = np.count_nonzero(counts_GC, axis=0)
    rarest = int(groups_C.argmin())
    if folds > groups_C[rarest]:
        raise InputError(
            f"`--folds` must be at most {groups_C[rarest]}, the lesions of the rarest class, {classes[rarest]}, in "
            f"training and validation, but got --folds {folds}. Lower it, or add images."
        )


def _refuse_gaps(labels_N: IntArray, fold_of_N: IntArray, classes: tuple[str, ...], folds: int) -> None:
    for fold in range(folds):
        present = set(labels_N[fold_of_N == fold].tolist())
        if absent := [name for c, name in enumerate(classes) if c not in present]:
            raise InputError(
                f"Every class must reach every fold with whole lesions, but one of {folds} would lack {few(absent)}, "
                "because lesions have several labels. Lower --folds, or give each of these lesions one label."
            )
