"""Several tables: which row of an image holds, of what group it is and of which official part."""

from pathlib import Path

import pytest

from core.layouts.contract import Recognised
from tests.fixtures import tabular
from tests.fixtures.recognising import by_path, recognise, write_images, write_labels
from tests.fixtures.tabular import WITHOUT_IMAGE, write_rows


def splits(found: Recognised) -> dict[str, str]:
    return {row.path: row.split for row in found.rows}


def groups(found: Recognised) -> dict[str, str]:
    return {row.path: row.group for row in found.rows}


def test_equal_rows_of_one_image_count_once(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv", "L1"), ("b", "mel", "L2"), ("a", "nv", "L1"))

    found = recognise(tmp_path)

    assert (len(found.rows), found.faults) == (2, [])
    assert found.notes == ["rows that t.csv repeats count once (1)"]


@pytest.mark.parametrize(
    ("again", "what"), [(("a", "mel", "L1"), "label"), (("a", "nv", "L9"), "lesion or patient")], ids=["label", "group"]
)
def test_rows_that_contradict_each_other_are_a_fault(tmp_path: Path, again: tuple[str, ...], what: str) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv", "L1"), ("b", "mel", "L2"), again)

    found = recognise(tmp_path)

    assert (by_path(found), found.unlabelled) == ({"b.jpg": "mel"}, [])
    assert found.faults == [
        f"Every image must have one {what} in t.csv, but 1 of 2 have several: a. Keep one row of each."
    ]


def test_a_row_without_an_image_is_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "t.csv", ("b", "mel", "L2"), ("", "nv", "L1"))

    found = recognise(tmp_path)

    assert by_path(found) == {"b.jpg": "mel"}
    assert found.faults == [
        "Every row of t.csv must have `image_id`, but 1 of 2 have none: lines 3. Correct or remove them."
    ]


@pytest.mark.parametrize("columns", [("image_id", "dx"), ("file", "label")], ids=["ham10000", "plain"])
@pytest.mark.parametrize("word", ["", " ", "nan", "NULL", "NA", "None", "unknown", "Unknown"])
def test_a_label_that_says_nothing_leaves_the_image_unlabelled(
    tmp_path: Path, columns: tuple[str, str], word: str
) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_rows(tmp_path / "t.csv", columns, [("a", word), ("b", "mel"), ("c", "nv")])

    found = recognise(tmp_path)

    assert (by_path(found), found.unlabelled) == ({"b.jpg": "mel", "c.jpg": "nv"}, ["a.jpg"])
    assert (found.missing, found.faults) == ([], [])


def test_a_label_that_says_nothing_contradicts_none(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "s.csv", ("a", "nan"), ("b", "mel"))
    write_labels(tmp_path / "t.csv", ("a", "nv"))

    found = recognise(tmp_path)

    assert (by_path(found), found.unlabelled, found.faults) == ({"a.jpg": "nv", "b.jpg": "mel"}, [], [])


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    (tmp_path / "header.csv").write_text("image_id,dx\n")
    (tmp_path / "latin.csv").write_bytes("image_id,dx\na,Nävus\n".encode("latin-1"))
    (tmp_path / "ragged.csv").write_text("image_id,dx\na,nv\nb\n")

    found = recognise(tmp_path)

    assert len(found.rows) == 1
    assert [fault.split(", but ")[1] for fault in found.faults] == [
        "it has a header only. Restore it.",
        "from line 2 on it is not (invalid continuation byte). Export it again.",
        "1 of 2 have others: lines 3. Mend them.",
    ]


def test_tables_that_agree_give_one_row_with_the_group_of_either(tmp_path: Path) -> None:
    photos = tabular.write_isic2018(tmp_path, groupings=False)
    rows = [(photo.lesion, photo.image, photo.label, "histo", "50.0", "male", "back") for photo in photos]
    write_rows(tmp_path / "HAM10000_metadata.csv", tabular.HAM10000_COLUMNS, rows)

    found = recognise(tmp_path)

    assert {Path(row.path).stem: row.group for row in found.rows} == {photo.image: photo.lesion for photo in photos}
    assert (len(found.rows), found.faults) == (49, [])


def test_tables_that_disagree_are_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "s.csv", ("a", "nv"), ("b", "mel"))
    write_labels(tmp_path / "t.csv", ("a", "mel"), ("b", "mel"))

    found = recognise(tmp_path)

    assert by_path(found) == {"b.jpg": "mel"}
    assert found.faults == [
        "Every image must have one label, but 1 of 2 have several: a (nv, mel). Correct s.csv, t.csv."
    ]


def test_other_tables_give_groups_where_the_labels_have_none(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv", "L1"), ("b", "mel"), ("c", "mel"), ("d", "nv"))
    write_rows(tmp_path / "g.csv", ("image", "group"), [("b", "G2"), ("c", "")])

    assert groups(recognise(tmp_path)) == {"a.jpg": "L1", "b.jpg": "G2", "c.jpg": "", "d.jpg": ""}


def test_patients_of_another_table_join_the_lesions_of_the_labels(tmp_path: Path) -> None:
    images = [f"{n}.jpg" for n in range(12)]
    write_images(tmp_path, *images)
    write_labels(tmp_path / "meta.csv", *((f"{n}", ("nv", "mel")[n % 2], f"L{n // 2}") for n in range(12)))
    write_rows(tmp_path / "patients.csv", ("image", "patient_id"), [(f"{n}", f"P{n % 3}") for n in range(0, 12, 2)])

    found = recognise(tmp_path)

    assert groups(found) == {f"{n}.jpg": f"P{n // 2 * 2 % 3}" for n in range(12)}
    assert found.notes == ["9 lesions and patients that share images count as 3"]


def test_label_tables_that_name_different_groups_are_joined(tmp_path: Path) -> None:
    """`a` and `b` are of one patient by the second table, `b` and `c` of one lesion by the first."""
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    write_labels(tmp_path / "s.csv", ("a", "nv", "L1"), ("b", "nv", "L2"), ("c", "nv", "L2"), ("d", "mel", "L4"))
    write_rows(tmp_path / "t.csv", ("image_id", "dx", "patient_id"), [("a", "nv", "P1"), ("b", "nv", "P1")])

    found = recognise(tmp_path)

    assert groups(found) == {"a.jpg": "P1", "b.jpg": "P1", "c.jpg": "P1", "d.jpg": "L4"}
    assert found.notes == ["3 lesions and patients that share images count as 1"]


def test_a_lesion_and_a_patient_of_one_number_are_two(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_labels(tmp_path / "s.csv", ("a", "nv", "1"), ("b", "nv", "2"), ("c", "mel", "3"))
    write_rows(tmp_path / "patients.csv", ("image", "patient"), [("b", "1"), ("c", "7")])

    assert groups(recognise(tmp_path)) == {"a.jpg": "lesion 1", "b.jpg": "1", "c.jpg": "7"}


def test_the_tables_name_tells_the_part(tmp_path: Path) -> None:
    tabular.write_isic2018(tmp_path, test=True)

    found = recognise(tmp_path)

    assert all(split == ("test" if "Test_Input" in path else "train") for path, split in splits(found).items())
    assert set(splits(found).values()) == {"train", "test"}
    assert found.notes == [f"1 row has no image and no weight in the official score: {WITHOUT_IMAGE}"]


def test_what_is_in_no_part_is_for_training_beside_an_official_test(tmp_path: Path) -> None:
    tabular.write_ham10000_dataverse(tmp_path)

    found = recognise(tmp_path)

    assert all(split == ("test" if "Test_Images" in path else "train") for path, split in splits(found).items())
    assert found.notes == ["the 49 images that nothing puts into the official test part are for training"]


def test_the_folders_tell_the_part_if_the_table_does_not(tmp_path: Path) -> None:
    write_images(tmp_path, "Train/a.jpg", "Validation/b.jpg", "test images/c.jpg", "d.jpg")
    write_labels(tmp_path / "t.csv", ("a", "nv"), ("b", "mel"), ("c", "nv"), ("d", "mel"))

    assert list(splits(recognise(tmp_path)).values()) == ["train", "val", "test", ""]


def test_the_nearest_name_tells_the_part(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_labels(tmp_path / "test" / "training.csv", ("a", "nv"))
    write_labels(tmp_path / "test" / "labels.csv", ("b", "mel"))

    assert splits(recognise(tmp_path)) == {"a.jpg": "train", "b.jpg": "test"}


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "labels.csv"])
def test_one_part_alone_is_none(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "training/a.jpg", "training/b.jpg")
    write_labels(tmp_path / name, ("a", "nv"), ("b", "mel"))

    assert set(splits(recognise(tmp_path)).values()) == {""}


@pytest.mark.parametrize("name", ["skin_test_results.csv", "test.csv"])
def test_the_names_of_anybodys_tables_tell_no_parts_and_that_is_said(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_rows(tmp_path / name, ("image", "label"), [("a", "nv")])
    write_rows(tmp_path / "hospital.csv", ("image", "label"), [("b", "mel")])

    found = recognise(tmp_path)

    assert splits(found) == {"a.jpg": "", "b.jpg": ""}
    assert found.notes == [
        f"the names of {name} make no official parts; a column `split` or folders named train and test do"
    ]


def write_part(folder: Path, name: str, *rows: tuple[str, str]) -> None:
    write_rows(folder / name, ("image", "label"), rows)


def test_tables_that_are_all_called_like_parts_and_share_no_image_tell_parts(tmp_path: Path) -> None:
    write_images(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    for name, image, label in (("train.csv", "a", "nv"), ("val.csv", "b", "mel"), ("test.csv", "c", "nv")):
        write_part(tmp_path, name, (image, label))

    found = recognise(tmp_path)

    assert splits(found) == {"in/a.jpg": "train", "in/b.jpg": "val", "in/c.jpg": "test"}
    assert found.notes == []


def test_tables_that_share_an_image_tell_no_parts(tmp_path: Path) -> None:
    write_images(tmp_path, "in/a.jpg", "in/b.jpg")
    write_part(tmp_path, "train.csv", ("a", "nv"), ("b", "mel"))
    write_part(tmp_path, "test.csv", ("b", "mel"))

    assert set(splits(recognise(tmp_path)).values()) == {""}


def test_a_submission_beside_labels_tells_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, "train_images/a.jpg", "train_images/b.jpg", "test_images/c.jpg")
    write_part(tmp_path, "labels.csv", ("a", "nv"), ("b", "mel"))
    write_part(tmp_path, "sample_submission.csv", ("c", "mel"))

    found = recognise(tmp_path)

    assert sorted(splits(found)) == ["train_images/a.jpg", "train_images/b.jpg"]
    assert found.unlabelled == ["test_images/c.jpg"]


def test_paths_upwards_find_what_lies_in_the_folder_and_nothing_beyond(tmp_path: Path) -> None:
    write_images(tmp_path, "outside.jpg", "set/in/a.jpg", "set/in/b.jpg")
    write_part(tmp_path / "set", "tables/t.csv", ("../in/a.jpg", "nv"), ("../in/b", "mel"), ("../../outside.jpg", "nv"))

    found = recognise(tmp_path / "set")

    assert sorted(splits(found)) == ["in/a.jpg", "in/b.jpg"]
    assert found.missing == ["../../outside.jpg"]


def test_the_folders_of_anybodys_tables_tell_parts(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    for part, row in (("train", ("a", "nv")), ("test", ("b", "mel"))):
        write_rows(tmp_path / part / "labels.csv", ("image", "label"), [row])

    found = recognise(tmp_path)

    assert (splits(found), found.notes) == ({"a.jpg": "train", "b.jpg": "test"}, [])


def test_an_image_in_two_parts_is_a_fault(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write_labels(tmp_path / "train.csv", ("a", "nv"), ("b", "mel"))
    write_labels(tmp_path / "test.csv", ("b", "mel"), ("c", "nv"))

    found = recognise(tmp_path)

    assert splits(found) == {"a.jpg": "train", "c.jpg": "test"}
    assert found.faults == [
        "Every image must have one official part, but 1 of 3 have several: b (test, train). "
        "Correct test.csv, train.csv."
    ]
