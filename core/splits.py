"""Train, validation and test rows: whole lesions, stratified by class, the same test part for ever.

Legend: N rows, G groups, C classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from core.duplicates import near_duplicates
from core.errors import InputError, few
from core.manifest import Manifest

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

VAL_SHARE = 0.15
TEST_SHARE = 0.15
_SHARES = {"val": VAL_SHARE, "test": TEST_SHARE}
_PARTS = ("train", "val", "test")
# One test split for ever (docs/decisions/0002): no seed of a user may enter here.
_TEST_SALT = "test"


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows play which role; each is a sorted int64 array, and together they are all rows.

    Attributes:
        train: What models learn from.
        val: What trials are judged by.
        test: Sealed.
        seed: What drew those parts that nothing official names.
        left_out: Rows that must play no role, because another photo of their lesion is officially in a stricter part.
    """

    train: IntArray
    val: IntArray
    test: IntArray
    seed: int
    left_out: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def unsealed(self) -> IntArray:
        """The rows of train and val, sorted."""
        return np.sort(np.concatenate([self.train, self.val]))


def split_manifest(manifest: Manifest, *, seed: int = 0) -> Split:
    """Splits 70/15/15 by group, within each class as near to it as whole groups allow; official parts stay as they are.

    Near-duplicates count as one group, even if their labels differ. Groups are drawn in the order of a hash of their
    images' bytes: neither the names nor the order of the files matter, and the test part is the same for every seed.

    Where the data name an official test or validation part, it is taken and only what is missing is drawn, from the
    rest, in the proportion that it has to training without one. A group whose photos are officially in several parts
    belongs to the strictest of them (test, then val); its photos in the others are left out, as a model must not be
    judged on lesions that it has seen.

    Args:
        manifest: The images.
        seed: Varies which of the other rows are for training and which for validation.

    Raises:
        InputError: A class has too few groups, or its groups don't reach every part.
    """
    given = _official_parts(manifest)
    counts_GC, drawn = given.counts_GC, given.drawn
    test_G, val_G, pool_G = given.test_G, given.val_G, ~(given.test_G | given.val_G)
    _refuse_small_classes(manifest, given)
    names_G = name_groups(manifest.sha256, given.group_of_N)
    # Shares are of what there is to draw from: those of everything would starve training beside a large official test.
    whole_C, drawable = counts_GC[pool_G].sum(axis=0), 1 - sum(_SHARES[part] for part in _SHARES if part not in drawn)
    if "test" in drawn:
        target_C = TEST_SHARE / drawable * whole_C
        test_G = _draw(counts_GC, pool_G, order_groups(names_G, _TEST_SALT), target_C=target_C, leave=len(drawn))
    if "val" in drawn:
        target_C = VAL_SHARE / drawable * whole_C
        val_G = _draw(counts_GC, pool_G & ~test_G, order_groups(names_G, f"val {seed}"), target_C=target_C, leave=1)
    part_of_N = np.where(test_G, 2, np.where(val_G, 1, 0))[given.group_of_N]
    part_of_N[given.left_out_N] = 3
    train, val, test, left_out = (np.flatnonzero(part_of_N == part) for part in range(4))
    split = Split(train, val, test, seed, left_out)
    check_disjoint(split, given.group_of_N)
    _check_classes(manifest, split)
    return split


def classes_that_do_not_split(manifest: Manifest) -> list[str]:
    """The classes that would have to go for `split_manifest` to find enough groups of each in every part."""
    given = _official_parts(manifest)
    lacks_C = _groups_per_class(given) < given.least
    for part_G in (given.test_G, given.val_G):
        if part_G.any():
            lacks_C |= given.counts_GC[part_G].sum(axis=0) == 0
    return [name for name, lacks in zip(manifest.classes, lacks_C, strict=True) if lacks]


@dataclass(frozen=True, eq=False)
class _OfficialParts:
    """What the data themselves say of the parts.

    Attributes:
        group_of_N: The group of each row, near-duplicates joined.
        test_G: Groups of the official test part, bool (G,).
        val_G: Groups of the official validation part, bool (G,).
        left_out_N: Rows whose group is in a stricter part than they are, bool (N,).
        counts_GC: Images of each class in each group, those left out not counted.
        drawn: Parts beside train that nothing official names.
    """

    group_of_N: IntArray
    test_G: BoolArray
    val_G: BoolArray
    left_out_N: BoolArray
    counts_GC: IntArray
    drawn: tuple[str, ...]

    @property
    def least(self) -> int:
        """Groups that a class must have outside the official parts: one for each part that is drawn, and train."""
        return 1 + len(self.drawn)


def _official_parts(manifest: Manifest) -> _OfficialParts:
    group_of_N = joined_groups(manifest)
    roles_N = np.array(manifest.splits or [""] * len(manifest))
    test_G, val_G = (_groups_of(group_of_N, roles_N == part) for part in ("test", "val"))
    val_G &= ~test_G
    left_out_N = (test_G[group_of_N] & (roles_N != "test")) | (val_G[group_of_N] & (roles_N != "val"))
    counts_GC = np.zeros((len(test_G), len(manifest.classes)), dtype=np.int64)
    np.add.at(counts_GC, (group_of_N[~left_out_N], manifest.labels[~left_out_N]), 1)
    drawn = tuple(part for part in ("test", "val") if part not in manifest.splits)
    return _OfficialParts(group_of_N, test_G, val_G, left_out_N, counts_GC, drawn)


def _groups_of(group_of_N: IntArray, mask_N: BoolArray) -> BoolArray:
    """The groups that have a row in the mask, bool (G,)."""
    groups_G = np.zeros(int(group_of_N.max()) + 1, dtype=bool)
    groups_G[group_of_N[mask_N]] = True
    return groups_G


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
    """Makes sure that every row is in exactly one part or left out, and all rows of a group in the same.

    Args:
        split: The rows of each part.
        group_of_N: The group of each row, as `joined_groups` gives it.

    Raises:
        ValueError: They aren't, so that a model would be judged on what it has learned.
    """
    rows = np.concatenate([split.train, split.val, split.test, split.left_out])
    if not np.array_equal(np.sort(rows), np.arange(len(group_of_N))):
        raise ValueError(f"The parts must hold each of {len(group_of_N)} rows once, but hold {len(rows)} others.")
    groups = {part: set(group_of_N[getattr(split, part)].tolist()) for part in _PARTS}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(groups[first] & groups[second]):
            named = few([str(group) for group in both])
            raise ValueError(f"The parts must share no group, but {first} and {second} share {len(both)}: {named}.")


def _draw(
    counts_GC: IntArray, free_G: BoolArray, order_G: IntArray, *, target_C: npt.NDArray[np.float64], leave: int
) -> BoolArray:
    """Chooses groups that hold about so many images of each class, the rarest class first.

    Args:
        counts_GC: Images of each class in each group.
        free_G: Groups that may be chosen.
        order_G: The groups in the order in which they are tried.
        target_C: Images of each class that are wanted.
        leave: Groups of each class that must stay unchosen.

    Returns:
        bool (G,), the chosen groups.
    """
    chosen_G = np.zeros(len(counts_GC), dtype=bool)
    decided_G = ~free_G
    left_C = np.count_nonzero(counts_GC[free_G], axis=0)
    for c in np.argsort(counts_GC.sum(axis=0), kind="stable"):
        target = target_C[c]
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


def name_groups(sha256_N: Sequence[str], group_of_N: IntArray) -> list[str]:
    """A name for each group that depends on nothing but its images: the smallest of their hashes."""
    names = ["~"] * (int(group_of_N.max()) + 1)  # above every hexadecimal digit
    for group, sha256 in zip(group_of_N.tolist(), sha256_N, strict=True):
        names[group] = min(names[group], sha256)
    return names


def order_groups(names_G: list[str], salt: str) -> IntArray:
    """A random order of the groups: the same for the same names and salt on every machine and version of numpy."""
    keys = [hashlib.sha256(f"{salt} {name}".encode()).digest() for name in names_G]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _groups_per_class(given: _OfficialParts) -> IntArray:
    """Groups of each class that are in no official test or validation part, int64 (C,)."""
    return np.asarray(np.count_nonzero(given.counts_GC[~(given.test_G | given.val_G)], axis=0))


def _refuse_small_classes(manifest: Manifest, given: _OfficialParts) -> None:
    groups_C = _groups_per_class(given).tolist()
    small = [f"{name} ({n})" for name, n in zip(manifest.classes, groups_C, strict=True) if n < given.least]
    if small:
        parts = few([part for part in _PARTS if part == "train" or part in given.drawn])
        raise InputError(
            f"Every class must have {given.least} lesions or patients or more (near-duplicates count as one), one for "
            f"each of {parts}, but these have fewer: {few(small)}. Add images or leave the classes out: "
            "`python -m core.datasets --fix` writes a table without them, and --group-column names another column of "
            "lesions if a wrong one was taken."
        )


def _check_classes(manifest: Manifest, split: Split) -> None:
    for part in _PARTS:
        present = set(manifest.labels[getattr(split, part)].tolist())
        if absent := [name for index, name in enumerate(manifest.classes) if index not in present]:
            official = part in manifest.splits
            why = "as the official part has no image of them" if official else "because lesions have several labels"
            way_out = "Leave these classes out" if official else "Give each of these lesions one label"
            raise InputError(
                f"Every class must reach train, val and test with whole lesions, but {part} would lack {few(absent)}, "
                f"{why}. {way_out}, or add images."
            )
