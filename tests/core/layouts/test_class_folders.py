import posixpath
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.layouts.class_folders import class_folders
from core.layouts.contract import Columns, Recognised
from core.listing import Listing, list_folder
from tests.fixtures.folders import (
    NINE,
    write_class_folders,
    write_class_folders_with_groups,
    write_kaggle_nine,
    write_split_folders,
)


def listing(*images: str, root: Path = Path("/data"), tables: tuple[str, ...] = ()) -> Listing:
    """What a folder would list that holds these images."""
    return Listing(root, images=tuple(sorted(images)), tables=tables)


def recognised(*images: str) -> Recognised:
    found = class_folders(listing(*images), Columns())
    assert found is not None
    return found


def labels(*images: str) -> dict[str, str]:
    return {row.path: row.label for row in recognised(*images).rows}


def roles(*images: str) -> dict[str, str]:
    return {row.path: row.split for row in recognised(*images).rows}


def test_the_folder_of_an_image_is_its_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path)

    found = class_folders(list_folder(tmp_path), Columns())

    assert found is not None
    assert (found.layout, found.reason) == ("class folders", "one folder of images for each of 3 classes")
    assert Counter(row.label for row in found.rows) == {"basal cell carcinoma": 8, "melanoma": 8, "naevus": 8}
    assert all(posixpath.dirname(row.path) == row.label for row in found.rows)
    assert {(row.group, row.split) for row in found.rows} == {("", "")}
    assert found.faults == found.notes == found.missing == found.unlabelled == []


def test_kaggles_nine_classes_are_found_in_their_nested_folders(tmp_path: Path) -> None:
    write_kaggle_nine(tmp_path)

    found = class_folders(list_folder(tmp_path), Columns())

    assert found is not None
    assert found.layout == "class folders with splits"
    assert found.reason == "one folder of images for each of 9 classes, below folders for train, test"
    assert Counter(row.label for row in found.rows) == dict.fromkeys(NINE, 10)
    assert Counter(row.split for row in found.rows) == {"train": 54, "test": 36}
    assert all(f"/{row.split.capitalize()}/{row.label}/" in row.path for row in found.rows)


def test_split_folders_are_official_parts(tmp_path: Path) -> None:
    write_split_folders(tmp_path)

    found = class_folders(list_folder(tmp_path), Columns())

    assert found is not None
    assert Counter(row.split for row in found.rows) == {"train": 24, "val": 12, "test": 12}


def test_names_of_classes_stay_as_they_are() -> None:
    assert set(labels("Train/Melanoma/0.jpg", "Train/nevus/0.jpg", "Test/melanoma /0.jpg").values()) == {
        "Melanoma",
        "melanoma",
        "nevus",
    }


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("Training", "Testing"), ("train", "test")),
        (("ISIC_train_images", "ISIC_test_images"), ("train", "test")),
        (("dev", "TEST set"), ("val", "test")),
        (("valid", "train"), ("val", "train")),
    ],
)
def test_splits_are_told_by_a_word_of_their_name(folders: tuple[str, str], expected: tuple[str, str]) -> None:
    images = [f"{folder}/{label}/0.jpg" for folder in folders for label in ("a", "b")]

    assert roles(*images) == {
        image: role for image, role in zip(images, [role for role in expected for _ in "ab"], strict=True)
    }


@pytest.mark.parametrize("parts", [("trainset", "testset"), ("train", "valset"), ("TrainSet", "eval")])
def test_numbered_classes_below_splits_are_classes(parts: tuple[str, str]) -> None:
    images = [f"{part}/{label}/{n}.jpg" for part in parts for label in "012" for n in range(2)]

    assert labels(*images) == {image: image.split("/")[1] for image in images}
    assert len(set(roles(*images).values())) == 2


def test_one_split_alone_is_no_official_part() -> None:
    found = recognised("Train/a/0.jpg", "Train/b/0.jpg")

    assert found.layout == "class folders"
    assert {row.split for row in found.rows} == {""}


def test_several_folders_of_one_split_are_joined() -> None:
    assert roles("train_1/a/0.jpg", "train_2/b/0.jpg", "test/a/0.jpg") == {
        "train_1/a/0.jpg": "train",
        "train_2/b/0.jpg": "train",
        "test/a/0.jpg": "test",
    }


def test_a_test_part_without_classes_is_unlabelled() -> None:
    found = recognised("train/a/0.jpg", "train/b/0.jpg", "test/0.jpg", "test/1.jpg", "test/2.jpg")

    assert {row.split for row in found.rows} == {""}
    assert found.unlabelled == ["test/0.jpg", "test/1.jpg", "test/2.jpg"]


def test_splits_within_the_classes_count_too() -> None:
    images = ("a/train/0.jpg", "a/test/0.jpg", "b/train/0.jpg", "b/test/0.jpg")

    assert labels(*images) == {image: image[0] for image in images}
    assert roles(*images) == {image: image.split("/")[1] for image in images}


def test_a_class_may_be_called_like_a_split_if_others_are_not() -> None:
    found = recognised("patch test/0.jpg", "naevus/0.jpg", "photo damage/0.jpg")

    assert {row.label for row in found.rows} == {"patch test", "naevus", "photo damage"}
    assert {row.split for row in found.rows} == {""}


@pytest.mark.parametrize("role", ["test", "Train", "valset", "eval", "test images"])
def test_a_class_that_is_called_like_a_split_is_refused(role: str) -> None:
    with pytest.raises(
        InputError, match=rf"No class may be called as a split is, but the folders of classes are {role}, "
    ):
        recognised(f"{role}/0.jpg", "naevus/0.jpg", "melanoma/0.jpg")


def test_classes_with_a_split_in_their_names_are_refused() -> None:
    folders = ("mel_train", "mel_test", "nv_train", "nv_test")

    with pytest.raises(InputError, match=r"are mel_test, mel_train, nv_test, nv_train\. Put each class into a folder"):
        recognised(*(f"{folder}/0.jpg" for folder in folders))


@pytest.mark.parametrize("names", [("image of mel", "image of nv"), ("positive test", "negative test")])
def test_classes_may_have_words_of_containers_and_splits_in_their_names(names: tuple[str, str]) -> None:
    assert labels(*(f"{name}/0.jpg" for name in names)) == {f"{name}/0.jpg": name for name in names}


def test_containers_may_have_other_words_in_common() -> None:
    assert set(labels("clinic_A_images/mel/0.jpg", "clinic_B_images/nv/0.jpg").values()) == {"mel", "nv"}


def test_masks_are_passed_over_and_counted() -> None:
    found = recognised("mel/a.jpg", "mel/a_segmentation.png", "nv/b.jpg", "nv/b_attribute_streaks.png")

    assert {row.path for row in found.rows} == {"mel/a.jpg", "nv/b.jpg"}
    assert found.notes == ["2 masks of images are passed over: mel/a_segmentation.png, nv/b_attribute_streaks.png"]


def test_a_class_below_a_split_may_be_called_like_a_container() -> None:
    found = labels("train/photo damage/0.jpg", "train/naevus/0.jpg", "test/photo damage/0.jpg", "test/naevus/0.jpg")

    assert set(found.values()) == {"photo damage", "naevus"}


@pytest.mark.parametrize("wrapper", ["", "data/", "My Data/Skin Images/", "x/x/x/"])
def test_folders_that_hold_everything_are_passed_over(wrapper: str) -> None:
    assert labels(f"{wrapper}a/0.jpg", f"{wrapper}b/0.jpg") == {f"{wrapper}a/0.jpg": "a", f"{wrapper}b/0.jpg": "b"}


def test_containers_above_the_classes_are_passed_over() -> None:
    assert labels("part_1/a/0.jpg", "part_2/b/0.jpg") == {"part_1/a/0.jpg": "a", "part_2/b/0.jpg": "b"}
    assert labels("train/images/a/0.jpg", "test/images/b/0.jpg") == {
        "train/images/a/0.jpg": "a",
        "test/images/b/0.jpg": "b",
    }


def test_folders_below_a_class_are_passed_over_and_said() -> None:
    found = recognised("a/IL_1/0.jpg", "a/IL_2/0.jpg", "b/IL_3/left/0.jpg", "b/0.jpg")

    assert {row.path: row.label for row in found.rows} == {
        "a/IL_1/0.jpg": "a",
        "a/IL_2/0.jpg": "a",
        "b/IL_3/left/0.jpg": "b",
        "b/0.jpg": "b",
    }
    assert {row.group for row in found.rows} == {""}
    assert found.notes == [
        "3 images lie in folders below their class, which are passed over; if those are lesions or patients, say so in "
        "a table with the columns image and group"
    ]


def test_images_beside_the_classes_are_unlabelled() -> None:
    found = recognised("a/0.jpg", "b/0.jpg", "logo.png")

    assert found.unlabelled == ["logo.png"]


def test_an_image_beside_the_folder_of_everything_does_not_hide_the_classes() -> None:
    found = recognised("logo.png", "set/cover.png", "set/a/0.jpg", "set/a/1.jpg", "set/b/0.jpg", "set/b/1.jpg")

    assert {row.label for row in found.rows} == {"a", "b"}
    assert found.unlabelled == ["logo.png", "set/cover.png"]


@pytest.mark.parametrize(
    "images",
    [
        ("0.jpg", "1.jpg"),
        ("HAM10000_images_part_1/0.jpg", "HAM10000_images_part_2/1.jpg"),
        ("ISIC_2019_Training_Input/0.jpg", "ISIC_2019_Test_Input/1.jpg"),
        ("ISIC2018_Task3_Test_Images/0.jpg", "HAM10000_images_part_1/1.jpg"),
        ("images/0.jpg",),
        ("train/0.jpg", "test/0.jpg"),
        ("0.jpg", "1.jpg", "2.jpg", "figures/a/3.jpg", "figures/b/4.jpg"),
    ],
)
def test_images_outside_of_class_folders_are_no_class_folders(images: tuple[str, ...]) -> None:
    assert class_folders(listing(*images), Columns()) is None


def test_a_single_class_is_recognised_so_that_its_name_can_be_told() -> None:
    assert labels("melanoma/0.jpg", "melanoma/1.jpg") == {"melanoma/0.jpg": "melanoma", "melanoma/1.jpg": "melanoma"}


def test_a_single_folder_beside_a_table_of_unknown_meaning_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("photo,kind\n0,nv\n")
    (tmp_path / "groups.csv").write_text("image,group\n0,x\n")

    for table, no_class in (("labels.csv", True), ("groups.csv", False)):
        found = class_folders(listing("all/0.jpg", root=tmp_path, tables=(table,)), Columns())
        assert (found is None) == no_class


def test_named_columns_mean_a_table() -> None:
    assert class_folders(listing("a/0.jpg", "b/0.jpg"), Columns(label="dx")) is None


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("clinic a", "clinic b"), ("mel", "nv")),
        (("train", "test", "extra"), ("mel", "nv")),
        (("train", "test", "extra"), ("0", "1", "2")),
        (("hospital 1", "hospital 2"), ("1", "2")),
    ],
)
def test_two_levels_that_could_be_the_classes_are_refused(outer: tuple[str, ...], inner: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=rf"must be on one level, but .* all hold {', '.join(inner)}\. Name the outer"):
        class_folders(listing(*(f"{a}/{b}/0.jpg" for a in outer for b in inner)), Columns())


def test_numbered_folders_below_the_classes_are_no_classes() -> None:
    assert set(labels(*(f"{a}/lesion{b}/0.jpg" for a in ("mel", "nv") for b in (1, 2))).values()) == {"mel", "nv"}


def test_patients_of_whom_every_class_has_photos_are_no_classes() -> None:
    assert set(labels(*(f"{a}/{b}/0.jpg" for a in ("mel", "healthy") for b in range(101))).values()) == {
        "mel",
        "healthy",
    }


_NAMES = st.sampled_from(["mel", "nv", "Train", "test", "images", "part 1", " ", "IL_7", "valid", "a b"])
_TREES = st.lists(st.lists(_NAMES, max_size=4), min_size=1, max_size=12).map(
    lambda folders: [posixpath.join(*path, f"{n}.jpg") for n, path in enumerate(folders)]
)


@given(_TREES)
def test_every_image_is_labelled_by_one_of_its_folders_or_unlabelled(images: list[str]) -> None:
    try:
        found = class_folders(listing(*images), Columns())
    except InputError:  # two levels that could be the classes
        return
    if found is not None:
        assert sorted([row.path for row in found.rows] + found.unlabelled) == sorted(images)
        assert all(row.label in map(str.strip, row.path.split("/")[:-1]) for row in found.rows)
        assert all(row.label for row in found.rows)


@given(_TREES, _NAMES)
def test_a_folder_around_class_folders_changes_no_label(images: list[str], wrapper: str) -> None:
    images = [f"one/{image}" for image in images] + [f"two/{image}" for image in images]

    def told(paths: list[str]) -> dict[str, tuple[str, str]] | None:
        try:
            found = class_folders(listing(*paths), Columns())
        except InputError:
            return None
        return found and {posixpath.basename(row.path) + row.label: (row.label, row.split) for row in found.rows}

    assert told([f"{wrapper}/{image}" for image in images]) == told(images)


def grouped(root: Path, *images: str) -> Recognised:
    """Class folders beside all tables that lie in `root`."""
    tables = tuple(sorted(file.relative_to(root).as_posix() for file in root.rglob("*.csv")))
    found = class_folders(listing(*images, root=root, tables=tables), Columns())
    assert found is not None
    return found


def groups(root: Path, *images: str) -> dict[str, str]:
    return {row.path: row.group for row in grouped(root, *images).rows}


def test_a_table_of_groups_says_which_images_belong_together(tmp_path: Path) -> None:
    write_class_folders_with_groups(tmp_path)

    found = class_folders(list_folder(tmp_path), Columns())

    assert found is not None
    assert Counter(Counter(row.group for row in found.rows).values()) == {2: 12}
    assert found.reason.endswith("; groups from groups.csv (group)")
    assert found.faults == found.notes == []


@pytest.mark.parametrize("name", ["mel/IMG_1.jpg", "IMG_1.jpg", "IMG_1", "mel/IMG_1", r"mel\IMG_1.jpg", "./img_1.JPG"])
@pytest.mark.parametrize("image_column", ["image", "Path", "file", "filename", "image_id"])
def test_images_of_groups_are_named_in_any_way(tmp_path: Path, name: str, image_column: str) -> None:
    (tmp_path / "meta.csv").write_text(f"age,{image_column},lesion_id\n40,{name},x\n")

    assert groups(tmp_path, "mel/IMG_1.jpg", "nv/IMG_2.jpg") == {"mel/IMG_1.jpg": "x", "nv/IMG_2.jpg": ""}


def test_paths_in_a_table_of_groups_may_be_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "groups.csv").write_text("image,group\nmel/1.jpg,x\nnv/1.jpg,y\n")

    assert groups(tmp_path, "set/mel/1.jpg", "set/nv/1.jpg") == {"set/mel/1.jpg": "x", "set/nv/1.jpg": "y"}


def test_paths_in_a_table_of_groups_may_lack_the_first_folders(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\nmel/1.jpg,x\nnv/1.jpg,y\n")

    assert groups(tmp_path, "set/mel/1.jpg", "set/nv/1.jpg") == {"set/mel/1.jpg": "x", "set/nv/1.jpg": "y"}


def test_rows_of_groups_without_an_image_are_counted(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\nmel/1,x\nmel/9,x\n,x\n../../mel/1.jpg,x\n/etc/passwd,x\n")

    found = grouped(tmp_path, "mel/1.jpg", "nv/1.jpg")

    assert found.notes == [
        "4 of 5 rows of groups.csv name no image and are passed over: mel/9, line 4, ../../mel/1.jpg, /etc/passwd"
    ]
    assert [row.group for row in found.rows] == ["x", ""]


@pytest.mark.parametrize("unknown", ["", "NA", "nan", "unknown", "?"])
def test_an_unknown_group_is_none(tmp_path: Path, unknown: str) -> None:
    (tmp_path / "groups.csv").write_text(f"image,group\nmel/1,{unknown}\nnv/1,x\n")

    assert groups(tmp_path, "mel/1.jpg", "nv/1.jpg") == {"mel/1.jpg": "", "nv/1.jpg": "x"}


@pytest.mark.parametrize(("columns", "column"), [("patient,lesion", "patient"), ("lesion_id,patient_id", "patient_id")])
def test_patients_are_groups_rather_than_their_lesions(tmp_path: Path, columns: str, column: str) -> None:
    (tmp_path / "groups.csv").write_text(f"image,{columns}\nmel/1,left,right\n")

    patient = "left" if columns.startswith(column) else "right"
    assert groups(tmp_path, "mel/1.jpg", "nv/1.jpg")["mel/1.jpg"] == patient


def test_a_lesion_without_a_patient_is_that_of_its_other_photos(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,patient_id,lesion_id\nmel/1,p,x\nmel/2,,x\nnv/1,,y\n")

    assert groups(tmp_path, "mel/1.jpg", "mel/2.jpg", "nv/1.jpg") == {
        "mel/1.jpg": "p",
        "mel/2.jpg": "p",
        "nv/1.jpg": "y",
    }


def test_of_several_columns_of_images_the_one_that_names_them_counts(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,file,group\n1,mel/a.jpg,x\n2,nv/b.jpg,y\n")

    assert groups(tmp_path, "mel/a.jpg", "nv/b.jpg") == {"mel/a.jpg": "x", "nv/b.jpg": "y"}


def test_groups_of_two_tables_that_share_an_image_are_joined(tmp_path: Path) -> None:
    (tmp_path / "lesions.csv").write_text("image,lesion_id\nmel/1,x\nmel/2,x\nnv/1,y\n")
    (tmp_path / "patients.csv").write_text("image,patient_id\nmel/2,p\nnv/1,p\n")

    found = grouped(tmp_path, "mel/1.jpg", "mel/2.jpg", "nv/1.jpg", "nv/2.jpg")

    assert [row.group for row in found.rows] == ["p", "p", "p", ""]
    assert (found.faults, found.notes) == ([], ["3 lesions and patients that share images count as 1"])


def test_a_table_of_groups_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group,group\nmel/1,x,y\n")

    with pytest.raises(InputError, match=r"Every column of groups\.csv that is used must stand there once, but group"):
        grouped(tmp_path, "mel/1.jpg", "nv/1.jpg")


def test_names_in_a_table_of_groups_may_begin_with_folders_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\n/home/me/data/mel/1.jpg,x\n/home/me/data/nv/1.jpg,y\n")

    assert groups(tmp_path, "mel/1.jpg", "nv/1.jpg") == {"mel/1.jpg": "x", "nv/1.jpg": "y"}


def test_images_of_two_groups_are_a_fault_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\nmel/1,x\nmel/1,y\nnv/1,x\nnv/1,x\n")
    (tmp_path / "more.csv").write_text("image,group\nnv/2,z\n")

    found = grouped(tmp_path, "mel/1.jpg", "nv/1.jpg", "nv/2.jpg")

    assert [row.path for row in found.rows] == ["nv/1.jpg", "nv/2.jpg"]
    assert found.faults == [
        "Every image must be of one lesion or patient, but 1 of 3 are of several: mel/1.jpg (x, y). "
        "Correct groups.csv, more.csv."
    ]


def test_a_name_of_several_images_is_a_fault_and_they_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\n1.jpg,x\n")

    found = grouped(tmp_path, "mel/1.jpg", "nv/1.jpg", "nv/2.jpg")

    assert [row.path for row in found.rows] == ["nv/2.jpg"]
    assert found.faults == [
        "Every name in groups.csv must be that of one image, but 1 are those of several: 1.jpg (mel/1.jpg, nv/1.jpg). "
        "Give them with their folders."
    ]


def test_ragged_rows_of_groups_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("image,group\nmel/1,x\nnv/1\n")

    found = grouped(tmp_path, "mel/1.jpg", "nv/1.jpg")

    assert len(found.faults) == 1
    assert "have others: lines 3" in found.faults[0]


def test_a_table_that_is_none_of_groups_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("camera,price\nx,1\n")
    (tmp_path / "cleaned.csv").write_text("image,label,group,split,sha256\nmel/1.jpg,mel,x,,0\n")

    assert groups(tmp_path, "mel/1.jpg", "nv/1.jpg") == {"mel/1.jpg": "", "nv/1.jpg": ""}


def test_accents_of_a_mac_are_those_of_others(tmp_path: Path) -> None:
    images = ("Na\u0308vus/1.jpg", "N\u00e4vus/2.jpg", "mel/3.jpg")

    found = class_folders(Listing(tmp_path, images=images), Columns())

    assert found is not None
    assert {row.path: row.label for row in found.rows} == dict(
        zip(images, ("N\u00e4vus", "N\u00e4vus", "mel"), strict=True)
    )


def test_a_column_id_that_names_no_image_is_not_taken_for_theirs(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "patients.csv").write_text("id,case\nfirst,P1\nsecond,P2\n")

    found = class_folders(list_folder(tmp_path), Columns())

    assert found is not None
    assert found.notes == ["tables that tell no image's class or lesion are passed over: patients.csv (id, case)"]
