"""Which image a table means: by exact names first, then by what else can only mean one."""

from pathlib import Path

import pytest

from tests.fixtures import tabular
from tests.fixtures.images import write_image
from tests.fixtures.recognising import by_path, recognise, write_images, write_labels
from tests.fixtures.tabular import WITHOUT_IMAGE, write_rows


@pytest.mark.parametrize(
    "name", ["a", "a.jpg", "A", "a.JPG", "in/a.jpg", "./in/a.jpg", "in/a", "IN\\A.jpg", "../data/in/a.jpg", "a.png"]
)
def test_an_image_is_named_by_its_file_its_stem_or_its_path(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "in/a.jpg", "in/b.jpg")
    write_labels(tmp_path / "t.csv", (name, "nv"), ("b", "mel"))

    found = recognise(tmp_path)

    if name.startswith(".."):
        assert (by_path(found), found.missing) == ({"in/b.jpg": "mel"}, [name])
    else:
        assert by_path(found) == {"in/a.jpg": "nv", "in/b.jpg": "mel"}


def test_a_path_may_be_relative_to_the_table(tmp_path: Path) -> None:
    write_images(tmp_path, "set/in/a.jpg", "in/a.jpg", "in/b.jpg")
    write_labels(tmp_path / "set" / "t.csv", ("in/a.jpg", "nv"), ("in/b.jpg", "mel"))

    assert by_path(recognise(tmp_path)) == {"set/in/a.jpg": "nv", "in/b.jpg": "mel"}


@pytest.mark.parametrize("prefix", ["data/", "/home/somebody/data/", "C:\\data\\", "DATA/", "./data/"])
def test_a_path_may_begin_with_folders_from_elsewhere(tmp_path: Path, prefix: str) -> None:
    write_images(tmp_path, "hosp1/0.jpg", "hosp2/0.jpg")
    write_labels(tmp_path / "t.csv", (f"{prefix}hosp1/0.jpg", "nv"), (f"{prefix}hosp2/0", "mel"))

    assert by_path(recognise(tmp_path)) == {"hosp1/0.jpg": "nv", "hosp2/0.jpg": "mel"}


def test_a_path_may_begin_with_the_folder_itself(tmp_path: Path) -> None:
    write_images(tmp_path / "set", "0.jpg", "1.jpg")
    write_labels(tmp_path / "set" / "t.csv", ("set/0.jpg", "nv"), (str(tmp_path / "set" / "1.jpg"), "mel"))

    assert by_path(recognise(tmp_path / "set")) == {"0.jpg": "nv", "1.jpg": "mel"}


def test_a_path_may_lack_the_first_folders_if_its_end_is_that_of_one_image(tmp_path: Path) -> None:
    write_images(tmp_path, "x/a/1.jpg", "x/b/1.jpg", "y/b/1.jpg")
    write_labels(tmp_path / "t.csv", ("a/1.jpg", "nv"), ("b/1.jpg", "mel"))

    found = recognise(tmp_path)

    assert by_path(found) == {"x/a/1.jpg": "nv"}
    assert "1 have different files below" in found.faults[0]


def test_an_image_in_another_folder_of_equal_name_is_not_meant(tmp_path: Path) -> None:
    write_images(tmp_path, "patient_b/left/1.jpg", "2.jpg")
    write_labels(tmp_path / "t.csv", ("patient_a/left/1.jpg", "nv"), ("elsewhere/2.jpg", "mel"), ("2", "mel"))

    assert recognise(tmp_path).missing == ["elsewhere/2.jpg", "patient_a/left/1.jpg"]


def test_exact_names_come_before_those_without_case(tmp_path: Path) -> None:
    write_images(tmp_path, "x/a.jpg", "y/A.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv"), ("A", "mel"))

    assert by_path(recognise(tmp_path)) == {"x/a.jpg": "nv", "y/A.jpg": "mel"}


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = write_image(tmp_path / "secret.jpg", 0)
    write_images(tmp_path / "data", "a.jpg", "secret.jpg")
    names = [str(outside), str(outside.with_suffix("")), "../secret.jpg", "x/../../secret", "/secret.jpg", "C:\\secret"]
    write_labels(tmp_path / "data" / "t.csv", ("a", "nv"), *((name, "mel") for name in names))

    found = recognise(tmp_path / "data")

    assert by_path(found) == {"a.jpg": "nv"}
    assert found.missing == sorted(names)


def test_endings_such_as_downsampled_belong_to_the_name(tmp_path: Path) -> None:
    write_images(tmp_path, "ISIC_0000001.jpg", "ISIC_0000001_downsampled.jpg")
    write_labels(tmp_path / "t.csv", ("ISIC_0000001", "nv"), ("ISIC_0000001_downsampled", "mel"))

    assert by_path(recognise(tmp_path)) == {"ISIC_0000001.jpg": "nv", "ISIC_0000001_downsampled.jpg": "mel"}


def test_copies_of_an_image_count_once_and_are_not_unlabelled(tmp_path: Path) -> None:
    tabular.write_ham10000_kaggle(tmp_path)

    found = recognise(tmp_path)

    assert len(found.rows) == 49
    assert all(row.path.startswith("HAM10000_images_part_") for row in found.rows)
    assert (found.unlabelled, found.faults) == ([], [])


def test_a_name_of_several_different_images_is_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, "x/a.jpg", "y/a.png", "x/b.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv"), ("b", "mel"))

    found = recognise(tmp_path)

    assert (by_path(found), found.missing, found.unlabelled) == ({"x/b.jpg": "mel"}, [], [])
    assert found.faults == [
        f"Every image id must stand for one image, but 1 have different files below {tmp_path}: a (x/a.jpg, y/a.png). "
        "Remove the wrong ones."
    ]


def test_different_images_of_equal_size_are_not_taken_for_copies(tmp_path: Path) -> None:
    for seed, name in enumerate(["mel/1.bmp", "nv/1.bmp"]):
        write_image(tmp_path / name, seed)
    write_labels(tmp_path / "t.csv", ("1", "nv"))

    found = recognise(tmp_path)

    assert found.rows == []
    assert "1 have different files below" in found.faults[0]


def test_each_file_of_a_name_is_opened_once_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else 50,000 rows that name images by names such as 0.jpg, which each patient has, would take a day."""
    images = [f"p{patient}/{n}.jpg" for patient in range(20) for n in range(3)]
    for image in images:
        (tmp_path / image).parent.mkdir(exist_ok=True)
        (tmp_path / image).write_bytes(image.encode())
    rows = [(f"p{patient}", f"{n}.jpg", "mel") for patient in range(20) for n in range(3)]
    write_rows(tmp_path / "t.csv", ("patient", "image", "label"), rows)
    opened: list[str] = []
    original = Path.open

    def counting(path: Path, *arguments: object, **options: object) -> object:
        opened.append(path.name)
        return original(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting)
    found = recognise(tmp_path)

    assert found.rows == []
    assert sum(name.endswith(".jpg") for name in opened) <= 6  # two different ones of each name


def test_of_several_images_those_of_the_tables_own_folder_are_meant(tmp_path: Path) -> None:
    write_images(tmp_path, "x/in/1.jpg", "y/in/1.jpg")
    write_labels(tmp_path / "x" / "t.csv", ("1", "nv"))
    write_labels(tmp_path / "y" / "t.csv", ("1", "mel"))

    assert by_path(recognise(tmp_path)) == {"x/in/1.jpg": "nv", "y/in/1.jpg": "mel"}


def test_of_several_images_those_of_the_tables_part_are_meant_even_if_equally_long(tmp_path: Path) -> None:
    for seed, name in enumerate(["train/1.bmp", "test/1.bmp"]):  # without compression all have the same size
        write_image(tmp_path / name, seed)
    write_labels(tmp_path / "train.csv", ("1", "nv"))
    write_labels(tmp_path / "test.csv", ("1", "mel"))

    found = recognise(tmp_path)

    assert by_path(found) == {"train/1.bmp": "nv", "test/1.bmp": "mel"}
    assert [row.split for row in found.rows] == [Path(row.path).parent.name for row in found.rows]


def test_masks_are_no_images_of_the_set(tmp_path: Path) -> None:
    masks = ("ISIC_1_segmentation.png", "m/ISIC_1_superpixels.png", "m/ISIC_1_attribute_streaks.png")
    write_images(tmp_path, "ISIC_1.jpg", "ISIC_2.jpg", "more.jpg", *masks)
    write_labels(tmp_path / "t.csv", ("ISIC_1", "nv"), ("ISIC_2", "mel"))

    found = recognise(tmp_path)

    assert (len(found.rows), found.unlabelled) == (2, ["more.jpg"])
    assert found.notes == [f"3 masks of images are passed over: {', '.join(sorted(masks))}"]


def test_names_without_an_image_are_missing(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv"), ("c", "mel"), ("b", "mel"))

    found = recognise(tmp_path)

    assert (by_path(found), found.missing, found.faults) == ({"a.jpg": "nv"}, ["b", "c"], [])


def test_rows_without_weight_need_no_image(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    columns = ("image", "MEL", "NV", "score_weight", "validation_weight")
    rows = [("a", 1, 0, 1, 0), ("b", 0, 1, 0, 1), ("c", 0, 1, 0, 1), ("d", 0, 1, "0.0", "0.0")]
    write_rows(tmp_path / "t.csv", columns, [*rows, (WITHOUT_IMAGE, 0, 1, 1, 1)])

    found = recognise(tmp_path)

    assert found.missing == ["c"]
    assert found.notes == [f"2 rows have no image and no weight in the official score: {WITHOUT_IMAGE}, d"]


def test_a_lost_photo_is_not_taken_from_another_site(tmp_path: Path) -> None:
    write_images(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "b/2.jpg")
    write_labels(tmp_path / "a" / "t.csv", ("1", "nv"), ("2", "mel"), ("3", ""))
    write_labels(tmp_path / "b" / "t.csv", ("1", "nv"), ("2", "mel"), ("3", "bkl"))

    found = recognise(tmp_path)

    assert found.unlabelled == ["a/3.jpg"]
    assert by_path(found) == {"a/1.jpg": "nv", "a/2.jpg": "mel", "b/1.jpg": "nv", "b/2.jpg": "mel"}
    assert found.faults == [
        "Images must lie below the folder of the table that gives their names only, if most of its images do, but 1 "
        "lie elsewhere: 3 (a/3.jpg). Add the right ones there, or give these with their folders."
    ]


def test_images_elsewhere_are_meant_by_their_paths_or_if_most_lie_there(tmp_path: Path) -> None:
    write_images(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/5.jpg")
    write_labels(tmp_path / "b" / "t.csv", ("a/1.jpg", "nv"), ("4", "mel"), ("5", "mel"))
    write_labels(tmp_path / "tables" / "t.csv", ("2", "nv"), ("3", "mel"))

    found = recognise(tmp_path)

    assert len(found.rows) == 5
    assert (found.missing, found.faults) == ([], [])


def test_accents_may_be_written_as_a_mac_does(tmp_path: Path) -> None:
    write_images(tmp_path, "Mu\u0308ller_1.jpg", "M\u00fcller_2.jpg")
    labels = ("N\u00e4vus", "Na\u0308vus")
    write_labels(tmp_path / "t.csv", ("M\u00fcller_1.jpg", labels[0]), ("Mu\u0308ller_2", labels[1]))

    assert by_path(recognise(tmp_path)) == dict.fromkeys(("Mu\u0308ller_1.jpg", "M\u00fcller_2.jpg"), labels[0])
