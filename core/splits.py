"""Train, validation and test rows: whole lesions, stratified by class, the same test part for ever.

Legend: N rows, G groups, C classes.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from core.duplicates import near_duplicates
from core.errors import InputError
from core.layouts import few
from core.manifest import Manifest

IntArray = npt.NDArray[np.int64]

VAL_SHARE = 0.15
TEST_SHARE = 0.15
_PARTS = ("train", "val", "test")
# One test split for ever (docs/decisions/0002): no seed of a user may enter here.
_TEST_SALT = "test"


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows play which role; each is a sorted int64 array, and together they are all rows."""

    train: IntArray
    val: IntArray
    test: IntArray
    seed: int


def split_manifest(manifest: Manifest, *, seed: int = 0) -> Split:
    """Splits 70/15/15 by group, within each class as near to it as whole groups allow.

    Near-duplicates count as one group, even if their labels differ. Groups are drawn in the order of a hash of their
    images' bytes: neither the names nor the order of the files matter, and the test part is the same for every seed.

    Args:
        manifest: The images.
        seed: Varies which of the other rows are for training and which for validation.

    Raises:
        InputError: A class has fewer than three groups, or its groups don't reach every part.
    """
    group_of_N = joined_groups(manifest)
    counts_GC = np.zeros((group_of_N.max() + 1, len(manifest.classes)), dtype=np.int64)
    np.add.at(counts_GC, (group_of_N, manifest.labels), 1)
    _refuse_small_classes(manifest, counts_GC)
    names_G = _names(manifest, group_of_N)
    everything_G = np.ones(len(names_G), dtype=bool)
    test_G = _draw(counts_GC, everything_G, _order(names_G, _TEST_SALT), share=TEST_SHARE, leave=2)
    val_G = _draw(counts_GC, ~test_G, _order(names_G, f"val {seed}"), share=VAL_SHARE, leave=1)
    part_of_N = np.where(test_G, 2, np.where(val_G, 1, 0))[group_of_N]
    train, val, test = (np.flatnonzero(part_of_N == part) for part in range(len(_PARTS)))
    split = Split(train, val, test, seed)
    check_disjoint(split, group_of_N)
    _check_classes(manifest, split)
    return split


@lru_cache(maxsize=1)
def joined_groups(manifest: Manifest) -> IntArray:
    """The group of each row once near-duplicates are joined, int64 (N,), numbered from 0; not to be written to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_of_N = np.unique(np.array(manifest.groups), return_inverse=True)[1]
    pairs_P2 = group_of_N[near_duplicates(manifest)]
    number = int(group_of_N.max()) + 1
    graph = coo_array((np.ones(len(pairs_P2), dtype=np.int8), (pairs_P2[:, 0], pairs_P2[:, 1])), shape=(number, number))
    joined_N: IntArray = connected_components(graph, directed=False)[1][group_of_N].astype(np.int64)
    joined_N.flags.writeable = False
    return joined_N


def check_disjoint(split: Split, group_of_N: IntArray) -> None:
    """Makes sure that every row is in exactly one part, and all rows of a group in the same.

    Args:
        split: The rows of each part.
        group_of_N: The group of each row, as `joined_groups` gives it.

    Raises:
        ValueError: They aren't, so that a model would be judged on what it has learned.
    """
    rows = np.concatenate([split.train, split.val, split.test])
    if not np.array_equal(np.sort(rows), np.arange(len(group_of_N))):
        raise ValueError(f"The parts must hold each of {len(group_of_N)} rows once, but hold {len(rows)} others.")
    groups = {part: set(group_of_N[getattr(split, part)].tolist()) for part in _PARTS}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(groups[first] & groups[second]):
            named = few([str(group) for group in both])
            raise ValueError(f"The parts must share no group, but {first} and {second} share {len(both)}: {named}.")


def _draw(
    counts_GC: IntArray, free_G: npt.NDArray[np.bool_], order_G: IntArray, *, share: float, leave: int
) -> npt.NDArray[np.bool_]:
    """Chooses groups that hold a share of each class, the rarest class first.

    Args:
        counts_GC: Images of each class in each group.
        free_G: Groups that may be chosen.
        order_G: The groups in the order in which they are tried.
        share: Part of each class's images, in [0, 1].
        leave: Groups of each class that must stay unchosen.

    Returns:
        bool (G,), the chosen groups.
    """
    chosen_G = np.zeros(len(counts_GC), dtype=bool)
    decided_G = ~free_G
    left_C = np.count_nonzero(counts_GC[free_G], axis=0)
    for c in np.argsort(counts_GC.sum(axis=0), kind="stable"):
        target = share * counts_GC[:, c].sum()
        total = counts_GC[chosen_G, c].sum()
        mine = [g for g in order_G if counts_GC[g, c] and free_G[g] and not chosen_G[g]]
        for group in [g for g in mine if not decided_G[g]]:
            nearer = abs(total + counts_GC[group, c] - target) < abs(total - target)
            if nearer and _spares(counts_GC[group], left_C, leave):
                chosen_G[group] = True
                total += counts_GC[group, c]
                left_C -= counts_GC[group] > 0
        if total == 0:  # all its groups are too large, or were left out for the sake of a rarer class
            spared = [g for g in mine if _spares(counts_GC[g], left_C, leave)]
            if spared:
                smallest = min(spared, key=lambda g: counts_GC[g].sum())
                chosen_G[smallest] = True
                left_C -= counts_GC[smallest] > 0
        decided_G |= counts_GC[:, c] > 0
    return chosen_G


def _spares(counts_C: IntArray, left_C: IntArray, leave: int) -> bool:
    """True if enough groups of every class in this one stay once it is chosen."""
    return bool(np.all(left_C[counts_C > 0] > leave))


def _names(manifest: Manifest, group_of_N: IntArray) -> list[str]:
    """A name for each group that depends on nothing but its images: the smallest of their hashes."""
    names = ["~"] * (int(group_of_N.max()) + 1)  # above every hexadecimal digit
    for group, sha256 in zip(group_of_N.tolist(), manifest.sha256, strict=True):
        names[group] = min(names[group], sha256)
    return names


def _order(names_G: list[str], salt: str) -> IntArray:
    """A random order of the groups: the same for the same names and salt on every machine and version of numpy."""
    keys = [hashlib.sha256(f"{salt} {name}".encode()).digest() for name in names_G]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _refuse_small_classes(manifest: Manifest, counts_GC: IntArray) -> None:
    groups_C = np.count_nonzero(counts_GC, axis=0)
    small = [f"{name} ({n})" for name, n in zip(manifest.classes, groups_C.tolist(), strict=True) if n < len(_PARTS)]
    if small:
        raise InputError(
            "Every class must have 3 lesions or patients or more (near-duplicates count as one), one for each of "
            f"train, val and test, but these have fewer: {few(small)}. Add images or leave the classes out."
        )


def _check_classes(manifest: Manifest, split: Split) -> None:
    for part in _PARTS:
        present = set(manifest.labels[getattr(split, part)].tolist())
        if absent := [name for index, name in enumerate(manifest.classes) if index not in present]:
            raise InputError(
                f"Every class must reach train, val and test with whole lesions, but {part} would lack {few(absent)}, "
                "because lesions have several labels. Add images, or give each of these lesions one label."
            )
