import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import load_manifest
from core.dataspec import DataSpec
from core.demo import write_demo
from core.errors import InputError
from core.listing import walk_files
from tests.fixtures.arrays import write_dermamnist
from tests.fixtures.folders import write_class_folders_with_groups
from tests.fixtures.images import write_image

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


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
    assert "3 images below" in caplog.text
    assert "have no label and are left out" in caplog.text


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


def test_a_table_that_is_given_itself_is_read_or_refused_whatever_lies_beside_it(tmp_path: Path) -> None:
    write_class_folders_with_groups(tmp_path)
    (tmp_path / "ab.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"is neither \(ab.csv has a, b\)"):
        load_manifest(DataSpec(places=(tmp_path / "ab.csv",)))
    (groups,) = [file for file in tmp_path.glob("*.csv") if file.name != "ab.csv"]
    manifest = load_manifest(DataSpec(places=(groups,)))  # a table of groups means the folders beside it
    assert len(set(manifest.groups)) < len(manifest.groups)


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"`--data` must be a folder, but at .*nowhere there is nothing")


def test_a_file_of_another_kind_is_refused(ham: Path) -> None:
    refused(next(ham.glob("*/*.jpg")), r"a folder, a CSV or an npz file, but .*\.jpg is none of them\. Unpack")


def test_a_table_may_be_given_itself(ham: Path) -> None:
    (ham / "more.csv").write_text("image_id,dx,lesion_id\n")

    assert load_manifest(ham / "HAM10000_metadata.csv").fingerprint
    assert len(load_manifest(ham / "HAM10000_metadata.csv")) == 16


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"must be a folder with images \(\.bmp, .*has none")


def test_a_table_without_labels_is_refused_with_the_columns_it_has(ham: Path) -> None:
    (ham / "HAM10000_metadata.csv").write_text("image,colour\nISIC_00,red\n")

    refused(ham, r"is neither \(HAM10000_metadata\.csv has image, colour\)\. Name the table's columns with --image-col")


def test_rows_without_an_image_are_refused_with_their_count(ham: Path) -> None:
    for n in range(14):
        next(ham.glob(f"*/ISIC_{n:02}.jpg")).unlink()

    refused(ham, r"14 of 16 have none: ISIC_00, .*ISIC_11 and 2 more\. Add the images or remove the rows\.$")


def test_ids_cannot_leave_the_folder(ham: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    write_image(outside, 0)
    write_table(ham / "HAM10000_metadata.csv", [*LINES, ("HAM_9", str(outside.with_suffix("")), "nv")])

    refused(ham, r"1 of 17 have none: /.*secret")


def test_one_class_only_is_refused(ham: Path) -> None:
    write_table(ham / "HAM10000_metadata.csv", [(lesion, image, "nv") for lesion, image, _ in LINES])

    refused(ham, r"2 classes or more, but all in .* are nv")


def test_all_unreadable_images_are_named_at_once(ham: Path) -> None:
    files = sorted(ham.glob("*/*.jpg"))
    for path in files[:13]:
        path.write_bytes(path.read_bytes()[:400])
    files[13].write_bytes(b"")

    refused(ham, r"14 of 16 cannot be read: HAM10000_images_part_1/ISIC_00\.jpg \(truncated\), .* and 2 more\.")


@pytest.mark.parametrize("other", ["MEL", "mel ", "Mel", "m el"])
def test_class_names_that_differ_in_case_or_spaces_are_refused(ham: Path, other: str) -> None:
    write_table(ham / "HAM10000_metadata.csv", [*LINES[:-1], ("HAM_7", "ISIC_15", other)])

    if other.strip() == "mel":
        assert load_manifest(ham).classes == ("mel", "nv")
    else:
        refused(
            ham,
            rf"more than case, spaces and a final .0, but '{other}' \(1 images\) and 'mel' \(7 images\) do not|'m el'",
        )


def test_classes_that_differ_as_whole_numbers_and_floats_are_refused(ham: Path) -> None:
    lines = [(*line[:2], str(n % 2) if n < 12 else f"{n % 2}.0") for n, line in enumerate(LINES)]
    write_table(ham / "HAM10000_metadata.csv", lines)

    refused(ham, r"but '0' \(6 images\) and '0.0' \(2 images\), '1' \(6 images\) and '1.0' \(2 images\) do not")


def test_copies_of_other_classes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(6):
        write_image(tmp_path / "ab"[n % 2] / f"{n}.jpg", n)
    (tmp_path / "b" / "copy.jpg").write_bytes((tmp_path / "a" / "0.jpg").read_bytes())

    assert len(load_manifest(tmp_path)) == 7
    assert "2 images are copies of others that have another class: a/0.jpg, b/copy.jpg; --fix leaves" in caplog.text


def test_several_faults_name_the_command_that_lists_them(ham: Path) -> None:
    next(ham.glob("*/ISIC_00.jpg")).unlink()
    next(ham.glob("*/ISIC_01.jpg")).write_bytes(b"")

    refused(ham, rf"have none: ISIC_00\..* One more kind of fault is listed by `python -m core\.datasets {ham}`\.")


def test_the_way_out_by_fix_is_told_where_it_is_one_and_works(ham: Path) -> None:
    next(ham.glob("*/ISIC_03.jpg")).write_bytes(b"")

    refused(ham, rf"Or leave out what is concerned: `python -m core\.datasets {ham} --fix {ham}/cleaned\.csv`\.$")
    assert cli(ham, "--fix", ham / "cleaned.csv").returncode == 0
    assert len(load_manifest(ham / "cleaned.csv")) == 15


def test_a_table_that_means_nothing_beside_class_folders_is_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(6):
        write_image(tmp_path / "ab"[n % 2] / f"{n}.jpg", n)
    (tmp_path / "ages.csv").write_text("image,age\n0,50\n")

    load_manifest(tmp_path)

    assert "tables that tell no image's class or lesion are passed over: ages.csv (image, age)" in caplog.text


@pytest.mark.parametrize("lesions", [True, False])
def test_images_of_one_isic_id_stay_together(tmp_path: Path, lesions: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Turned copies, as augmented sets have them: neither their bytes nor what they show would join them."""
    rows = []
    for n in range(24):
        name = f"ISIC_{n:07}"
        image = write_image(tmp_path / ("mel", "nv")[n % 2] / f"{name}.jpg", n)
        Image.open(image).rotate(90).save(image.with_name(f"{name}_rot90.jpg"))
        rows.append(f"{name}.jpg,L{n}")
    if lesions:
        (tmp_path / "groups.csv").write_text("\n".join(["image,group", *rows]))

    manifest = load_manifest(tmp_path)

    group_of = dict(zip(manifest.paths, manifest.groups, strict=True))
    assert all(group == group_of[path.replace("_rot90", "")] for path, group in group_of.items())
    assert (len(set(manifest.groups)), manifest.grouped) == (24, lesions)
    assert "48 images have 24 ISIC ids; those of one id count as one lesion" in caplog.text


def test_a_name_that_is_too_long_is_refused_in_one_sentence(ham: Path) -> None:
    long = ham / f"{'x' * 300}.csv"
    for arguments in ((long,), (ham, "--fix", long), (ham, "--sheet", long.with_suffix(".png"))):
        done = cli(*arguments)

        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "error: File name too long (" in done.stderr


def test_two_npz_files_are_refused_with_the_choice(tmp_path: Path) -> None:
    for name in ("dermamnist.npz", "dermamnist_64.npz"):
        (tmp_path / name).touch()

    refused(tmp_path, r"must be one set, but .* has 2: dermamnist\.npz, dermamnist_64\.npz\. Give one of them: --data ")


def test_the_same_place_twice_is_refused(ham: Path) -> None:
    with pytest.raises(InputError, match=r"must name different places, but got"):
        load_manifest(DataSpec((ham, ham / ".." / ham.name)))


def test_two_sets_become_one_with_numbered_names(ham: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for n in range(6):
        write_image(other / ("mel", "scc")[n % 2] / f"{n}.jpg", 100 + n)
    (other / "mel" / "same.jpg").write_bytes(next(ham.glob("*/ISIC_02.jpg")).read_bytes())

    manifest = load_manifest(DataSpec((ham, other)))

    assert manifest.layout == "ham10000 + class folders"
    assert manifest.classes == ("mel", "nv", "scc")
    assert len(manifest) == 16 + 6
    assert {path.split("/")[0] for path in manifest.paths} == {"1", "2"}
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))
    assert manifest.roots == (ham, other)


def test_the_demo_stamp_stays_on_whatever_names_the_images(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo", images=60, width=48, height=36, workers=1)

    assert cli(folder, "--fix", tmp_path / "cleaned.csv").returncode == 0
    assert load_manifest(tmp_path / "cleaned.csv").demo
    assert load_manifest(DataSpec((tmp_path / "cleaned.csv",))).fingerprint == load_manifest(folder).fingerprint


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "core.datasets", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_table_of_classes_and_parts(ham: Path) -> None:
    done = cli(ham, "--seed", 3)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^layout +ham10000, because HAM10000_metadata.csv has", done.stdout, re.MULTILINE)
    assert re.search(r"^lesions +8$", done.stdout, re.MULTILINE)
    rows = {words[0]: words for words in map(str.split, done.stdout.splitlines()) if words}
    assert rows["mel"][1:3] == ["8", "4"]
    assert rows["all"][1:3] == ["16", "8"]
    assert "warning      val has fewer than 10 lesions of mel (1), nv (1)" in done.stdout


def test_the_command_shows_everything_and_refuses_in_one_sentence(ham: Path) -> None:
    path = next(ham.glob("*/ISIC_03.jpg"))
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    next(ham.glob("*/ISIC_05.jpg")).unlink()
    write_image(ham / "new.jpg", 99)

    done = cli(ham)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "1 of 16 have none: ISIC_05" in done.stderr
    assert "One more kind of fault is listed above." in done.stderr
    assert "fault        Every image must be readable" in done.stdout
    assert "ISIC_03.jpg (truncated)" in done.stdout
    assert re.search(r"^note +1 images .* have no label and are left out: new\.jpg$", done.stdout, re.MULTILINE)
    assert re.search(r"^images +14 of 2 classes$", done.stdout, re.MULTILINE)


def test_a_table_with_a_header_only_is_told_once_and_not_sent_to_the_same_command(ham: Path) -> None:
    table = next(ham.glob("*.csv"))
    table.write_text(table.read_text().splitlines(keepends=True)[0])

    done = cli(ham)

    assert done.stdout.count("fault ") == 1
    assert done.stderr.endswith(f"error: {table.name} must have rows, but it has a header only. Restore it.\n")


def test_duplicates_are_told_within_and_across_lesions(ham: Path) -> None:
    files = {path.stem: path for path in ham.glob("*/*.jpg")}
    files["ISIC_01"].write_bytes(files["ISIC_00"].read_bytes())  # HAM_0, both
    files["ISIC_08"].write_bytes(files["ISIC_04"].read_bytes())  # HAM_2 and HAM_4

    done = cli(ham)

    assert "duplicates   2 with equal bytes, 1 of them across lesions" in done.stdout
    assert "look-alikes  1 pairs within lesions, 1 across, which count as one lesion: " in done.stdout


def test_fix_writes_what_can_be_used_and_every_command_takes_it(ham: Path) -> None:
    files = {path.stem: path for path in ham.glob("*/*.jpg")}
    files["ISIC_03"].write_bytes(b"")
    files["ISIC_05"].unlink()
    files["ISIC_08"].write_bytes(files["ISIC_09"].read_bytes())  # one lesion
    files["ISIC_13"].write_bytes(files["ISIC_15"].read_bytes())  # nv and mel
    rare = [("HAM_90", "ISIC_90", "df"), ("HAM_91", "ISIC_91", "df")]
    for n, (_, image, _) in enumerate(rare):
        write_image(ham / f"{image}.jpg", 200 + n)
    lines = [(lesion, image, "NV" if image == "ISIC_00" else label) for lesion, image, label in LINES]
    write_table(ham / "HAM10000_metadata.csv", [*lines, *rare])

    done = cli(ham, "--fix", ham / "cleaned.csv")

    assert done.returncode == 0, done.stderr
    assert "class names were unified: 'NV' → 'nv'" in done.stdout
    assert "2 images were left out, as their copies are of other classes" in done.stdout
    assert "1 copies were left out: HAM10000_images_part_2/ISIC_09.jpg" in done.stdout
    assert "classes that are too small to be split were left out: df" in done.stdout
    manifest = load_manifest(ham / "cleaned.csv")
    left = {Path(path).stem for path in manifest.paths}
    assert left == {f"ISIC_{n:02}" for n in range(16)} - {f"ISIC_{n:02}" for n in (3, 5, 9, 13, 15)}
    assert (manifest.layout, manifest.classes, manifest.grouped) == ("cleaned manifest", ("mel", "nv"), True)
    again = cli(ham / "cleaned.csv")
    assert again.returncode == 0, again.stdout


def test_a_cleaned_manifest_in_the_folder_is_not_taken_for_its_labels(ham: Path) -> None:
    before = load_manifest(ham)
    assert cli(ham, "--fix", ham / "cleaned.csv").returncode == 0

    again = cli(ham)

    assert load_manifest(ham).fingerprint == before.fingerprint
    assert "layout       ham10000" in again.stdout
    assert f"note         {ham / 'cleaned.csv'} is a cleaned manifest, not used unless given itself" in again.stdout


def test_arrays_are_not_fixed(tmp_path: Path) -> None:
    write_dermamnist(tmp_path / "dermamnist.npz")

    done = cli(tmp_path / "dermamnist.npz", "--fix", tmp_path / "cleaned.csv")

    assert done.returncode == 2
    assert "`--fix` must be for image files, but" in done.stderr
    assert not (tmp_path / "cleaned.csv").exists()


def test_a_pipe_among_the_tables_does_not_hang(ham: Path) -> None:
    os.mkfifo(ham / "labels")
    os.mkfifo(ham / "labels.csv")

    assert len(load_manifest(ham)) == 16


def test_a_cleaned_manifest_notices_images_that_changed(ham: Path) -> None:
    assert cli(ham, "--fix", ham / "cleaned.csv").returncode == 0
    write_image(next(ham.glob("*/ISIC_03.jpg")), 77)

    refused(ham / "cleaned.csv", r"1 of 16 have other bytes: HAM10000_images_part_2/ISIC_03\.jpg")


def test_the_sheet_is_drawn(ham: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sheet = tmp_path_factory.mktemp("sheet") / "sheet.png"

    assert cli(ham, "--sheet", sheet).returncode == 0
    with Image.open(sheet) as image:
        assert image.width > 600


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "`FOLDER` must be given, but got none"),
        (("--download", "ham10000"), "must be given with one folder"),
        (("HAM", "--sheet", "sheet.gif"), "`--sheet` must end in .jpg or .png"),
        (("HAM", "--fix", "cleaned.txt"), "must be a file named .csv"),
        (("HAM", "--label-column", "kind"), "must be a column of a table"),
    ],
)
def test_wrong_words_are_refused_in_one_sentence(ham: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = cli(*(ham if word == "HAM" else word for word in arguments))

    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


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
