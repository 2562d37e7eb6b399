import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import load_manifest
from core.errors import InputError
from core.layouts import walk_files

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((32, 24), Image.Resampling.BICUBIC).save(path)


def write_table(path: Path, lines: Iterable[tuple[str, str, str]], *, encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((*line, "histo", "50.0", "male", "back") for line in lines)


LINES = [(f"HAM_{n // 2}", f"ISIC_{n:02}", ("nv", "mel")[n // 2 % 2]) for n in range(16)]


@pytest.fixture
def ham(tmp_path: Path) -> Path:
    """Sixteen images of eight lesions in HAM10000's layout."""
    for n in range(16):
        write_image(tmp_path / f"HAM10000_images_part_{n % 2 + 1}" / f"ISIC_{n:02}.jpg", n)
    write_table(tmp_path / "HAM10000_metadata.csv", LINES)
    return tmp_path


def test_ham10000_is_read_by_path_label_and_lesion(ham: Path) -> None:
    manifest = load_manifest(ham)

    assert manifest.layout == "ham10000"
    assert manifest.classes == ("mel", "nv")
    assert manifest.paths[:2] == ("HAM10000_images_part_1/ISIC_00.jpg", "HAM10000_images_part_1/ISIC_02.jpg")
    assert list(manifest.paths) == sorted(manifest.paths)
    by_id = {Path(path).stem: row for row, path in enumerate(manifest.paths)}
    for lesion, image, label in LINES:
        assert manifest.groups[by_id[image]] == lesion
        assert manifest.classes[manifest.labels[by_id[image]]] == label
    assert manifest.labels.dtype == np.int64
    assert (manifest.grouped, manifest.demo) == (True, False)
    assert all(manifest.file(row).is_file() for row in range(16))


def lower_case(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.lower())


def merged(folder: Path) -> None:
    for path in list(folder.glob("*/*.jpg")):
        path.rename(folder / path.name)


def nested(folder: Path) -> None:
    (folder / "all").mkdir()
    for number in (1, 2):
        (folder / f"HAM10000_images_part_{number}").rename(folder / "all" / f"part {number}")


def no_suffix(folder: Path) -> None:
    (folder / "HAM10000_metadata.csv").rename(folder / "HAM10000_metadata")


def other_name(folder: Path) -> None:
    (folder / "HAM10000_metadata.csv").rename(folder / "labels.csv")


def byte_order_mark(folder: Path) -> None:
    write_table(folder / "HAM10000_metadata.csv", LINES, encoding="utf-8-sig")


def each_image_twice(folder: Path) -> None:
    for path in list(folder.glob("*/*.jpg")):
        copy = folder / path.parent.name.lower() / path.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    "change", [lower_case, merged, nested, no_suffix, other_name, byte_order_mark, each_image_twice]
)
def test_ham10000_is_recognised_by_its_columns_wherever_the_images_lie(
    ham: Path, change: Callable[[Path], None]
) -> None:
    before = load_manifest(ham).fingerprint
    change(ham)

    after = load_manifest(ham)

    assert (after.layout, len(after), after.fingerprint) == ("ham10000", 16, before)


def test_the_demo_marker_marks_the_manifest(ham: Path) -> None:
    (ham / "demo.json").write_text("{}")

    assert load_manifest(ham).demo


def test_an_empty_lesion_id_is_a_group_of_its_own(ham: Path) -> None:
    write_table(
        ham / "HAM10000_metadata.csv", [("" if n < 4 else lesion, *rest) for n, (lesion, *rest) in enumerate(LINES)]
    )

    manifest = load_manifest(ham)

    assert len(set(manifest.groups)) == 4 + 6
    assert manifest.grouped


def test_images_without_a_row_are_left_out_with_their_count(ham: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_table(ham / "HAM10000_metadata.csv", LINES[:-3])

    assert len(load_manifest(ham)) == 13
    assert "3 images have no row in HAM10000_metadata.csv" in caplog.text


def test_class_folders_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(6):
        write_image(tmp_path / ("naevus", "basal cell carcinoma")[n % 2] / f"{n // 2}.{('jpg', 'PNG')[n % 2]}", n)
    (tmp_path / ".hidden").mkdir()
    write_image(tmp_path / ".hidden" / "0.jpg", 0)

    manifest = load_manifest(tmp_path)

    assert (manifest.layout, manifest.grouped) == ("class folders", False)
    assert manifest.classes == ("basal cell carcinoma", "naevus")
    assert manifest.class_counts.tolist() == [3, 3]
    assert len(set(manifest.groups)) == 6
    assert "names no lesions" in caplog.text


def test_a_link_to_a_parent_folder_ends(ham: Path) -> None:
    (ham / "HAM10000_images_part_1" / "up").symlink_to(ham, target_is_directory=True)

    assert len(load_manifest(ham)) == 16


def test_linked_folders_are_walked_and_what_is_hidden_is_not(tmp_path: Path) -> None:
    for file in ("in/a.jpg", "in/._a.jpg", "in/.hidden/b.jpg", "in/__MACOSX/c.jpg", "out/d.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out", target_is_directory=True)

    assert sorted(walk_files(tmp_path / "in")) == ["a.jpg", "linked/d.jpg"]


def refused(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_manifest(folder)


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"`--data` must be a folder, but at .*nowhere there is nothing")


def test_a_file_instead_of_a_folder_is_refused(ham: Path) -> None:
    refused(ham / "HAM10000_metadata.csv", r"there is a file\. Give the folder")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"must be a folder with images \(\.bmp, .*has none")


def test_a_table_without_the_columns_is_refused_with_those_it_has(ham: Path) -> None:
    (ham / "HAM10000_metadata.csv").write_text("image,kind\nISIC_00,nv\n")

    refused(ham, r"lesion_id, image_id, dx, .*is neither \(HAM10000_metadata\.csv has image, kind\)\. Sort")


def test_folders_for_splits_are_refused(tmp_path: Path) -> None:
    for n in range(4):
        write_image(tmp_path / ("Train", "Test")[n % 2] / ("a", "b")[n // 2] / "0.jpg", n)

    refused(tmp_path, r"has folders for splits: Test, Train\. Give one of them")
    assert load_manifest(tmp_path / "Train").classes == ("a", "b")


def test_rows_without_an_image_are_refused_with_their_count(ham: Path) -> None:
    for n in range(14):
        next(ham.glob(f"*/ISIC_{n:02}.jpg")).unlink()

    refused(ham, r"14 of 16 have none: ISIC_00, .*ISIC_11 and 2 more\. Add the images")


def test_ids_cannot_leave_the_folder(ham: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    write_image(outside, 0)
    write_table(ham / "HAM10000_metadata.csv", [*LINES, ("HAM_9", str(outside.with_suffix("")), "nv")])

    refused(ham, r"1 of 17 have none: /.*secret")


def test_one_id_of_two_different_files_is_refused(ham: Path) -> None:
    path = next(ham.glob("*/ISIC_03.jpg"))
    path.with_suffix(".png").write_bytes(path.read_bytes() + b"more")

    refused(ham, r"1 have different files .*: ISIC_03")


def test_duplicate_ids_are_refused(ham: Path) -> None:
    write_table(ham / "HAM10000_metadata.csv", [*LINES, LINES[3], LINES[5]])

    refused(ham, r"2 are there more often: ISIC_03, ISIC_05")


@pytest.mark.parametrize(("column", "line"), [("image_id", ("HAM_0", "", "nv")), ("dx", ("HAM_0", "ISIC_00", " "))])
def test_empty_values_are_refused_with_their_rows(ham: Path, column: str, line: tuple[str, str, str]) -> None:
    write_table(ham / "HAM10000_metadata.csv", [line, *LINES[1:]])

    refused(ham, rf"must have `{column}`, but 1 of 16 have none: rows 2\.")


def test_ragged_rows_are_refused(ham: Path) -> None:
    with (ham / "HAM10000_metadata.csv").open("a") as file:
        file.write("HAM_9,ISIC_77\n")

    refused(ham, r"must have 7 values, but 1 of 17 have others: rows 18")


def test_bytes_that_are_not_utf8_are_refused(ham: Path) -> None:
    with (ham / "HAM10000_metadata.csv").open("ab") as file:
        file.write(b"HAM_9,ISIC_77,n\xe4vus,,,,\n")

    refused(ham, r"must be CSV in UTF-8")


def test_a_header_alone_is_refused(ham: Path) -> None:
    write_table(ham / "HAM10000_metadata.csv", [])

    refused(ham, r"has a header only")


def test_two_tables_of_labels_are_refused(ham: Path) -> None:
    write_table(ham / "more.csv", LINES)

    refused(ham, r"must have one table of labels, .* HAM10000_metadata\.csv, more\.csv")


def test_one_class_only_is_refused(ham: Path) -> None:
    write_table(ham / "HAM10000_metadata.csv", [(lesion, image, "nv") for lesion, image, _ in LINES])

    refused(ham, r"2 classes or more, but all in .* are nv")


def test_all_unreadable_images_are_named_at_once(ham: Path) -> None:
    files = sorted(ham.glob("*/*.jpg"))
    for path in files[:13]:
        path.write_bytes(path.read_bytes()[:400])
    files[13].write_bytes(b"")

    refused(ham, r"14 of 16 cannot be read: HAM10000_images_part_1/ISIC_00\.jpg \(truncated\), .* and 2 more\.")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "core.datasets", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_table_of_classes_and_parts(ham: Path) -> None:
    done = command(str(ham), "--seed", "3")

    assert done.returncode == 0, done.stderr
    assert "layout       ham10000" in done.stdout
    assert "lesions      8" in done.stdout
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[-3:]}
    assert set(rows) == {"mel", "nv", "all"}
    assert rows["mel"][1:3] == ["8", "4"]


def test_the_command_refuses_in_one_sentence(ham: Path) -> None:
    path = next(ham.glob("*/ISIC_03.jpg"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    done = command(str(ham))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "ISIC_03.jpg (truncated)" in done.stderr


@pytest.mark.realdata
def test_ham10000_itself(ham10000: Path) -> None:
    manifest = load_manifest(ham10000)

    assert dict(zip(manifest.classes, manifest.class_counts.tolist(), strict=True)) == {
        "akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142,
    }  # fmt: skip
    assert len(set(manifest.groups)) == 7470


def test_names_that_are_not_utf8_are_refused_with_their_escapes(tmp_path: Path) -> None:
    (tmp_path / "nv").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "nv" / "a.jpg")
    os.rename(tmp_path / "nv" / "a.jpg", os.fsencode(tmp_path / "nv") + b"/M\xfcller.jpg")
    with pytest.raises(InputError, match=r"must be UTF-8.*1 are not: nv/M\\xfcller\.jpg"):
        load_manifest(tmp_path)
