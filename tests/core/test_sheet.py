import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import InputError
from core.sheet import COLUMNS, SheetRow, check_sheet, choose_photos, write_sheet
from tests.fixtures.images import write_image

MOUNT = (236, 239, 242)


def photos_of(*lesions: str) -> list[tuple[Path, str]]:
    return [(Path(f"{number}.png"), lesion) for number, lesion in enumerate(lesions)]


@pytest.fixture
def photos(tmp_path: Path) -> list[tuple[Path, str]]:
    """Nine photos of nine lesions."""
    return [(write_image(tmp_path / "photos" / f"{seed}.png", seed), f"lesion {seed}") for seed in range(9)]


def draw(file: Path, rows: list[SheetRow], **options: object) -> np.ndarray:
    with Image.open(write_sheet(file, rows, title="a title", **options)) as image:
        return np.asarray(image.convert("RGB"))


def picture_format(file: Path) -> str | None:
    with Image.open(file) as image:
        return image.format


def test_there_is_a_row_for_every_class_and_seven_photos_in_it(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    heights = []
    for classes in (1, 2, 30):
        pixels = draw(tmp_path / "sheet.png", [SheetRow(f"class {c}", photos) for c in range(classes)])
        heights.append(pixels.shape[0])
        assert pixels.shape[1] == 1522
        columns = pixels[74 : 74 + 135].std(axis=0).sum(axis=1) > 1
        # gaps of white between the photos
        assert np.count_nonzero(np.diff(columns[198:].astype(int)) == 1) + int(columns[198]) == COLUMNS
    assert heights[1] - heights[0] == 141
    assert heights[2] - heights[1] == 28 * 141


def test_the_same_photos_give_the_same_sheet(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    first, second = (draw(tmp_path / name, [SheetRow("a", photos)]) for name in ("1.png", "2.png"))
    assert np.array_equal(first, second)


def test_photos_are_spread_over_the_whole_class() -> None:
    chosen = [int(path.stem) for path in choose_photos(photos_of(*map(str, range(700))))]
    assert chosen == [50, 150, 250, 350, 450, 550, 650]


def test_each_lesion_shows_its_first_photo_while_there_are_enough_lesions() -> None:
    twice = [name for name in "abcdefg" for _ in range(2)]
    assert [path.stem for path in choose_photos(photos_of(*twice))] == ["0", "2", "4", "6", "8", "10", "12"]


@pytest.mark.parametrize(
    ("lesions", "expected"),
    [("aabb", "0213"), ("aaab", "031"), ("aaaa", "0"), ("a", "0"), ("", ""), (["", "", ""], "012")],
)
def test_second_photos_come_where_lesions_are_few_but_never_beside_the_first(
    lesions: list[str] | str, expected: str
) -> None:
    assert [path.stem for path in choose_photos(photos_of(*lesions))] == list(expected)


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g", "h"]), max_size=60), st.integers(1, 9))
def test_no_two_neighbours_are_of_one_lesion_and_none_is_shown_twice(lesions: list[str], count: int) -> None:
    photos = photos_of(*lesions)
    chosen = choose_photos(photos, count)
    lesion_of = dict(photos)
    shown = [lesion_of[path] for path in chosen]
    assert len(set(chosen)) == len(chosen) <= count
    assert all(left != right or not left for left, right in itertools.pairwise(shown))
    assert bool(chosen) == bool(photos)
    distinct = len({lesion or str(path) for path, lesion in photos})
    assert len(chosen) >= min(count, distinct)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (60, 60), (90, 30)])
def test_a_photo_is_shown_whole_in_its_proportions(tmp_path: Path, size: tuple[int, int]) -> None:
    photo = tmp_path / "red.png"
    Image.new("RGB", size, (255, 0, 0)).save(photo)
    cell = draw(tmp_path / "sheet.png", [SheetRow("a", [(photo, "")])])[74 : 74 + 135, 198 : 198 + 180]
    red = (cell == (255, 0, 0)).all(axis=2)
    height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert max(height / 135, width / 180) > 0.99
    assert width / height == pytest.approx(size[0] / size[1], rel=0.6 if 1 in size else 0.02) or 1 in (width, height)
    assert (cell[~red] == MOUNT).all()


def test_a_photo_taken_sideways_is_shown_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "sideways.jpg"
    Image.new("RGB", (120, 60), (255, 0, 0)).save(photo, exif=exif)
    cell = draw(tmp_path / "sheet.png", [SheetRow("a", [(photo, "")])])[74 : 74 + 135, 198 : 198 + 180]
    assert (cell[:, :50] == MOUNT).all()
    assert cell[0, 90, 0] > 250


@pytest.mark.parametrize(
    "name",
    ["Nävus", "黒色腫", "\x1b[2J\n\r\t\0", "\ud800\udc80", "مِرْنان", "🙂" * 50, "<b>&amp;</b>", " ", "", "x" * 100_000],
)
def test_any_name_can_be_written(tmp_path: Path, photos: list[tuple[Path, str]], name: str) -> None:
    pixels = draw(tmp_path / "sheet.png", [SheetRow(name, photos[:1]), SheetRow("a", photos[:1])])
    assert pixels.shape[1] <= 1522 + 300 - 168


def test_a_long_name_ends_before_the_photos(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    pixels = draw(tmp_path / "sheet.png", [SheetRow("W" * 500, photos)])
    start = 22 + 300 + 8
    assert (pixels[74:, start - 8 : start] == 255).all()
    assert (pixels[74 : 74 + 135, start : start + 180] != 255).any()


@given(st.text(max_size=40))
@settings(max_examples=60)
def test_no_text_as_a_title_breaks_the_sheet(tmp_path_factory: pytest.TempPathFactory, title: str) -> None:
    folder = tmp_path_factory.mktemp("titled")
    row = SheetRow("a", [(write_image(folder / "1.png", 1), "")])
    assert picture_format(write_sheet(folder / "sheet.jpg", [row], title=title)) == "JPEG"


@pytest.mark.parametrize(
    ("lesions", "remarks"),
    [
        (["a", "a", "b"], ["3 images", "2 lesions"]),
        (["a", "", ""], ["3 images", "1 lesion and 2 unknown"]),
        ([""], ["1 image"]),
    ],
)
def test_counts_claim_no_lesion_that_nobody_named(lesions: list[str], remarks: list[str]) -> None:
    assert SheetRow("a", photos_of(*lesions)).remarks == remarks


def test_a_remark_stands_instead_of_the_counts() -> None:
    assert SheetRow("mel", photos_of("a"), "melanoma").remarks == ["melanoma"]


def test_pairs_stand_apart_in_the_order_that_was_given(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    same = [(path, "a") for path, _ in photos[:7]]
    plain, paired = (draw(tmp_path / "sheet.png", [SheetRow("a", photos[:7])], pairs=pairs) for pairs in (False, True))
    together = draw(tmp_path / "sheet.png", [SheetRow("a", same)], pairs=True)
    assert paired.shape[1] == plain.shape[1] + 12
    assert np.array_equal(paired[74 : 74 + 135, 198:], together[74 : 74 + 135, 198:])


def test_a_photo_that_cannot_be_read_is_named_and_no_sheet_is_left(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"must be readable, but .*bad\.jpg is not \(not an image\)"):
        write_sheet(tmp_path / "sheet.png", [SheetRow("a", [(tmp_path / "bad.jpg", "")])], title="")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


def test_a_sheet_never_takes_the_place_of_a_photo(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    photo = photos[8][0]
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for file in (photo, tmp_path / "link.png"):
        with pytest.raises(InputError, match="`--sheet` must not be one of the photos"):
            write_sheet(file, [SheetRow("a", photos)], title="")
    assert photo.read_bytes() == before


@pytest.mark.parametrize("count", [0, 401])
def test_no_class_and_too_many_are_refused(tmp_path: Path, photos: list[tuple[Path, str]], count: int) -> None:
    with pytest.raises(InputError, match=f"must have 1 to 400 classes, but got {count}"):
        write_sheet(tmp_path / "sheet.png", [SheetRow("a", photos)] * count, title="")


@pytest.mark.parametrize("name", ["sheet.txt", "sheet", "sheet.png.gif", ".png"])
def test_only_jpeg_and_png_are_drawn(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"`--sheet` must end in \.jpg or \.png, but got --sheet="):
        check_sheet(tmp_path / name)


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet.JPEG", "sheet.Png"])
def test_endings_may_be_of_any_case(tmp_path: Path, photos: list[tuple[Path, str]], name: str) -> None:
    check_sheet(tmp_path / name)
    expected = "PNG" if name.endswith("Png") else "JPEG"
    assert picture_format(write_sheet(tmp_path / name, [SheetRow("a", photos)], title="")) == expected


def test_a_sheet_in_a_missing_folder_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="`--sheet` must lie in an existing folder"):
        check_sheet(tmp_path / "gone" / "sheet.png")
    with pytest.raises(InputError, match=r"`--sheet` must be a file, but got .*, a folder"):
        check_sheet(tmp_path / "folder.png")


def test_a_sheet_where_nobody_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="`--sheet` must lie in a folder that can be written to"):
        check_sheet(tmp_path / "sheet.png")


def test_a_sheet_replaces_an_earlier_one_and_no_other_file(tmp_path: Path, photos: list[tuple[Path, str]]) -> None:
    for name in ("sheet.png", "sheet.jpg"):
        check_sheet(write_sheet(tmp_path / name, [SheetRow("a", photos)], title=""))
    (tmp_path / "notes.jpg").write_text("mine")
    Image.new("RGB", (9, 9)).save(tmp_path / "mine.png")
    for name in ("notes.jpg", "mine.png"):
        with pytest.raises(InputError, match=r"`--sheet` must be a new file or an earlier sheet, but got .*, another"):
            check_sheet(tmp_path / name)


def test_a_sheet_among_the_images_would_become_one(tmp_path: Path) -> None:
    (tmp_path / "images" / "nv").mkdir(parents=True)
    for file in (tmp_path / "images" / "sheet.png", tmp_path / "images" / "nv" / "sheet.png"):
        with pytest.raises(InputError, match=r"`--sheet` must lie outside .*/images, or it would become one"):
            check_sheet(file, [tmp_path / "images"])
    check_sheet(tmp_path / "sheet.png", [tmp_path / "images", tmp_path / "table.csv"])
