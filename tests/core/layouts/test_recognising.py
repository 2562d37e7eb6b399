"""Which layout a folder is of where it could be of several."""

from collections import Counter
from pathlib import Path

import pytest

from core import listing
from core.datasets import load_manifest
from core.dataspec import Columns
from core.errors import InputError
from core.layouts import recognise
from core.listing import list_folder
from core.tables import Table
from tests.fixtures.folders import write_class_folders_with_groups
from tests.fixtures.images import write_image
from tests.fixtures.tabular import write_rows


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ten images in each of two class folders."""
    for n in range(20):
        write_image(tmp_path / ("mel", "nv")[n % 2] / f"{n}.jpg", n)
    return tmp_path


def write_notes(folder: Path, count: int) -> None:
    rows = [(f"{n}.jpg", ("a", "b")[n // 2 % 2]) for n in range(count)]
    write_rows(folder / "notes.csv", ("image", "class"), rows)


def test_a_table_of_images_that_are_not_there_is_never_passed_over_for_the_folders(folders: Path) -> None:
    rows = [(f"elsewhere/scan{n}.jpg", "ab"[n % 2]) for n in range(20)]
    write_rows(folders / "t.csv", ("image", "label"), rows)

    with pytest.raises(
        InputError, match=r"of 20 in t\.csv none is below .*: elsewhere/scan0\.jpg.*take the table away"
    ):
        recognise(list_folder(folders), Columns())


def test_a_table_that_labels_far_less_than_the_folders_is_refused(folders: Path) -> None:
    write_notes(folders, 12)

    with pytest.raises(InputError, match=r"notes\.csv has .* tells 12 images, and the folders mel, nv hold 20\. Name"):
        recognise(list_folder(folders), Columns())


def test_the_ways_out_of_it_are_ways_out(folders: Path) -> None:
    write_notes(folders, 12)

    assert len(recognise(list_folder(folders), Columns(label="class")).rows) == 12
    assert load_manifest(folders / "notes.csv").classes == ("a", "b")
    (folders / "notes.csv").unlink()
    assert load_manifest(folders).classes == ("mel", "nv")


def test_a_table_that_labels_most_images_holds(folders: Path) -> None:
    write_notes(folders, 14)

    assert len(recognise(list_folder(folders), Columns()).rows) == 14


def test_numbers_of_classes_beside_class_folders_do_no_harm(folders: Path) -> None:
    write_rows(folders / "classes.csv", ("id", "label"), [(90, "mel"), (91, "nv")])

    assert recognise(list_folder(folders), Columns()).layout == "class folders"


def test_every_table_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders_with_groups(tmp_path)
    write_rows(tmp_path / "ages.csv", ("image", "age"), [("0", 50)])
    opened: Counter[str] = Counter()
    original = listing.open_table

    def counting(path: Path) -> Table | None:
        opened[path.name] += 1
        return original(path)

    monkeypatch.setattr(listing, "open_table", counting)

    assert recognise(list_folder(tmp_path), Columns()).layout == "class folders"
    assert opened == {"ages.csv": 1, "groups.csv": 1}
