"""Images without labels, and those among them that show sealed lesions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import load_manifest
from core.dataspec import Columns, DataSpec
from core.errors import InputError
from core.manifest import Manifest
from core.splits import joined_groups, split_manifest
from core.unlabelled import Unlabelled, find_unlabelled, held_out_rows, leave_out, rows_apart
from tests.fixtures.folders import write_class_folders_with_groups
from tests.fixtures.images import draw_image, write_image


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("study")
    write_class_folders_with_groups(folder)
    return load_manifest(folder)


def find(folder: Path) -> Unlabelled:
    return find_unlabelled(folder, flag="--data")


def names_in(images: Unlabelled, folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in images.files}


def sealed(manifest: Manifest) -> np.ndarray:
    return held_out_rows(split_manifest(manifest))


def test_every_image_counts_once_wherever_it_lies(tmp_path):
    for name, seed in (("a/1.jpg", 1), ("b/deep/1.png", 2), ("3.jpg", 3)):
        write_image(tmp_path / name, seed)
    shutil.copy(tmp_path / "3.jpg", tmp_path / "copy.jpg")
    found = find(tmp_path)
    assert names_in(found, tmp_path) == {"3.jpg", "a/1.jpg", "b/deep/1.png"}
    assert found.names == (frozenset(),) * 3


def test_a_table_beside_them_names_their_lesions(tmp_path):
    write_image(tmp_path / "x.jpg", 1)
    write_image(tmp_path / "y.jpg", 2)
    (tmp_path / "lesions.csv").write_text("image,lesion_id\nx,L1\n")
    found = find(tmp_path)
    assert {file.name: set(names) for file, names in zip(found.files, found.names, strict=True)} == {
        "x.jpg": {"L1"},
        "y.jpg": set(),
    }


def test_their_order_is_the_same_whatever_they_are_called(tmp_path):
    for number in range(6):
        write_image(tmp_path / "a" / f"{number}.jpg", number)
    (tmp_path / "b").mkdir()
    for number in range(6):
        shutil.copy(tmp_path / "a" / f"{number}.jpg", tmp_path / "b" / f"{5 - number}.jpg")
    assert find(tmp_path / "a").sha256 == find(tmp_path / "b").sha256


def test_what_a_table_says_of_one_copy_holds_for_the_other(study, tmp_path):
    write_image(tmp_path / "a.jpg", 60_001)
    write_image(tmp_path / "other.jpg", 60_002)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    group = study.groups[sealed(study)[0]]
    (tmp_path / "lesions.csv").write_text(f"image,lesion_id\nb,{group}\n")
    left, _ = leave_out(find(tmp_path), study, sealed(study))
    assert names_in(left, tmp_path) == {"other.jpg"}


def test_a_table_may_name_any_copy_by_its_path(study, tmp_path):
    write_image(tmp_path / "a" / "x.jpg", 60_001)
    write_image(tmp_path / "other.jpg", 60_002)
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg")
    group = study.groups[sealed(study)[0]]
    (tmp_path / "lesions.csv").write_text(f"image,lesion_id\nb/x.jpg,{group}\n")
    left, _ = leave_out(find(tmp_path), study, sealed(study))
    assert names_in(left, tmp_path) == {"other.jpg"}


def test_a_lesion_is_known_by_its_name_also_where_the_study_goes_by_patients(tmp_path):
    folder, pool = tmp_path / "study", tmp_path / "pool"
    lines = ["image,patient_id,lesion_id"]
    for number in range(24):
        write_image(folder / "ab"[number % 2] / f"photo{number}.jpg", number)
        lines.append(f"photo{number},P{number},L{number}")
    (folder / "groups.csv").write_text("\n".join(lines))
    manifest = load_manifest(folder)
    row = int(sealed(manifest)[0])
    assert manifest.groups[row].startswith("P")
    write_image(pool / "new.jpg", 40_001)
    write_image(pool / "other.jpg", 40_002)
    (pool / "lesions.csv").write_text(f"image,lesion_id\nnew,L{manifest.groups[row][1:]}\n")
    left, _ = leave_out(find(pool), manifest, sealed(manifest))
    assert names_in(left, pool) == {"other.jpg"}


def test_rows_of_lesions_that_no_photo_shows_are_those_the_photos_were_kept_apart_from(study):
    images = find(study.roots[0])
    rows = sealed(study)
    left, _ = leave_out(images, study, rows)
    assert rows_apart(left, study).tolist() == rows.tolist()
    assert len(rows_apart(images, study)) == 0


def test_kaggles_ham10000_which_holds_each_image_twice_is_taken(tmp_path):
    for number in range(3):
        write_image(tmp_path / "HAM10000_images_part_1" / f"ISIC_000000{number}.jpg", number)
    shutil.copytree(tmp_path / "HAM10000_images_part_1", tmp_path / "ham10000_images_part_1")
    lines = ["image_id,lesion_id", *(f"ISIC_000000{number},HAM_{number}" for number in range(3))]
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    assert {frozenset({f"HAM_{n}", f"ISIC_000000{n}"}) for n in range(3)} == set(find(tmp_path).names)


@pytest.mark.parametrize(("make", "says"), [(False, "of images, but got"), (True, "has none. Name another one")])
def test_a_folder_that_is_not_there_or_empty_is_refused_by_its_flag(tmp_path, make, says):
    folder = tmp_path / "pool"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=rf"`--unlabelled` must be a folder .*{says}"):
        find_unlabelled(folder, flag="--unlabelled")


def test_an_unreadable_image_is_refused_by_name(tmp_path):
    write_image(tmp_path / "x.jpg", 1)
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:200])
    with pytest.raises(InputError, match=r"All images must be readable, but 1 of 2 are not: .*torn\.jpg"):
        find(tmp_path)


def test_of_the_studys_own_folder_the_training_lesions_are_left(study):
    left, told = leave_out(find(study.roots[0]), study, sealed(study))
    train = split_manifest(study).train
    assert sorted(left.sha256) == sorted(study.sha256[row] for row in train.tolist())
    assert told.startswith(f"{len(study) - len(train)} images of {len(study)} left out")


def test_copies_with_other_bytes_are_known_by_their_pixels(study, tmp_path):
    row = int(sealed(study)[0])
    with Image.open(study.file(row)) as image:
        image.save(tmp_path / "again.bmp")
    write_image(tmp_path / "other.jpg", 77_777)
    left, _ = leave_out(find(tmp_path), study, sealed(study))
    assert [file.name for file in left.files] == ["other.jpg"]


def test_copies_squeezed_into_a_square_are_known_as_those_of_medical_image_sets_are(study, tmp_path):
    rows = sealed(study)
    for number, row in enumerate(rows.tolist()):
        with Image.open(study.file(row)) as image:
            image.convert("RGB").resize((64, 64)).save(tmp_path / f"{number}.jpg", quality=60)
    write_image(tmp_path / "other.jpg", 77_777)
    left, _ = leave_out(find(tmp_path), study, rows)
    assert names_in(left, tmp_path) == {"other.jpg"}


def test_copies_of_what_is_left_out_are_left_out_too(study, tmp_path):
    group = study.groups[sealed(study)[0]]
    write_image(tmp_path / "sibling.png", 50_001)
    with Image.open(tmp_path / "sibling.png") as image:
        image.save(tmp_path / "nobody_knows.jpg", quality=70)
    write_image(tmp_path / "other.jpg", 50_002)
    (tmp_path / "lesions.csv").write_text(f"image,lesion_id\nsibling,{group}\n")
    left, told = leave_out(find(tmp_path), study, sealed(study))
    assert names_in(left, tmp_path) == {"other.jpg"}
    assert told.startswith("2 images of 3 left out")


def test_a_lesion_is_known_by_its_name_also_where_the_study_is_of_several_sets(tmp_path):
    roots = [tmp_path / name for name in ("first", "second")]
    for number, root in enumerate(roots):
        write_class_folders_with_groups(root, seed=10_000 * number)
    manifest = load_manifest(DataSpec(tuple(roots)))
    rows = sealed(manifest)
    group = next(manifest.groups[row] for row in rows.tolist() if manifest.groups[row].startswith("2/"))
    pool = tmp_path / "pool"
    write_image(pool / "x.jpg", 40_001)
    write_image(pool / "y.jpg", 40_002)
    (pool / "lesions.csv").write_text(f"image,lesion_id\nx,{group.removeprefix('2/')}\n")
    left, _ = leave_out(find(pool), manifest, rows)
    assert names_in(left, pool) == {"y.jpg"}


def test_other_photos_of_a_sealed_lesion_go_with_it_by_its_name_or_by_a_sibling(study, tmp_path):
    row = int(sealed(study)[0])
    write_image(tmp_path / "new.jpg", 70_001)
    write_image(tmp_path / "sibling.jpg", 70_002)
    write_image(tmp_path / "free.jpg", 70_003)
    shutil.copy(study.file(row), tmp_path / "copy.jpg")
    lines = ["image,lesion_id", f"new,{study.groups[row]}", "copy,mine", "sibling,mine", "free,free"]
    (tmp_path / "lesions.csv").write_text("\n".join(lines))
    left, told = leave_out(find(tmp_path), study, sealed(study))
    assert [file.name for file in left.files] == ["free.jpg"]
    assert told.startswith("3 images of 4 left out")


def test_ids_of_the_isic_archive_tell_a_photo_however_it_was_changed(tmp_path):
    folder, pool = tmp_path / "study", tmp_path / "pool"
    for number in range(24):
        write_image(folder / "ab"[number % 2] / f"ISIC_00{number:05d}.jpg", number)
    manifest = load_manifest(folder)
    row = int(sealed(manifest)[0])
    name = Path(manifest.paths[row]).stem
    pool.mkdir()
    draw_image(88_888).save(pool / f"{name}_downsampled.jpg")
    write_image(pool / "other.jpg", 99_999)
    left, _ = leave_out(find(pool), manifest, sealed(manifest))
    assert [file.name for file in left.files] == ["other.jpg"]


def test_a_folder_of_nothing_but_sealed_lesions_is_refused(study, tmp_path):
    shutil.copy(study.file(int(sealed(study)[0])), tmp_path / "copy.jpg")
    with pytest.raises(InputError, match=r"but all 1 show one of them: copy\.jpg\. Name another folder"):
        leave_out(find(tmp_path), study, sealed(study))


def test_lesions_joined_as_near_duplicates_stay_together(study):
    rows = sealed(study)
    joined = joined_groups(study)
    left, _ = leave_out(find(study.roots[0]), study, rows[:1])
    gone = {study.sha256[row] for row in np.flatnonzero(joined == joined[rows[0]])}
    assert set(study.sha256) - set(left.sha256) == gone


def write_patients(folder: Path, header: str) -> Path:
    """Two photos each of 24 patients, of which one is diagnosed, and a table of all of them."""
    lines = [header]
    for patient in range(24):
        for number, part in enumerate(("diagnosed", "undiagnosed")):
            write_image(folder / part / f"photo{patient}_{number}.jpg", 2 * patient + number)
            label = "" if number else ("mel", "nv")[patient % 2]
            lines.append(f"{part}/photo{patient}_{number}.jpg,P{patient},{label}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder / "metadata.csv"


def patients_of(names: set[str]) -> set[str]:
    return {Path(name).stem.rpartition("_")[0] for name in names}


@pytest.mark.parametrize("moved", [False, True])
def test_what_the_studys_tables_say_of_images_without_labels_counts(tmp_path, moved):
    manifest = load_manifest(write_patients(tmp_path / "study", "image,patient_id,diagnosis"))
    rows, pool = sealed(manifest), tmp_path / "study" / "undiagnosed"
    if moved:
        pool = pool.rename(tmp_path / "undiagnosed")
    images = find(pool)
    assert images.names == (frozenset(),) * 24
    left, told = leave_out(images, manifest, rows)
    held = patients_of({manifest.paths[row] for row in rows.tolist()})
    assert held
    assert not held & patients_of(names_in(left, pool))
    assert told.startswith(f"{len(held)} images of 24 left out")
    assert rows_apart(left, manifest).tolist() == rows.tolist()


def test_what_the_studys_table_says_of_one_copy_holds_for_the_other(tmp_path):
    manifest = load_manifest(write_patients(tmp_path, "image,patient_id,diagnosis"))
    rows, pool = sealed(manifest), tmp_path / "undiagnosed"
    for file in sorted(pool.iterdir()):
        shutil.copy(file, pool / f"a{file.name}")  # the first of the two
    left, _ = leave_out(find(pool), manifest, rows)
    assert len(left) == 24 - len(rows)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("img_id,patient_id,diagnosis", Columns()),
        ("id,patient_id,diagnosis", Columns()),
        ("photo,patient_id,diagnosis", Columns(image="photo")),
        ("image,Person,diagnosis", Columns(group="person")),
    ],
)
@pytest.mark.parametrize("part", ["", "undiagnosed"])
def test_a_table_groups_images_without_labels_by_the_columns_that_group_labelled_ones(tmp_path, header, columns, part):
    manifest = load_manifest(DataSpec((write_patients(tmp_path, header),), columns))
    rows, pool = sealed(manifest), tmp_path / part
    left, _ = leave_out(find_unlabelled(pool, flag="--data", columns=columns), manifest, rows, columns)
    assert not patients_of({manifest.paths[row] for row in rows.tolist()}) & patients_of(names_in(left, pool))


def test_links_are_known_to_the_studys_tables_by_their_own_names(tmp_path):
    manifest = load_manifest(write_patients(tmp_path / "study", "image,patient_id,diagnosis"))
    rows, pool = sealed(manifest), tmp_path / "undiagnosed"
    files = (tmp_path / "study" / "undiagnosed").rename(tmp_path / "files")
    pool.mkdir()
    for number, file in enumerate(sorted(files.iterdir())):
        (pool / file.name).symlink_to(file.rename(files / f"{number}.jpg"))
    left, _ = leave_out(find(pool), manifest, rows)
    assert len(left) == 24 - len(rows)


def test_a_patient_is_known_by_a_number_that_became_a_float(tmp_path):
    labelled, unlabelled = tmp_path / "labelled", tmp_path / "unlabelled"
    rows, others = ["image,patient_id,label"], ["image,patient_id"]
    for patient in range(100, 120):
        write_image(labelled / f"a{patient}.jpg", patient)
        write_image(unlabelled / f"b{patient}.jpg", 1000 + patient)
        rows.append(f"a{patient},{patient},{'mel' if patient % 2 else 'nv'}")
        others.append(f"b{patient},{float(patient)}")  # as pandas writes them where one is unknown
    (labelled / "t.csv").write_text("\n".join(rows))
    (unlabelled / "t.csv").write_text("\n".join(others))
    manifest = load_manifest(labelled)
    held = {manifest.paths[row].strip("a.jpg") for row in sealed(manifest)}
    left, _ = leave_out(find(unlabelled), manifest, sealed(manifest))
    assert {file.stem.strip("b") for file in left.files} == {str(n) for n in range(100, 120)} - held
