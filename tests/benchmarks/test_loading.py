"""The loading benchmark runs, counts right and says so; its opponent gives the images that it should."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.ffcv_jpeg import read_jpeg
from benchmarks.loading import judge, some_of
from benchmarks.loading_turns import BARE, JPEG, PLAIN, RAW, RESIDENT, TURBO
from benchmarks.plain import PlainImages, normalise, plain_loader, random_transforms
from core.datasets import load_manifest
from core.demo import write_demo
from core.errors import InputError
from core.framing import Frame, Framing
from core.images import load_image
from core.manifest import Manifest

# Its successor, torchcodec, is one more package that a plain user would not have.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
COUNT, IMAGE_SIZE = 42, 48  # images: the fewest of the demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=COUNT, width=120, height=90, workers=1)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return load_manifest(folder)


@pytest.fixture(scope="module")
def files(manifest: Manifest) -> list[Path]:
    return [manifest.file(row) for row in range(COUNT)]


def row(name: str, *rates: float, augmented: bool = False) -> dict[str, Any]:
    return {"name": name, "augmented": augmented, "images_per_s": rates, "images_per_cpu_s": rates}


@pytest.mark.slow
def test_command_ends_with_the_ratio_and_every_contestant_gives_all_images(folder: Path, tmp_path: Path) -> None:
    from core.beton import HAVE_FFCV

    if not HAVE_FFCV:
        pytest.skip("ffcv cannot be imported here")
    out = tmp_path / "loading.json"
    options = ["--images", "30", "--image-size", str(IMAGE_SIZE), "--repeats", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "benchmarks.loading", "--data", str(folder), *options, "--out", str(out)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)

    assert done.returncode in (0, 1), done.stderr
    content = json.loads(out.read_text())
    assert done.stdout.splitlines()[-1] == f"ratio: {content['ratio']:.3g}"
    rows = [each for each in content["rows"] if "name" in each]
    bars = [each for each in content["rows"] if "bar" in each]
    assert done.returncode == (0 if all(bar["holds"] for bar in bars) else 1)
    assert {each["name"] for each in rows} >= {RAW, JPEG, RESIDENT, TURBO, BARE}
    for each in rows:
        assert each["images"] == 30
        assert len(each["images_per_s"]) == 2
        assert min(each["images_per_s"]) > 0
        assert each["peak_memory_gb"] > 0
    # The same field of the same images: what decoders and filters differ by is far less than any other crop would.
    means = [each["mean"] for each in rows if not each["augmented"] and each["name"] != TURBO]
    assert max(means) - min(means) < 2


def test_bars_compare_turns_of_one_repeat_with_the_best_plain_setting() -> None:
    rows = [
        row(RAW, 300, 900, 330),
        row(JPEG, 88, 90, 92),
        row(RESIDENT, 2000, 6000, 2300),
        row(f"{PLAIN}, 1 workers", 50, 50, 50),
        row(f"{PLAIN}, 2 workers", 100, 300, 100),
        row(BARE, 100, 100, 100),
        row(RAW, 1, 1, 1, augmented=True),
    ]

    raw, jpeg, resident = judge(rows)

    assert raw["bar"] == f"{RAW} / {PLAIN}, 2 workers"
    assert (raw["ratio"]["median"], raw["holds"]) == (3.0, True)
    assert (jpeg["ratio"]["median"], jpeg["holds"]) == (0.9, True)
    assert (resident["ratio"]["median"], resident["ratio"]["high"], resident["holds"]) == (20.0, 23.0, True)
    assert not judge([row(RESIDENT, 1999, 1999, 1999), *(each for each in rows if each["name"] != RESIDENT)])[-1][
        "holds"
    ]


@pytest.mark.parametrize("count", [1, 7, COUNT, COUNT + 1])
def test_some_images_are_that_many_different_rows_of_the_manifest(manifest: Manifest, count: int) -> None:
    some = some_of(manifest, count)

    assert len(set(some.paths)) == len(some) == min(count, COUNT)
    for row_of_some, path in enumerate(some.paths):
        original = manifest.paths.index(path)
        assert some.labels[row_of_some] == manifest.labels[original]
        assert some.sha256[row_of_some] == manifest.sha256[original]


def test_only_jpegs_that_ffcv_decodes_are_taken(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    Image.new("L", (8, 6)).save(tmp_path / "grey.jpg")

    with pytest.raises(InputError, match=r"must hold colour or grey JPEG files, but got .*a\.png \(PNG, RGB\)"):
        read_jpeg(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.jpg \(JPEG, CMYK\)"):
        read_jpeg(tmp_path / "a.jpg")
    assert read_jpeg(tmp_path / "grey.jpg")[1:] == (8, 6)


@pytest.mark.parametrize("framing", ["whole", "centre"])
def test_plain_images_show_the_field_that_ours_show(files: list[Path], manifest: Manifest, framing: Framing) -> None:
    images = PlainImages(files, manifest.labels.tolist(), image_size=IMAGE_SIZE, framing=framing)

    for index in range(0, COUNT, 9):
        image, label = images[index]
        ours = load_image(files[index], Frame(IMAGE_SIZE, framing))
        assert (image.dtype, image.shape, label) == (torch.uint8, (3, IMAGE_SIZE, IMAGE_SIZE), manifest.labels[index])
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - ours).mean() < 3


def test_plain_augmentation_keeps_shape_and_type_and_changes_between_calls(files: list[Path]) -> None:
    images = PlainImages(files, [0] * COUNT, image_size=IMAGE_SIZE, augment_strength=1.0)

    views = [images[0][0] for _ in range(3)]

    assert all((view.dtype, view.shape) == (torch.uint8, (3, IMAGE_SIZE, IMAGE_SIZE)) for view in views)
    assert not torch.equal(views[0], views[1]) or not torch.equal(views[1], views[2])


def test_reflected_skin_takes_the_place_of_black_corners() -> None:
    torch.manual_seed(0)
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    black = [
        sum((random_transforms(1.0, reflect=reflect)(white) == 0).float().mean().item() for _ in range(40)) / 40
        for reflect in (False, True)
    ]
    assert black[0] > 0.05
    assert black[1] < 0.005


def test_plain_loader_gives_every_image_once_and_drops_none(files: list[Path]) -> None:
    images = PlainImages(files, range(COUNT), image_size=IMAGE_SIZE)

    batches = list(plain_loader(images, batch_size=16, workers=0, shuffle=True))

    assert [len(pixels) for pixels, _ in batches] == [16, 16, 10]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(COUNT))


def test_normalised_batches_have_the_channels_mean_and_deviation_taken_out() -> None:
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)

    seen = normalise(images, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))

    assert seen[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert seen.is_contiguous(memory_format=torch.channels_last)
