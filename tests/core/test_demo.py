import csv
import errno
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.demo import main, write_demo
from core.demo_layout import COLUMNS, MARKER, METADATA, PARTS
from core.demo_lesions import (
    CLASSES,
    HAM10000_COUNTS,
    MAX_PHOTOS,
    MIN_LESIONS,
    draw_traits,
    plan_lesions,
)
from core.errors import InputError

IMAGES = 60
SMALL = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "data", images=IMAGES, seed=3, workers=1, **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / METADATA).open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def test_layout_is_that_of_ham10000(demo: Path) -> None:
    rows = metadata(demo)
    assert (demo / METADATA).read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    assert {entry.name for entry in demo.iterdir()} == {METADATA, MARKER, *PARTS}
    parts = [sorted(file.stem for file in (demo / part).iterdir()) for part in PARTS]
    assert [len(part) for part in parts] == [IMAGES // 2, IMAGES // 2]
    assert parts[0] + parts[1] == sorted(row["image_id"] for row in rows)


def test_photos_are_colour_jpegs_of_the_size_asked_for(demo: Path) -> None:
    for file in demo.glob("*/*.jpg"):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 48))


def test_photos_of_one_lesion_agree_in_all_but_their_name(demo: Path) -> None:
    patients = {tuple(row[name] for name in COLUMNS if name != "image_id") for row in metadata(demo)}
    assert len(patients) == len({row["lesion_id"] for row in metadata(demo)})


def test_marker_tells_how_to_get_the_same_again(demo: Path) -> None:
    assert json.loads((demo / MARKER).read_text()) == {"version": 1, "seed": 3, "images": IMAGES, **SMALL}


def test_same_seed_gives_same_bytes_whatever_the_workers(demo: Path, tmp_path: Path) -> None:
    assert contents(write_demo(tmp_path / "again", images=IMAGES, seed=3, workers=2, **SMALL)) == contents(demo)


def test_another_seed_gives_other_photos(demo: Path, tmp_path: Path) -> None:
    other = contents(write_demo(tmp_path / "other", images=IMAGES, seed=4, workers=1, **SMALL))
    assert not set(other.values()) & set(contents(demo).values())


def test_a_whole_demo_is_kept(demo: Path) -> None:
    before = (demo / MARKER).stat().st_mtime_ns
    assert write_demo(demo, images=IMAGES, seed=3, **SMALL) == demo
    assert (demo / MARKER).stat().st_mtime_ns == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert len(metadata(write_demo(tmp_path, images=42, workers=1, width=40, height=32))) == 42


@pytest.mark.parametrize("change", [{"seed": 4}, {"images": 61}, {"width": 60}])
def test_a_demo_with_other_arguments_is_not_overwritten(demo: Path, change: dict[str, int]) -> None:
    arguments = {"images": IMAGES, "seed": 3, **SMALL, **change}
    with pytest.raises(InputError, match="`folder` must be absent or empty"):
        write_demo(demo, **arguments)


def test_a_users_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="`folder` must be absent or empty"):
        write_demo(tmp_path)
    assert contents(tmp_path) == {"holiday.jpg": b"mine"}


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="`folder` must lie in a folder"):
        write_demo(tmp_path / "file" / "demo", images=42, workers=1, **SMALL)


def test_a_broken_off_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = Image.Image.save

    def full_after_five(image: Image.Image, file: Path, **options: int) -> None:
        if len(saved) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(str(file))
        save(image, file, **options)

    monkeypatch.setattr(Image.Image, "save", full_after_five)
    with pytest.raises(OSError, match="No space left"):
        write_demo(tmp_path / "demo", images=42, workers=1, **SMALL)
    assert len(saved) == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 41}, "`images` must be at least 42"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"width": 31}, "`width` must be at least 32"),
        ({"height": 31}, "`height` must be at least 32"),
        ({"width": 10_001, "height": 10_001}, "`width` must be at most 10,000"),
        ({"width": 200, "height": 100}, "`width` must be at most 1.6 times `height`"),
        ({"workers": 0}, "`workers` must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_demo(tmp_path / "demo", **arguments)
    assert not list(tmp_path.iterdir())


@settings(max_examples=40, deadline=None)
@given(images=st.integers(42, 1200), seed=st.integers(0, 2**64))
def test_every_plan_has_enough_lesions_and_all_photos(images: int, seed: int) -> None:
    lesions = plan_lesions(images, seed)
    ids = [image_id for lesion in lesions for image_id in lesion.image_ids]
    assert len(ids) == len(set(ids)) == images
    assert all(1 <= len(lesion.image_ids) <= MAX_PHOTOS for lesion in lesions)
    per_class = Counter(lesion.dx for lesion in lesions)
    assert min(per_class[dx] for dx in CLASSES) >= MIN_LESIONS
    assert len({lesion.lesion_id for lesion in lesions}) == len(lesions)


def test_classes_have_the_shares_of_ham10000() -> None:
    photos: Counter[str] = Counter()
    for lesion in plan_lesions(10_015, seed=0):
        photos[lesion.dx] += len(lesion.image_ids)
    assert photos == HAM10000_COUNTS


def test_classes_overlap_in_every_trait_that_tells_melanomas_from_naevi() -> None:
    rng = np.random.default_rng(0)
    drawn = {dx: [draw_traits(dx, rng) for _ in range(300)] for dx in ("mel", "nv")}
    for name in ("asymmetric", "irregular", "variegated", "veil"):
        melanomas, naevi = (np.array([getattr(traits, name) for traits in drawn[dx]]) for dx in ("mel", "nv"))
        assert melanomas.mean() > naevi.mean() + 0.1
        assert np.quantile(naevi, 0.95) > np.quantile(melanomas, 0.25)


def test_a_lesion_is_recognised_in_its_other_photos(tmp_path: Path) -> None:
    """The leak that splitting by image would open: the nearest photo is often one of the same lesion."""
    folder = write_demo(tmp_path / "demo", images=150, seed=0, width=96, height=72)
    rows = metadata(folder)
    files = {file.stem: file for file in folder.glob("*/*.jpg")}
    features = np.array([_look(files[row["image_id"]]) for row in rows])
    lesions = np.array([row["lesion_id"] for row in rows])
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    others = lesions[:, None] == lesions[None]
    np.fill_diagonal(others, False)
    has_another = others.any(1)
    found = (lesions[distances.argmin(1)] == lesions)[has_another].mean()
    by_chance = (others.sum(1) / (len(rows) - 1))[has_another].mean()
    assert found > 0.15
    assert found > 5 * by_chance


def _look(file: Path) -> np.ndarray:
    """A photo without its device's cast, in the middle, at low resolution."""
    with Image.open(file) as image:
        pixels = np.asarray(image.crop((20, 8, 76, 64)).resize((8, 8), Image.Resampling.BOX), float)
    return ((pixels - pixels.mean((0, 1))) / pixels.std()).ravel()


def test_command_writes_folder_and_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, sheet = tmp_path / "demo", tmp_path / "sheet.jpg"
    assert (
        main([str(folder), "--images", "42", "--seed", "5", "--width", "90", "--height", "60", "--sheet", str(sheet)])
        == 0
    )
    with Image.open(next(folder.rglob("*.jpg"))) as photo:
        assert photo.size == (90, 60)
    assert len(metadata(folder)) == 42
    assert str(folder) in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert np.asarray(image.convert("L"))[200:, 300:].std() > 20


def test_command_refuses_a_sheet_that_is_no_picture_before_drawing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "demo"), "--images", "42", "--sheet", str(tmp_path / "sheet.txt")]) == 2
    assert "`--sheet` must end in .jpg or .png" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_refuses_too_few_images_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "demo"), "--images", "7"]) == 2
    assert "`images` must be at least 42" in capsys.readouterr().err
