import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.errors import InputError
from core.folds import draw_folds
from core.splits import split_manifest
from tests.core.test_splits import hashes, manifest_of, mixed_groups, pure_groups, reordered

folds_of = st.integers(2, 6)


def lesions_of_rarest(groups: list[list[int]]) -> int:
    return min(sum(label in group for group in groups) for label in range(max(map(max, groups)) + 1))


@given(groups=pure_groups, folds=folds_of)
def test_folds_hold_whole_lesions_and_every_class_as_evenly_as_these_allow(groups: list[list[int]], folds: int) -> None:
    assume(lesions_of_rarest(groups) >= folds)
    manifest = manifest_of(groups)
    fold_of = draw_folds(manifest, np.arange(len(manifest)), folds=folds)
    assert set(fold_of.tolist()) == set(range(folds))
    for lesion in set(manifest.groups):
        assert len({fold for fold, group in zip(fold_of, manifest.groups, strict=True) if group == lesion}) == 1
    for label in range(len(manifest.classes)):
        counts = np.bincount(fold_of[manifest.labels == label], minlength=folds)
        largest = max(len(group) for group in groups if group[0] == label)
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= largest


@given(groups=mixed_groups, folds=folds_of)
def test_lesions_of_several_labels_reach_every_fold_or_are_refused(groups: list[list[int]], folds: int) -> None:
    manifest = manifest_of(groups)
    present = set(manifest.labels.tolist())
    try:
        fold_of = draw_folds(manifest, np.arange(len(manifest)), folds=folds)
    except InputError:
        return
    assert all(set(manifest.labels[fold_of == fold].tolist()) == present for fold in range(folds))


def test_folds_depend_on_the_images_alone() -> None:
    rng = np.random.default_rng(0)
    manifest = manifest_of([[g % 3] * int(size) for g, size in enumerate(rng.integers(1, 5, 60))])
    other = reordered(manifest, rng.permutation(len(manifest)).tolist())
    first, second = (split_manifest(each, seed=seed) for each, seed in ((manifest, 0), (other, 7)))
    parts = []
    for each, split in ((manifest, first), (other, second)):
        fold_of = draw_folds(each, split.unsealed, folds=4)
        parts.append({frozenset(hashes(each, split.unsealed[fold_of == fold])) for fold in range(4)})
    assert parts[0] == parts[1]


def test_more_folds_than_lesions_of_the_rarest_class_are_refused() -> None:
    manifest = manifest_of([[0]] * 9 + [[1, 1, 1]] * 3)
    rows = np.arange(len(manifest))
    draw_folds(manifest, rows, folds=3)
    with pytest.raises(InputError, match=r"`--folds` must be at most 3, the lesions of the rarest class, class 1, in"):
        draw_folds(manifest, rows, folds=4)


def test_a_class_whose_lesions_follow_rarer_classes_into_one_fold_is_refused() -> None:
    manifest = manifest_of([[0, 1, 1, 1], [0], [2, 1], [2, 2]])
    with pytest.raises(InputError, match="reach every fold with whole lesions, but one of 2 would lack class 1"):
        draw_folds(manifest, np.arange(len(manifest)), folds=2)
