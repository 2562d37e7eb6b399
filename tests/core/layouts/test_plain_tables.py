"""Anybody's own table, its columns guessed or named; and any text in any table."""

import csv
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.dataspec import Columns
from core.errors import InputError
from core.layouts.contract import Recognised
from core.layouts.labelled_tables import labelled_tables
from core.listing import Listing, list_folder
from tests.fixtures import tabular
from tests.fixtures.images import write_image
from tests.fixtures.recognising import recognise
from tests.fixtures.tabular import write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images."""
    for seed, name in enumerate("abc"):
        write_image(tmp_path / "in" / f"{name}.jpg", seed)
    return tmp_path


def said(found: Recognised) -> list[tuple[str, str, str, str]]:
    return [(Path(row.path).stem, row.label, row.group, row.split) for row in found.rows]


@pytest.mark.parametrize("label", ["label", "Class", "DIAGNOSIS", "dx", "target", "category", "y", "diagnostic"])
@pytest.mark.parametrize("image", ["path", "Filename", "image", "img_id", "id"])
def test_the_usual_names_of_columns_are_guessed(folder: Path, image: str, label: str) -> None:
    write_rows(folder / "t.csv", ("age", label, image), [(50, "x", "a"), (60, "y", "b.jpg"), (70, "x", "in/c.jpg")])

    found = recognise(folder)

    assert (found.layout, found.reason) == ("plain table", f"t.csv has the columns {image}, {label}")
    assert said(found) == [("a", "x", "", ""), ("b", "y", "", ""), ("c", "x", "", "")]


@pytest.mark.parametrize("group", ["lesion_id", "Lesion", "patient_id", "patient", "group", "subject", "case"])
def test_the_usual_names_of_groups_are_guessed(folder: Path, group: str) -> None:
    write_rows(folder / "t.csv", ("image", "label", group), [("a", "x", "G1"), ("b", "y", ""), ("c", "x", "unknown")])

    assert [row[2] for row in said(recognise(folder))] == ["G1", "", ""]


def test_of_several_columns_that_with_the_most_images_is_taken(folder: Path) -> None:
    rows = [(1, "X", "a", "x"), (2, "Y", "b", "y"), (3, "a", "c", "x")]
    write_rows(folder / "t.csv", ("id", "file", "image_name", "label"), rows)

    assert [row[0] for row in said(recognise(folder))] == ["a", "b", "c"]


def test_a_table_of_images_that_are_not_there_is_refused(folder: Path) -> None:
    write_rows(folder / "t.csv", ("image", "label"), [("x", "x"), ("y", "y")])

    with pytest.raises(
        InputError, match=r"must hold the images that its tables name, but of 2 in t\.csv none is below"
    ):
        labelled_tables(list_folder(folder), Columns())


def test_of_two_tables_that_of_other_images_is_not_passed_over(folder: Path) -> None:
    write_rows(folder / "s.csv", ("image", "label"), [("x", "x"), ("y", "y")])
    write_rows(folder / "t.csv", ("image", "label"), [("a", "x"), ("b", "y")])

    found = recognise(folder)

    assert (len(found.rows), found.missing) == (2, ["x", "y"])


def test_numbers_of_classes_are_no_images(folder: Path) -> None:
    write_rows(folder / "classes.csv", ("id", "label"), [(0, "x"), (1, "y")])

    assert labelled_tables(list_folder(folder), Columns()) is None


@pytest.mark.parametrize("header", ["image,label,Label", "image,image,label", "image,label,lesion,lesion"])
def test_a_column_that_is_used_and_stands_twice_is_a_fault(folder: Path, header: str) -> None:
    width = header.count(",") - 1
    (folder / "t.csv").write_text("\n".join([header, "a" + ",x" * width + ",y", "b" + ",y" * width + ",x"]))

    found = recognise(folder)

    assert found.rows == []
    assert "Every column of t.csv that is used must stand there once, but " in found.faults[0]
    assert found.faults[0].endswith(" stands there 2 times. Remove or rename all but one.")


def test_a_column_that_is_not_used_may_stand_twice(folder: Path) -> None:
    write_rows(folder / "t.csv", ("image", "label", "age", "age"), [("a", "x", 1, 2), ("b", "y", 1, 2)])

    assert len(recognise(folder).rows) == 2


def test_a_column_of_splits_gives_official_parts(folder: Path) -> None:
    rows = [("a", "x", "Training"), ("b", "y", "valid"), ("c", "x", "test")]
    write_rows(folder / "t.csv", ("image", "label", "Split"), rows)

    assert [row[3] for row in said(recognise(folder))] == ["train", "val", "test"]


def test_a_split_that_is_none_is_a_fault(folder: Path) -> None:
    rows = [("a", "x", "train"), ("b", "y", "holdout"), ("c", "x", "test")]
    write_rows(folder / "t.csv", ("image", "label", "split"), rows)

    found = recognise(folder)

    assert [row[3] for row in said(found)] == ["train", "test"]
    assert found.faults == [
        "Every row of t.csv must have train, val or test in `split`, but 1 of 3 have others (holdout): lines 3. "
        "Correct or remove them."
    ]


def test_splits_of_other_words_only_are_passed_over(folder: Path) -> None:
    write_rows(folder / "t.csv", ("image", "label", "split"), [("a", "x", "0"), ("b", "y", "1"), ("c", "x", "")])

    found = recognise(folder)

    assert [row[3] for row in said(found)] == ["", "", ""]
    assert found.notes == ["the column split of t.csv names no train, val or test and is passed over (0, 1)"]


def test_a_known_format_comes_before_a_guess(folder: Path) -> None:
    write_rows(folder / "guess.csv", ("image", "label"), [("a", "1"), ("b", "2"), ("c", "1")])
    write_rows(folder / "known.csv", ("image_id", "dx"), [("a", "nv"), ("b", "mel"), ("c", "nv")])

    assert [row[1] for row in said(recognise(folder))] == ["nv", "mel", "nv"]


def test_columns_that_the_user_names_come_before_all_formats(folder: Path) -> None:
    rows = [("a", "nv", "L1", "male", "P1"), ("b", "mel", "L2", "female", "P1"), ("c", "nv", "L3", "male", "")]
    write_rows(folder / "known.csv", ("image_id", "dx", "lesion_id", "Sex", "who"), rows)

    found = recognise(folder, label="sex", group="WHO")

    assert (found.layout, found.reason) == ("plain table", "known.csv has the columns image_id, Sex, who")
    assert said(found) == [("a", "male", "P1", ""), ("b", "female", "P1", ""), ("c", "male", "", "")]


def test_a_column_of_groups_may_be_the_label(folder: Path) -> None:
    rows = [("a", "case", "train"), ("b", "control", "test"), ("c", "case", "")]
    write_rows(folder / "t.csv", ("image", "group", "split"), rows)

    assert [row[1:] for row in said(recognise(folder, label="group"))] == [
        ("case", "", "train"),
        ("control", "", "test"),
        ("case", "", ""),
    ]
    assert {row[1] for row in said(recognise(folder, label="split"))} == {"train", "test"}


def test_named_images_that_are_not_there_are_missing(folder: Path) -> None:
    write_rows(folder / "t.csv", ("derm", "kind"), [("NEL/1.jpg", "x"), ("NEL/2.jpg", "y")])

    found = recognise(folder, image="derm", label="kind")

    assert (found.rows, found.missing) == ([], ["NEL/1.jpg", "NEL/2.jpg"])
    assert found.unlabelled == ["in/a.jpg", "in/b.jpg", "in/c.jpg"]


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (
            {"label": "kind"},
            r"`--label-column` must be a column of a table below .*, but got --label-column kind, "
            r"and t\.csv has image, what\. Name one of those columns",
        ),
        ({"image": "image"}, r"`--label-column` must be given where it cannot be guessed.*Add --label-column\."),
        ({"label": "image"}, r"`--image-column` must be given .* Add --image-column\."),
        ({"group": "what"}, r"`--label-column` must be given .*t\.csv has image, what\. Add --label-column\."),
    ],
)
def test_named_columns_that_do_not_do_are_refused_with_those_there_are(
    folder: Path, columns: dict[str, str], match: str
) -> None:
    write_rows(folder / "t.csv", ("image", "what"), [("a", "x"), ("b", "y")])

    with pytest.raises(InputError, match=match):
        labelled_tables(list_folder(folder), Columns(**columns))


def test_named_columns_without_a_table_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"but got --image-column f and --label-column l, and there is no table"):
        labelled_tables(list_folder(folder), Columns(image="f", label="l"))


def test_one_bad_row_of_a_hundred_thousand_is_named_within_seconds(tmp_path: Path) -> None:
    rows = [(f"ISIC_{n:07}", ("nv", "mel")[n % 2], f"HAM_{n // 2}") for n in range(100_000)]
    rows[77_776] = ("", "nv", "HAM_9")
    write_rows(tmp_path / "t.csv", ("image_id", "dx", "lesion_id"), rows)
    images = tuple(f"in/{row[0]}.jpg" for row in rows if row[0])
    start = time.process_time()

    found = labelled_tables(Listing(tmp_path, images, ("t.csv",)), Columns())

    assert time.process_time() - start < 15  # 1.2 to 1.9 s alone, 4.5 s in a crowd; quadratic, minutes
    assert found is not None
    assert (len(found.rows), found.unlabelled) == (99_999, [])
    assert found.faults == [
        "Every row of t.csv must have `image_id`, but 1 of 100,000 have none: lines 77778. Correct or remove them."
    ]


HEADERS = (
    tabular.HAM10000_COLUMNS,
    ("image", *tabular.ISIC2019_CODES, "score_weight"),
    ("image_name", "patient_id", "target"),
    ("isic_id", "diagnosis_1", "diagnosis_2", "lesion_id"),
    ("path", "label", "split", "patient"),
    ("image", "lesion_id"),
)
CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "1.0", "a", "b", "in/a.jpg", "../a", "train", "test", "nan", "L1"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
TABLES = st.sampled_from(HEADERS).flatmap(
    lambda header: st.tuples(st.just(header), st.lists(st.lists(CELLS, max_size=len(header) + 1), max_size=8))
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables=st.lists(TABLES, min_size=1, max_size=3), columns=st.builds(Columns, label=st.sampled_from(["", "label"]))
)
def test_whatever_stands_in_tables_only_listed_images_become_rows(
    folder: Path, tables: list[tuple[tuple[str, ...], list[list[str]]]], columns: Columns
) -> None:
    names = [f"{part}{n}.csv" for n, part in zip(range(len(tables)), ("train", "test", "t"), strict=False)]
    for name, (header, rows) in zip(names, tables, strict=True):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    listing = Listing(folder, ("in/a.jpg", "in/b.jpg", "in/c.jpg"), tuple(names))
    try:
        found = labelled_tables(listing, columns)
    except InputError:
        return
    if found is None:
        return
    paths = [row.path for row in found.rows]
    assert len(set(paths)) == len(paths)
    assert set(paths) | set(found.unlabelled) <= set(listing.images)
    assert not set(paths) & set(found.unlabelled)
    assert all(row.label and row.split in ("", "train", "val", "test") for row in found.rows)
    assert all("\n" not in sentence for sentence in (*found.faults, *found.notes))


def test_a_word_that_means_nothing_known_is_told_and_is_a_class_once_the_column_is_named(folder: Path) -> None:
    write_rows(folder / "t.csv", ("image", "label"), [("a", "none"), ("b", "mild"), ("c", "severe")])

    guessed = recognise(folder)
    named = recognise(folder, label="label")

    assert [row[1] for row in said(guessed)] == ["mild", "severe"]
    assert guessed.notes == [
        "rows of t.csv that say none in label are left out, as if nothing were known (1); with --label-column label "
        "that is a class"
    ]
    assert ([row[1] for row in said(named)], named.notes) == (["none", "mild", "severe"], [])


def test_columns_of_findings_beside_a_column_of_classes_are_no_classes(folder: Path) -> None:
    write_rows(folder / "t.csv", ("image", "sex", "smoker", "target"), [("a", 0, 1, 0), ("b", 0, 0, 1), ("c", 0, 1, 0)])

    found = recognise(folder)

    assert (found.layout, [row[1] for row in said(found)]) == ("plain table", ["0", "1", "0"])


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1,0", "0,0"), ("TRUE", "FALSE")])
def test_one_hot_tables_may_name_files_and_write_numbers_as_people_do(folder: Path, one: str, zero: str) -> None:
    rows = [("a.jpg", one, zero), ("b.jpg", zero, one), ("c.jpg", one, zero)]
    with (folder / "_classes.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("filename", "wart", "mole"), *rows])

    found = recognise(folder)

    assert (found.layout, [row[1] for row in said(found)]) == ("one-hot table", ["wart", "mole", "wart"])
