import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core import images
from core.errors import InputError
from core.framing import Frame, Framing, stored_size
from core.images import UnreadableImageError, decode, load_image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def load(path: Path, size: int, framing: Framing = "centre") -> np.ndarray:
    return load_image(path, Frame(size, framing))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(image: Image.Image, name: str, **options: object) -> Path:
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


def halves(width: int, height: int) -> Image.Image:
    """Red above, green below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (0, height // 2, width, height))
    return image


@pytest.mark.parametrize(("image_size", "expected"), [(224, 258), (300, 345), (100, 115), (96, 111), (1, 2)])
def test_stored_size_is_115_percent_rounded_up(image_size: int, expected: int) -> None:
    assert stored_size(image_size) == expected


def test_the_square_around_the_centre_is_kept_with_its_proportions(save: Callable[..., Path]) -> None:
    image = Image.new("RGB", (60, 20), WHITE)
    image.paste(RED, (20, 0, 40, 20))

    pixels = load(save(image, "a.png"), 10)

    assert pixels.shape == (10, 10, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[:, 1:-1] == RED).all()  # the filter may look one pixel over the edge


def test_the_whole_is_squeezed_into_a_square(save: Callable[..., Path]) -> None:
    image = Image.new("RGB", (60, 20), WHITE)
    image.paste(RED, (0, 0, 30, 20))

    pixels = load(save(image, "a.png"), 10, "whole")

    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, :4] == RED).all()  # the filter may look one pixel over the edge
    assert (pixels[:, 6:] == WHITE).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(save: Callable[..., Path], orientation: int) -> None:
    upright = halves(32, 32)
    # what a camera stores: the inverse of what the tag asks for
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation

    for name in ("a.png", "a.tif"):
        pixels = load(save(stored, name, exif=exif), 32)
        assert np.array_equal(pixels, np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_becomes_white(save: Callable[..., Path], mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image = image.quantize() if mode == "P" else image.convert(mode)
    path = save(image, "a.tif" if mode == "PA" else "a.png")

    assert (load(path, 8) == 255).all()


def test_half_transparent_is_blended_with_white(save: Callable[..., Path]) -> None:
    pixels = load(save(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "a.png"), 8)

    assert (pixels == 127).all()


def test_a_transparent_colour_of_an_rgb_image_becomes_white(save: Callable[..., Path]) -> None:
    assert (load(save(Image.new("RGB", (8, 8), RED), "a.png", transparency=RED), 8) == 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_are_scaled_not_clipped(save: Callable[..., Path], name: str) -> None:
    ramp = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (256, 1))

    pixels = load(save(Image.fromarray(ramp), name), 256)

    assert np.array_equal(pixels[0, :, 0], np.arange(256))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", 77), ("1", 1), ("CMYK", (0, 255, 255, 0)), ("YCbCr", (76, 85, 255))]
)
def test_every_colour_mode_becomes_rgb(save: Callable[..., Path], mode: str, colour: object) -> None:
    image = Image.new(mode, (16, 16), colour)

    pixels = load(save(image, "a.tif"), 16)

    assert np.abs(pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_cmyk_jpeg_keeps_its_colour(save: Callable[..., Path]) -> None:
    pixels = load(save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.jpg", quality=95), 16)

    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize("name", ["a.gif", "a.mpo", "a.tif"])
def test_of_several_frames_the_first_counts(save: Callable[..., Path], name: str) -> None:
    path = save(Image.new("RGB", (8, 8), RED), name, save_all=True, append_images=[Image.new("RGB", (8, 8), GREEN)])

    assert np.abs(load(path, 8).astype(int) - RED).max() <= 2


def test_shrinking_averages_instead_of_picking(save: Callable[..., Path]) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255

    pixels = load(save(Image.fromarray(board.astype(np.uint8)), "a.png"), 16)

    assert np.abs(pixels[1:-1, 1:-1].astype(int) - 127).max() <= 8


def test_shrinking_a_jpeg_while_decoding_changes_hardly_anything(save: Callable[..., Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((800, 600), Image.Resampling.BICUBIC)
    jpeg = save(large, "a.jpg", quality=95, subsampling=0)
    with jpeg.open("rb") as file:
        png = save(decode(file), "a.png")

    difference = np.abs(load(jpeg, 64).astype(int) - load(png, 64))

    assert 0 < difference.mean() < 1.5


def test_the_array_is_ones_own(save: Callable[..., Path]) -> None:
    pixels = load(save(halves(8, 8), "a.png"), 8)

    pixels[:] = 0  # a view of Pillow's memory would refuse

    assert pixels.flags.owndata


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_truncated_file_is_refused(format_: str, share: float) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, format_)
    content = buffer.getvalue()

    with pytest.raises(UnreadableImageError, match=r"truncated|damaged|not an image"):
        decode(io.BytesIO(content[: int(len(content) * share)]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"not an image", "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an")],
)
def test_what_is_no_image_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"broken\.jpg is not \({reason}"):
        load(path, 8)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg is not \(No such file"):
        load(tmp_path / "gone.jpg", 8)


@pytest.mark.parametrize(
    "limit", [399, 150]
)  # for 400 pixels: Pillow warns above its limit and raises above twice of it
def test_more_pixels_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    with pytest.raises(UnreadableImageError, match=f"more than {limit}"):
        decode(buffer)


def test_floating_point_pixels_are_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="floating-point pixels"):
        load(save(Image.new("F", (8, 8)), "a.tif"), 8)
