import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.files import read_csv
from core.layouts.cleaned import CleanedRow, check_target, is_cleaned, read_cleaned, write_cleaned
from core.layouts.contract import Row
from core.tables import open_table

HEADER = "image,label,group,split,sha256"


def row(file: Path, label: str = "nv", group: str = "", split: str = "", sha256: str = "ab") -> CleanedRow:
    return CleanedRow(file=file, label=label, group=group, split=split, sha256=sha256)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def write_lines(folder: Path, *lines: str) -> Path:
    file = folder / "cleaned.csv"
    file.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return file


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "0.jpg", tmp_path / "1.jpg"
    touch(first, second)

    write_cleaned(tmp_path / "cleaned.csv", [row(first, "mel", "HAM_7", "test", "12"), row(second)])
    found, sha256 = read_cleaned(tmp_path / "cleaned.csv")

    assert found.rows == [Row("a/0.jpg", "mel", "HAM_7", "test"), Row("1.jpg", "nv")]
    assert sha256 == {"a/0.jpg": "12", "1.jpg": "ab"}
    assert (found.layout, found.reason) == (
        "cleaned manifest",
        "cleaned.csv has the columns image, label, group, split, sha256",
    )
    assert found.faults == found.missing == found.unlabelled == found.notes == []


def test_the_columns_are_exactly_these(tmp_path: Path) -> None:
    touch(tmp_path / "0.jpg")

    write_cleaned(tmp_path / "cleaned.csv", [row(tmp_path / "0.jpg")])

    assert (tmp_path / "cleaned.csv").read_text(encoding="utf-8") == f"{HEADER}\n0.jpg,nv,,,ab\n"


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(str.strip)
_FOLDER = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)


@given(label=_TEXT.filter(bool), group=_TEXT, split=st.sampled_from(["", "train", "val", "test"]), folder=_FOLDER)
def test_writing_then_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, label: str, group: str, split: str, folder: str
) -> None:
    root = tmp_path_factory.mktemp("cleaned")
    written = row(root / folder / " 0.jpg", label, group, split)
    if folder in (".", "..") or len(os.fsencode(folder)) > 255:
        return
    touch(written.file)

    write_cleaned(root / "cleaned.csv", [written])
    found, sha256 = read_cleaned(root / "cleaned.csv")

    assert found.rows == [Row(f"{folder}/ 0.jpg", label, group, split)]
    assert list(sha256) == [f"{folder}/ 0.jpg"]


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", '=HYPERLINK("http://x","y")'])
def test_what_a_spreadsheet_takes_for_a_formula_is_written_as_it_is(tmp_path: Path, value: str) -> None:
    touch(tmp_path / f"{value.replace('/', '')}.jpg")

    write_cleaned(tmp_path / "c.csv", [row(tmp_path / f"{value.replace('/', '')}.jpg", label=value)])

    assert read_csv(tmp_path / "c.csv")[0]["label"] == value
    assert read_cleaned(tmp_path / "c.csv")[0].rows[0].label == value


def test_a_manifest_may_lie_above_the_images_and_move_with_them(tmp_path: Path) -> None:
    touch(tmp_path / "old" / "set" / "a" / "0.jpg")
    write_cleaned(tmp_path / "old" / "c.csv", [row(tmp_path / "old" / "set" / "a" / "0.jpg")])

    (tmp_path / "old").rename(tmp_path / "new")

    assert [row.path for row in read_cleaned(tmp_path / "new" / "c.csv")[0].rows] == ["set/a/0.jpg"]


def test_images_outside_its_folder_are_refused_with_the_folder_that_would_do(tmp_path: Path) -> None:
    images = [tmp_path / "x" / "a" / "0.jpg", tmp_path / "x" / "b" / "0.jpg", tmp_path / "x" / "out" / "1.jpg"]
    touch(*images)
    target = tmp_path / "x" / "out" / "c.csv"

    with pytest.raises(
        InputError, match=r"must lie below the folder of the CSV, but 2 of 3 .*0\.jpg\. Give --fix .*x/c"
    ):
        write_cleaned(target, [row(image) for image in images])
    assert not target.exists()


def test_a_folder_whose_name_starts_alike_is_another(tmp_path: Path) -> None:
    touch(tmp_path / "set2" / "0.jpg", tmp_path / "set" / "1.jpg")

    with pytest.raises(InputError, match=r"1 of 1 do not lie below .*set:"):
        write_cleaned(tmp_path / "set" / "c.csv", [row(tmp_path / "set2" / "0.jpg")])


def test_a_relative_target_lies_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "0.jpg")
    monkeypatch.chdir(tmp_path)

    write_cleaned(Path("c.csv"), [row(tmp_path / "0.jpg")])

    assert read_cleaned(Path("c.csv"))[0].rows == [Row("0.jpg", "nv")]


def test_an_older_manifest_is_written_over(tmp_path: Path) -> None:
    touch(tmp_path / "0.jpg")
    for label in ("nv", "mel"):
        write_cleaned(tmp_path / "c.csv", [row(tmp_path / "0.jpg", label)])

    assert read_cleaned(tmp_path / "c.csv")[0].rows == [Row("0.jpg", "mel")]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("c.txt", None, r"must be a file named \.csv, but got .*c\.txt\. Give one such as c\.csv"),
        ("metadata.csv", "image_id,dx\nx,nv\n", r"must be a new file or a manifest that it wrote before"),
        ("empty.csv", "", r"must be a new file or a manifest"),
        ("nowhere/c.csv", None, r"must lie in a folder that is there, but .*nowhere is none"),
    ],
)
def test_a_target_that_must_not_be_written_is_refused(
    tmp_path: Path, name: str, content: str | None, match: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    touch(tmp_path / "0.jpg")

    with pytest.raises(InputError, match=match):
        check_target(tmp_path / name)
    with pytest.raises(InputError, match=match):
        write_cleaned(tmp_path / name, [row(tmp_path / "0.jpg")])
    assert content is None or (tmp_path / name).read_text() == content


def test_a_folder_as_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").mkdir()

    with pytest.raises(InputError, match=r"but .* is something else"):
        check_target(tmp_path / "c.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(InputError, match="must lie in a folder that can be written to"):
        check_target(tmp_path / "c.csv")


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must name an image, but none is left"):
        write_cleaned(tmp_path / "c.csv", [])


@pytest.mark.parametrize(
    ("header", "expected"),
    [(HEADER, True), (f"\ufeff{HEADER}", True), (HEADER.replace(",", ";"), True), (f"{HEADER},more", False)],
)
def test_a_manifest_is_told_by_its_columns(tmp_path: Path, header: str, expected: bool) -> None:
    (tmp_path / "c.csv").write_text(f"{header}\n", encoding="utf-8")

    table = open_table(tmp_path / "c.csv")

    assert table is not None
    assert is_cleaned(table) == expected


def test_another_table_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image_id,dx\nx,nv\n")

    with pytest.raises(InputError, match=r"must have the columns image, label, .*has image_id, dx\. Write it again"):
        read_cleaned(tmp_path / "c.csv")


@pytest.mark.parametrize("path", ["/etc/passwd", "../0.jpg", "a/../../0.jpg", "a/..", "//x/y.jpg"])
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    touch(tmp_path / "0.jpg", tmp_path / "in" / "1.jpg")

    with pytest.raises(InputError, match=r"relative to its folder and lie below it, but 1 of 2 do not: "):
        read_cleaned(write_lines(tmp_path / "in", "1.jpg,nv,,,", f"{path},nv,,,"))


def test_absent_images_are_missing(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "0.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    names = ["a/1.jpg", "b/0.jpg", "folder.jpg", "circle.jpg", "a/0.jpg/x.jpg", f"{'x' * 300}/0.jpg", "."]

    found, _ = read_cleaned(write_lines(tmp_path, *(f"{name},nv,,," for name in ["a/0.jpg", *names])))

    assert [row.path for row in found.rows] == ["a/0.jpg"]
    assert found.missing == names


def test_linked_images_are_there(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "0.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jpg").symlink_to(tmp_path / "elsewhere" / "0.jpg")

    found, _ = read_cleaned(write_lines(tmp_path / "in", "0.jpg,nv,,,"))

    assert [row.path for row in found.rows] == ["0.jpg"]


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["0.jpg,,,,"], r"Every row of cleaned.csv must have a label, but 1 of 2 do not: line 3. Correct them"),
        (["0.jpg,nv,,dev,"], r"must have a split of train, val, test or nothing, but 1 of 2 do not: line 3."),
        (["0.jpg,nv,,Train,"], r"must have a split of train, val, test or nothing, but 1 of 2 do not: line 3."),
        (["0.jpg,nv,,,", "./0.jpg,mel,,,"], r"must name an image of its own, but 2 of 3 do not: line 3, line 4."),
        ([",nv,,,"], r"must name an image, but 1 of 2 do not: line 3."),
        (["0.jpg,nv"], r"Every row of cleaned.csv must have 5 values, but 1 of 2 have others: lines 3. Mend them."),
    ],
)
def test_broken_rows_are_faults_and_left_out(tmp_path: Path, lines: list[str], fault: str) -> None:
    touch(tmp_path / "0.jpg", tmp_path / "1.jpg")

    found, _ = read_cleaned(write_lines(tmp_path, "1.jpg,nv,,,", *lines))

    assert [row.path for row in found.rows] == ["1.jpg"]
    assert len(found.faults) == 1
    assert fault in found.faults[0]


def test_ten_thousand_rows_are_read_within_seconds(tmp_path: Path) -> None:
    names = [f"{n % 7}/{n}.jpg" for n in range(10_000)]
    for name in names:
        touch(tmp_path / name)
    file = write_lines(tmp_path, *(f"{name},nv,lesion_{name},,{'ab' * 32}" for name in names))

    start = time.process_time()
    found, sha256 = read_cleaned(file)

    assert time.process_time() - start < 5, "0.3 s alone; comparing each row with all others would take minutes"
    assert len(found.rows) == len(sha256) == 10_000


@given(st.binary(max_size=200))
def test_any_bytes_below_the_header_raise_nothing_but_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "c.csv"
    file.write_bytes(HEADER.encode() + b"\n" + content)

    try:
        found, _ = read_cleaned(file)
    except InputError:
        return
    assert found.rows == []
