"""Several sets as one, on pictures of our own."""

from pathlib import Path

import pytest
from PIL import Image

from core.inspection import inspect_image
from core.merging import join_same_ids, merge, names_of_groups
from core.survey import Sample
from tests.fixtures.images import draw_image, write_image


def sample(root: Path, set_: int, path: str, label: str = "nv", group: str = "", split: str = "") -> Sample:
    return Sample(set_, path, label, group, split, inspect_image(root / path))


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    return [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


def names(samples: list[Sample]) -> list[str]:
    return [f"{sample.set} {sample.path}" for sample in samples]


def test_an_image_of_the_same_isic_id_counts_once_whatever_it_shows(roots: list[Path]) -> None:
    write_image(roots[0] / "ISIC_0000001.jpg", 1)
    write_image(roots[1] / "deep" / "ISIC_0000001_downsampled.jpg", 2)
    samples = [sample(roots[0], 0, "ISIC_0000001.jpg"), sample(roots[1], 1, "deep/ISIC_0000001_downsampled.jpg")]

    kept, notes = merge(roots, samples)

    assert names(kept) == ["0 ISIC_0000001.jpg"]
    assert notes == [
        "1 images are in an earlier set, too, and count once "
        "(1 by their ISIC id, 0 by their bytes, 0 by what they show)"
    ]


def test_equal_names_that_are_no_isic_ids_mean_nothing(roots: list[Path]) -> None:
    write_image(roots[0] / "1.jpg", 1)
    write_image(roots[1] / "1.jpg", 2)

    kept, _ = merge(roots, [sample(roots[0], 0, "1.jpg"), sample(roots[1], 1, "1.jpg")])

    assert len(kept) == 2


def test_copies_are_found_by_bytes_and_by_what_they_show_at_another_size(roots: list[Path]) -> None:
    write_image(roots[0] / "a.png", 1)
    write_image(roots[0] / "b.jpg", 2, size=(320, 240), quality=95)
    write_image(roots[1] / "x.png", 1)
    roots[1].mkdir(exist_ok=True)
    draw_image(2, (320, 240)).resize((128, 96), Image.Resampling.LANCZOS).save(roots[1] / "y.jpg", quality=70)
    write_image(roots[1] / "z.jpg", 3)
    samples = [sample(roots[0], 0, "a.png"), sample(roots[0], 0, "b.jpg")]
    samples += [sample(roots[1], 1, name) for name in ("x.png", "y.jpg", "z.jpg")]

    kept, notes = merge(roots, samples)

    assert names(kept) == ["0 a.png", "0 b.jpg", "1 z.jpg"]
    assert "(0 by their ISIC id, 1 by their bytes, 1 by what they show)" in notes[0]


def test_copies_within_one_set_are_not_its_business(roots: list[Path]) -> None:
    write_image(roots[0] / "a.png", 1)
    write_image(roots[0] / "b.png", 1)
    write_image(roots[1] / "c.png", 2)

    kept, _ = merge(roots, [sample(roots[0], 0, "a.png"), sample(roots[0], 0, "b.png"), sample(roots[1], 1, "c.png")])

    assert len(kept) == 3


def test_the_stricter_official_role_holds(roots: list[Path]) -> None:
    for root in roots[:2]:
        write_image(root / "a.png", 1)

    for first, second, role in (("train", "test", "test"), ("val", "train", "val"), ("", "train", "train")):
        samples = [sample(roots[0], 0, "a.png", split=first), sample(roots[1], 1, "a.png", split=second)]
        assert merge(roots, samples)[0][0].split == role


def test_lesions_that_share_an_image_become_one(roots: list[Path]) -> None:
    """Set 0 knows no lesion of the image; set 1 knows another photo of that lesion, and set 2 calls it otherwise."""
    for root in roots:
        write_image(root / "same.png", 1)
    write_image(roots[1] / "other.png", 2)
    write_image(roots[2] / "third.png", 3)
    samples = [
        sample(roots[0], 0, "same.png"),
        sample(roots[1], 1, "other.png", group="L1"),
        sample(roots[1], 1, "same.png", group="L1"),
        sample(roots[2], 2, "same.png", group="P9"),
        sample(roots[2], 2, "third.png", group="P9"),
    ]

    kept, _ = merge(roots, samples)

    assert names(kept) == ["0 same.png", "1 other.png", "2 third.png"]
    assert len({one.group for one in kept}) == 1
    assert kept[0].group


def test_labels_that_contradict_each_other_are_counted_and_the_first_holds(roots: list[Path]) -> None:
    for root in roots[:2]:
        write_image(root / "a.png", 1)

    kept, notes = merge(roots, [sample(roots[0], 0, "a.png", "mel"), sample(roots[1], 1, "a.png", "nv")])

    assert [one.label for one in kept] == ["mel"]
    assert notes[1] == "1 of them have another label there; the earlier set's holds"


def test_numbers_of_lesions_mean_nothing_across_sets(roots: list[Path]) -> None:
    for number, root in enumerate(roots[:2]):
        write_image(root / "a.png", number)
    samples = [sample(roots[0], 0, "a.png", group="7", split="test"), sample(roots[1], 1, "a.png", group="7")]

    assert [one.group for one in merge(roots, samples)[0]] == ["1/7", "2/7"]


@pytest.mark.parametrize("group", ["HAM_0000118", "BCN_0003884", "MSK4_0010962", "IL_7252831", "IP_6075186"])
def test_lesions_of_the_archive_are_the_same_in_all_sets(roots: list[Path], group: str) -> None:
    for number, root in enumerate(roots[:2]):
        write_image(root / "a.png", number)
    samples = [sample(roots[0], 0, "a.png", group=group), sample(roots[1], 1, "a.png", group=group)]

    assert {one.group for one in merge(roots, samples)[0]} == {group}


def test_classes_of_one_set_alone_are_named(roots: list[Path]) -> None:
    labels = {0: ("mel", "nv"), 1: ("mel", "nevus"), 2: ("mel",)}
    samples = []
    for number, names in labels.items():
        for label in names:
            write_image(roots[number] / f"{label}.png", 10 * number + len(label))
            samples.append(sample(roots[number], number, f"{label}.png", label))

    (_, warning) = merge(roots, samples)[1]

    assert warning.startswith(f"classes that one set alone has: nv of {roots[0]}; nevus of {roots[1]}; where two names")


def test_equal_classes_are_not_mentioned(roots: list[Path]) -> None:
    for number, root in enumerate(roots[:2]):
        write_image(root / "a.png", number)

    assert len(merge(roots, [sample(root, number, "a.png") for number, root in enumerate(roots[:2])])[1]) == 1


def test_lesions_of_images_of_one_isic_id_become_one(tmp_path: Path) -> None:
    names = {
        "ISIC_0000001.png": "L1",
        "isic_0000001_flip.png": "L2",
        "b.png": "L2",
        "c.png": "",
        "ISIC_0000002.png": "",
    }
    names |= {"ISIC_0000001_x.png": "", "ISIC_00000012.png": "L3"}
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)

    joined, notes = join_same_ids([sample(tmp_path, 0, name, group=group) for name, group in names.items()])

    assert [one.group for one in joined] == ["L1", "L1", "L1", "", "", "L1", "L3"]
    assert notes == ["3 images have 1 ISIC ids; those of one id count as one lesion"]


def test_images_of_one_isic_id_and_no_lesion_are_one_group(tmp_path: Path) -> None:
    names = ["ISIC_0000001.png", "ISIC_0000001_flip.png", "ISIC_0000002.png"]
    samples = [sample(tmp_path, 0, write_image(tmp_path / name, seed).name) for seed, name in enumerate(names)]

    groups = names_of_groups(samples)

    assert groups == ("image ISIC_0000001", "image ISIC_0000001", f"image {samples[2].report.sha256[:16]}")
