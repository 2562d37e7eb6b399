"""The formats of label tables: what each is recognised by, and what it makes of its columns."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from core.dataspec import Columns
from core.errors import InputError
from core.layouts.contract import Recognised
from core.layouts.labelled_tables import labelled_tables
from core.listing import list_folder
from tests.fixtures import tabular
from tests.fixtures.recognising import recognise, write_images
from tests.fixtures.tabular import Photo, write_rows


def labels_of(found: Recognised) -> dict[str, str]:
    return {Path(row.path).stem: row.label for row in found.rows}


@pytest.mark.parametrize(
    ("write", "layout"),
    [
        (tabular.write_ham10000, "ham10000"),
        (tabular.write_ham10000_dataverse, "ham10000"),
        (tabular.write_ham10000_kaggle, "ham10000"),
        (tabular.write_isic2018, "isic 2018 task 3"),
        (partial(tabular.write_isic2018, test=True), "isic 2018 task 3"),
        (tabular.write_isic2018_dx, "ham10000"),
        (tabular.write_isic2019, "isic 2019"),
        (tabular.write_isic2020, "isic 2020"),
        (tabular.write_plain_table, "plain table"),
        (partial(tabular.write_plain_table, delimiter="\t", bom=False), "plain table"),
    ],
)
def test_every_image_has_its_label_and_its_group(
    tmp_path: Path, write: Callable[[Path], list[Photo]], layout: str
) -> None:
    photos = write(tmp_path)

    found = recognise(tmp_path)

    assert found.layout == layout
    renamed = {"MEL": "mel", "NV": "nv", "BCC": "bcc", "AK": "akiec", "BKL": "bkl", "DF": "df", "VASC": "vasc"}
    assert labels_of(found) == {photo.image: renamed.get(photo.label, photo.label.lower()) for photo in photos}
    sealed = found.layout == "isic 2018 task 3"  # the lesions of its test are not public
    groups = {Path(row.path).stem: row.group for row in found.rows if not (sealed and row.split == "test")}
    assert groups == {photo.image: photo.lesion for photo in photos if photo.image in groups}
    assert (found.missing, found.unlabelled, found.faults) == ([], [], [])


@pytest.mark.parametrize("rename", [str.upper, str.lower, lambda name: f"  {name} "])
def test_names_of_columns_count_without_case_and_spaces(tmp_path: Path, rename: Callable[[str], str]) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    rows = [("a", "L1", "nv"), ("b", "L2", "mel")]
    write_rows(tmp_path / "any.csv", list(map(rename, ("image_id", "lesion_id", "dx"))), rows)

    found = recognise(tmp_path)

    assert [(row.path, row.label, row.group) for row in found.rows] == [("a.jpg", "nv", "L1"), ("b.jpg", "mel", "L2")]


@pytest.mark.parametrize("name", ["HAM10000_metadata.tab", "deep/er/labels", "x.tsv", "images part/y.csv"])
def test_a_table_is_known_by_its_columns_whatever_its_name_and_wherever_it_lies(tmp_path: Path, name: str) -> None:
    tabular.write_ham10000(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "HAM10000_metadata.csv").rename(tmp_path / name)

    found = recognise(tmp_path)

    assert (found.layout, len(found.rows)) == ("ham10000", 49)
    assert found.reason == f"{Path(name).name} has the columns image_id, dx, lesion_id"


def test_dataverses_tabs_and_quotes_are_read(tmp_path: Path) -> None:
    tabular.write_ham10000(tmp_path)
    lines = (tmp_path / "HAM10000_metadata.csv").read_text().splitlines()
    quoted = ["\t".join(f'"{cell}"' for cell in line.split(",")) for line in lines[1:]]
    (tmp_path / "HAM10000_metadata.csv").unlink()
    (tmp_path / "HAM10000_metadata.tab").write_text("\n".join([lines[0].replace(",", "\t"), *quoted]))

    assert len(recognise(tmp_path).rows) == 49


def test_tables_of_pixels_are_not_read(tmp_path: Path) -> None:
    tabular.write_ham10000_kaggle(tmp_path)
    with (tmp_path / "hmnist_28_28_RGB.csv").open("ab") as file:
        file.write(b'"\xff')  # would be refused

    assert recognise(tmp_path).faults == []


def test_one_hot_classes_that_are_no_codes_keep_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [(0, "a", "1", "0", "0"), (1, "b", "0", "1", "0"), (2, "c", "False", "0.0", "True")]
    write_rows(tmp_path / "t.csv", ("", "image", "Wound", "other Skin", "NV"), rows)

    found = recognise(tmp_path)

    assert found.layout == "one-hot table"
    assert labels_of(found) == {"a": "Wound", "b": "other Skin", "c": "nv"}


def test_ak_is_called_akiec_and_that_is_said(tmp_path: Path) -> None:
    tabular.write_isic2019(tmp_path)

    found = recognise(tmp_path)

    assert found.notes == ["AK of ISIC_2019_Training_GroundTruth.csv is called akiec, as in HAM10000"]
    assert "ak" not in labels_of(found).values()
    assert sum(not row.group for row in found.rows) == 12  # every fifth of 56: an empty lesion id tells none


def test_images_of_no_class_are_left_out_with_their_count(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    columns = ("image", *tabular.ISIC2019_CODES, "score_weight", "validation_weight")
    rows = [("a", *"100000000", 1, 0), ("b", *"000000001", 1, 0), ("c", *"010000000", 0, 1)]
    write_rows(tmp_path / "ISIC_2019_Test_GroundTruth.csv", columns, rows)

    found = recognise(tmp_path)

    assert (found.layout, labels_of(found)) == ("isic 2019", {"a": "mel", "c": "nv"})
    assert (found.missing, found.unlabelled) == ([], [])
    assert found.notes[0].startswith("images that ISIC_2019_Test_GroundTruth.csv labels UNK")
    assert found.notes[0].endswith("are left out (1)")


def test_rows_without_a_single_one_are_a_fault_and_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{n}.jpg" for n in range(6)))
    rows = [(0, 1, 0), (1, 0, 1), (2, 1, 1), (3, 0, 0), (4, "", 1), (5, 1, 0)]
    write_rows(tmp_path / "t.csv", ("image", "MEL", "NV"), rows)

    found = recognise(tmp_path)

    assert sorted(labels_of(found)) == ["0", "1", "5"]
    assert found.unlabelled == []
    assert found.faults == [
        "Every row of t.csv must have a single 1 in its 2 classes, but 3 of 6 have none or several: lines 4, 5, 6. "
        "Correct or remove them."
    ]


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (("image", "MEL", "NV"), [("a", 0.7, 0.3), ("b", 0.2, 0.8)]),
        (("image", "hair", "ruler"), [("a", 1, 1), ("b", 0, 1)]),
        (("image", "age", "sex"), [("a", 50, "male"), ("b", 60, "female")]),
    ],
    ids=["predictions", "findings", "metadata"],
)
def test_tables_beside_the_labels_are_not_mistaken_for_them(
    tmp_path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]
) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_rows(tmp_path / "beside.csv", columns, rows)
    assert labelled_tables(list_folder(tmp_path), Columns()) is None
    write_rows(tmp_path / "labels.csv", ("image_id", "dx"), [("a", "nv"), ("b", "mel")])

    found = recognise(tmp_path)

    assert (labels_of(found), found.faults) == ({"a": "nv", "b": "mel"}, [])


def test_a_submission_beside_the_labels_is_not_mistaken_for_them(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    write_rows(tmp_path / "beside.csv", ("image_name", "target"), [("c", 0), ("d", 0)])
    with pytest.raises(InputError, match=r"of 2 in beside\.csv none is below"):
        labelled_tables(list_folder(tmp_path), Columns())
    write_rows(tmp_path / "labels.csv", ("image_id", "dx"), [("a", "nv"), ("b", "mel")])

    assert labels_of(recognise(tmp_path)) == {"a": "nv", "b": "mel"}


def test_one_hot_classes_that_say_nothing_are_none(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [("a", 1, 0, 0), ("b", 0, 1, 0), ("c", 0, 0, 1)]
    write_rows(tmp_path / "t.csv", ("image", "mel", "nv", "Unknown"), rows)

    found = recognise(tmp_path)

    assert labels_of(found) == {"a": "mel", "b": "nv"}
    assert found.notes == ["images that t.csv labels Unknown, which is none of its classes, are left out (1)"]


def test_isic_2020_wants_zero_or_one(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [("a", "IP_1", 0), ("b", "IP_1", "1.0"), ("c", "IP_2", "")]
    write_rows(tmp_path / "train.csv", ("image_name", "patient_id", "target"), rows)

    found = recognise(tmp_path)

    assert [(row.label, row.group) for row in found.rows] == [("benign", "IP_1"), ("malignant", "IP_1")]
    assert found.faults == [
        "Every row of train.csv must have 0 or 1 in `target`, but 1 of 3 have others: lines 4. Correct or remove them."
    ]


def test_the_archives_finest_level_that_is_mostly_filled_in_is_the_label(tmp_path: Path) -> None:
    photos = tabular.write_isic_archive(tmp_path)

    found = recognise(tmp_path)

    labels = {photo.image: photo.label for n, photo in enumerate(photos) if n % 10}
    assert (found.layout, labels_of(found), found.unlabelled, found.faults) == ("isic archive", labels, [], [])
    assert found.notes == [
        "the label is diagnosis_3 of metadata.csv, the finest diagnosis that at least 80% of the rows have (89%); "
        "another is taken with --label-column diagnosis_1",
        "5 of 44 rows of metadata.csv have no diagnosis_3 and are left out",
    ]


def test_another_level_of_the_archive_can_be_named(tmp_path: Path) -> None:
    photos = tabular.write_isic_archive(tmp_path)

    found = recognise(tmp_path, label="diagnosis_1")

    assert Counter(row.label for row in found.rows) == {"Benign": 22, "Malignant": 22}
    assert {row.group for row in found.rows} == {photo.lesion for photo in photos}


@pytest.mark.parametrize(
    ("diagnoses", "expected"), [(("nevus", "melanoma", "nevus"), "melanoma"), (("", "nevus", ""), "malignant")]
)
def test_older_exports_have_a_diagnosis_or_at_least_its_nature(
    tmp_path: Path, diagnoses: tuple[str, ...], expected: str
) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    natures = ("benign", "malignant", "benign")
    rows = [(name, *both) for name, *both in zip("abc", diagnoses, natures, strict=True)]
    write_rows(tmp_path / "metadata.csv", ("isic_id", "diagnosis", "benign_malignant"), rows)

    assert labels_of(recognise(tmp_path))["b"] == expected


def test_a_patient_is_the_group_of_all_photos_of_their_lesions(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{name}.jpg" for name in "abcde"))
    rows = [("a", "IP_1", "IL_1"), ("b", "", "IL_1"), ("c", "IP_1", ""), ("d", "", "IL_2"), ("e", "nan", "NA")]
    columns = ("isic_id", "patient_id", "lesion_id", "diagnosis_1")
    write_rows(tmp_path / "m.csv", columns, [(*row, ("Benign", "Malignant")[n % 2]) for n, row in enumerate(rows)])

    assert [row.group for row in recognise(tmp_path).rows] == ["IP_1", "IP_1", "IP_1", "IL_2", ""]


@pytest.mark.realdata
def test_ham10000_itself_is_recognised_in_a_moment(ham10000: Path) -> None:
    listing, times_s = list_folder(ham10000), []
    for _ in range(3):  # the quickest counts: others are at work on the machine
        start = time.process_time()
        found = labelled_tables(listing, Columns())
        times_s.append(time.process_time() - start)

    assert min(times_s) < 1  # 0.12 to 0.51 s
    assert found is not None
    assert (len(found.rows), len({row.group for row in found.rows})) == (10_015, 7_470)
    assert (found.missing, found.unlabelled, found.faults, found.notes) == ([], [], [], [])
