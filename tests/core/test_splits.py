import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.datasets import load_manifest
from core.errors import InputError
from core.manifest import Manifest
from core.splits import Split, check_disjoint, classes_that_do_not_split, joined_groups, split_manifest


def manifest_of(groups: list[list[int]]) -> Manifest:
    """A manifest without files: for each group the labels of its images."""
    labels = np.array([label for group in groups for label in group], dtype=np.int64)
    names = tuple(f"lesion {g}" for g, group in enumerate(groups) for _ in group)
    hashes = tuple(hashlib.sha256(str(n).encode()).hexdigest() for n in range(len(labels)))
    return Manifest(
        roots=(Path("/nowhere"),),
        layout="ham10000",
        paths=tuple(f"{n:06}.jpg" for n in range(len(labels))),
        labels=labels,
        groups=names,
        classes=tuple(f"class {c}" for c in range(int(labels.max()) + 1)),
        sha256=hashes,
        phashes=tuple(value[:32] for value in hashes),  # random: 50 and more of 128 bits apart
    )


def reordered(manifest: Manifest, order: list[int]) -> Manifest:
    def pick(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[row] for row in order)

    return dataclasses.replace(
        manifest,
        labels=manifest.labels[order],
        groups=pick(manifest.groups),
        sha256=pick(manifest.sha256),
        phashes=pick(manifest.phashes),
    )


def hashes(manifest: Manifest, rows: np.ndarray) -> set[str]:
    return {manifest.sha256[row] for row in rows}


sizes_of_class = st.lists(st.integers(1, 9), min_size=3, max_size=40)
pure_groups = st.lists(sizes_of_class, min_size=2, max_size=6).map(
    lambda classes: [[label] * size for label, sizes in enumerate(classes) for size in sizes]
)
mixed_groups = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=3, max_size=40)
seeds = st.integers(0, 2**63)


@given(groups=pure_groups, seed=seeds)
def test_no_lesion_is_in_two_splits_and_every_class_in_all_of_them(groups: list[list[int]], seed: int) -> None:
    manifest = manifest_of(groups)

    split = split_manifest(manifest, seed=seed)

    parts = [split.train, split.val, split.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(manifest)))
    lesions = [{manifest.groups[row] for row in rows} for rows in parts]
    assert sum(len(of_part) for of_part in lesions) == len(set(manifest.groups))
    for rows in parts:
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert set(manifest.labels[rows]) == set(manifest.labels)


@given(groups=pure_groups, seed=seeds)
def test_shares_miss_15_percent_by_less_than_one_lesion(groups: list[list[int]], seed: int) -> None:
    manifest = manifest_of(groups)

    split = split_manifest(manifest, seed=seed)

    for label, total in enumerate(manifest.class_counts):
        largest = max(len(group) for group in groups if group[0] == label)
        for rows in (split.val, split.test):
            assert abs((manifest.labels[rows] == label).sum() - 0.15 * total) <= largest


@given(groups=mixed_groups, seed=seeds)
def test_lesions_of_several_labels_are_split_whole_or_refused(groups: list[list[int]], seed: int) -> None:
    manifest = manifest_of(groups)
    try:
        split = split_manifest(manifest, seed=seed)
    except InputError as error:
        assert "Every class must" in str(error)  # noqa: PT017 -- either outcome is right
        return

    check_disjoint(split, joined_groups(manifest))
    for rows in (split.train, split.val, split.test):
        assert set(manifest.labels[rows]) == set(range(len(manifest.classes))) & set(manifest.labels)


@given(groups=pure_groups, seed=seeds, other=seeds)
def test_the_test_part_is_the_same_for_every_seed(groups: list[list[int]], seed: int, other: int) -> None:
    manifest = manifest_of(groups)

    first, second = split_manifest(manifest, seed=seed), split_manifest(manifest, seed=other)

    assert np.array_equal(first.test, second.test)


@given(groups=pure_groups, random=st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_neither_names_nor_order_of_files_matter(groups: list[list[int]], random: object) -> None:
    manifest = manifest_of(groups)
    order = list(range(len(manifest)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = reordered(manifest, order)

    first, second = split_manifest(manifest, seed=1), split_manifest(other, seed=1)

    assert hashes(manifest, first.test) == hashes(other, second.test)
    assert hashes(manifest, first.val) == hashes(other, second.val)


def test_seeds_vary_train_and_validation() -> None:
    manifest = manifest_of([[n % 2] for n in range(200)])

    assert len({tuple(split_manifest(manifest, seed=seed).val) for seed in range(5)}) == 5


def test_large_classes_are_split_70_15_15() -> None:
    manifest = manifest_of([[n % 2] * (n % 3 + 1) for n in range(2000)])

    split = split_manifest(manifest)

    for rows, share in ((split.train, 0.7), (split.val, 0.15), (split.test, 0.15)):
        assert len(rows) / len(manifest) == pytest.approx(share, abs=0.002)


def test_one_large_lesion_stays_in_training() -> None:
    manifest = manifest_of([[0] * 50, [0], [0], [1], [1], [1]])

    split = split_manifest(manifest)

    assert set(range(50)) <= set(split.train.tolist())


def test_a_class_of_two_lesions_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"3 lesions or patients .*: class 1 \(2\)\. Add images"):
        split_manifest(manifest_of([[0], [0], [0], [1, 1, 1], [1]]))


def test_identical_images_of_two_lesions_go_to_one_part() -> None:
    manifest = manifest_of([[n % 2] for n in range(60)])
    # lesion 2k is photographed as 2k + 1 too, under another label
    manifest = dataclasses.replace(
        manifest,
        sha256=tuple(manifest.sha256[n // 2 * 2] for n in range(60)),
        phashes=tuple(manifest.phashes[n // 2 * 2] for n in range(60)),
    )

    split = split_manifest(manifest)

    assert len(set(joined_groups(manifest).tolist())) == 30
    for rows in (split.train, split.val, split.test):
        assert {row // 2 * 2 for row in rows} | {row // 2 * 2 + 1 for row in rows} == set(rows.tolist())


def test_near_duplicates_are_joined_through_others() -> None:
    """Lesions 0 and 2 have no image in common, but each has one in common with lesion 1."""
    manifest = manifest_of([[0, 0], [0, 0], [0, 0], [0]])
    same = [0, 1, 1, 2, 2, 3, 4]
    manifest = dataclasses.replace(
        manifest,
        sha256=tuple(manifest.sha256[n] for n in same),
        phashes=tuple(manifest.phashes[n] for n in same),
    )

    assert joined_groups(manifest).tolist() == [0] * 6 + [1]


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_shared_group_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"share no group, but train and test share 1: 7"):
        check_disjoint(Split(rows(0, 1), rows(2), rows(3), 0), rows(5, 7, 6, 7))


@pytest.mark.parametrize("test", [rows(3, 2), rows(), rows(4)])
def test_a_row_missing_or_twice_is_an_error(test: np.ndarray) -> None:
    with pytest.raises(ValueError, match="each of 4 rows once"):
        check_disjoint(Split(rows(0, 1), rows(2), test, 0), rows(0, 1, 2, 3))


@pytest.mark.realdata
def test_known_near_duplicates_of_ham10000_are_joined_and_few_others(ham10000: Path) -> None:
    manifest = load_manifest(ham10000)
    row_of = {Path(path).stem: row for row, path in enumerate(manifest.paths)}

    group_of_N = joined_groups(manifest)
    split = split_manifest(manifest)

    for first, second in (("ISIC_0033481", "ISIC_0033421"), ("ISIC_0025226", "ISIC_0030074")):
        assert manifest.groups[row_of[first]] != manifest.groups[row_of[second]]
        assert group_of_N[row_of[first]] == group_of_N[row_of[second]]
    assert 7440 <= len(set(group_of_N.tolist())) < 7470
    assert np.bincount(group_of_N).max() <= 20
    for part, share in ((split.train, 0.7), (split.val, 0.15), (split.test, 0.15)):
        counts = np.bincount(manifest.labels[part], minlength=7)
        assert counts / manifest.class_counts == pytest.approx(np.full(7, share), abs=0.01)


def with_roles(groups: list[list[int]], roles: list[str]) -> Manifest:
    return dataclasses.replace(manifest_of(groups), splits=tuple(roles))


roles = st.sampled_from(["train", "val", "test", ""])


@given(
    groups=st.lists(st.lists(st.tuples(st.integers(0, 2), roles), min_size=1, max_size=4), min_size=4, max_size=40),
    seed=seeds,
)
def test_official_test_images_stay_in_the_test_and_their_lesions_out_of_the_rest(
    groups: list[list[tuple[int, str]]], seed: int
) -> None:
    manifest = with_roles([[label for label, _ in g] for g in groups], [role for g in groups for _, role in g])
    try:
        split = split_manifest(manifest, seed=seed)
    except InputError:
        return
    official = {role: np.flatnonzero(np.array(manifest.splits) == role) for role in ("train", "val", "test")}
    group_of_N = joined_groups(manifest)
    tested = set(group_of_N[official["test"]].tolist())
    if len(official["test"]):
        assert split.test.tolist() == official["test"].tolist()
    if len(official["val"]):
        assert set(split.val.tolist()) == {row for row in official["val"].tolist() if group_of_N[row] not in tested}
    assert not set(group_of_N[split.train].tolist()) & set(group_of_N[split.test].tolist())
    assert sum(map(len, (split.train, split.val, split.test, split.left_out))) == len(manifest)


def official_halves(n: int = 40) -> Manifest:
    """Lesions of one image each; the first quarter of each class is the official test."""
    groups = [[n % 2] for n in range(n)]
    return with_roles(groups, ["test" if n < len(groups) // 4 else "train" for n in range(len(groups))])


def test_what_is_not_official_is_drawn_by_the_seed() -> None:
    manifest = official_halves()

    splits = [split_manifest(manifest, seed=seed) for seed in range(3)]

    assert {tuple(split.test.tolist()) for split in splits} == {tuple(range(10))}
    assert len({tuple(split.val.tolist()) for split in splits}) == 3


def test_a_large_official_test_starves_no_class() -> None:
    roles = (["test"] * 300 + [""] * 300) + (["test"] * 60 + [""] * 8)
    manifest = with_roles([[0]] * 600 + [[1]] * 68, roles)

    split = split_manifest(manifest)

    drawn = np.bincount(manifest.labels[split.val])
    assert drawn.tolist() == [53, 1]  # 15 of 85 parts: as many to training as without an official test
    assert len(split.test) == 360


def test_official_parts_all_given_leave_nothing_to_the_seed() -> None:
    manifest = with_roles([[n % 2] for n in range(12)], ["train"] * 6 + ["val"] * 3 + ["test"] * 3)

    for seed in (0, 1):
        split = split_manifest(manifest, seed=seed)
        assert [len(split.train), len(split.val), len(split.test)] == [6, 3, 3]


def test_photos_of_a_tested_lesion_are_left_out_of_training() -> None:
    roles = ["train"] * 8 + ["test"] * 2 + ["test", "train", ""]
    manifest = with_roles([[n % 2] for n in range(10)] + [[0, 0, 0]], roles)

    split = split_manifest(manifest)

    assert split.left_out.tolist() == [11, 12]
    assert split.test.tolist() == [8, 9, 10]


def test_a_class_that_an_official_part_lacks_is_refused_by_name() -> None:
    manifest = with_roles([[n % 2] for n in range(8)] + [[0], [0]], ["train"] * 8 + ["test"] * 2)

    with pytest.raises(InputError, match=r"test would lack class 1, as the official part has no image of them\. Leave"):
        split_manifest(manifest)
    assert classes_that_do_not_split(manifest) == ["class 1"]


def test_with_an_official_test_two_lesions_of_a_class_suffice_elsewhere() -> None:
    enough = with_roles([[0], [1], [0], [1], [0], [1]], ["test", "test", "", "", "", ""])

    assert len(split_manifest(enough).train) == 2
    with pytest.raises(InputError, match=r"must have 2 lesions .* train, val, but these have fewer: class 1 \(0\)"):
        split_manifest(with_roles([[0], [1], [0], [0], [0], [1]], ["test", "test", "", "", "", "test"]))


def test_classes_that_do_not_split_are_those_with_too_few_lesions() -> None:
    assert classes_that_do_not_split(manifest_of([[0], [0], [0], [1, 1, 1], [1]])) == ["class 1"]
    assert classes_that_do_not_split(manifest_of([[0], [0], [0], [1], [1], [1]])) == []
