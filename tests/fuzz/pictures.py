"""The image reader: whatever the bytes, a report with a reason, and pixels where there is none."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.inspection import inspect_image
from tests.fixtures.hostile import gif_of_many_frames, jpeg_of_many_scans, tiff
from tests.fixtures.images import draw_image
from tests.fuzz.mutations import mutated, with_checksums
from tests.fuzz.target import Target, assert_one_sentence, no_hang, scratch

SIZE = 16
_TOKENS = (
    b"\xff\xd8\xff",
    b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00",
    b"\xff\xc2",
    b"\xff\xd9",
    b"\xff\xe1\x00\x10Exif\0\0II*\0\x08\0\0\0",
    b"Adobe\0\x64\0\0\0\0\2",
    b"\x89PNG\r\n\x1a\n",
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"iCCP",
    b"zTXt",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"GIF89a",
    b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
    b"II*\0",
    b"MM\0*",
    b"II+\0\x08\0\0\0",
    b"RIFF",
    b"WEBPVP8X",
    b"VP8L",
    b"ALPH",
    b"BM",
    b"MPF\0",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _originals() -> list[bytes]:
    image = draw_image(1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = image.convert("RGBA")
    alpha.putalpha(100)
    grey16 = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    frames = {"save_all": True, "append_images": [draw_image(2, (40, 30))]}
    return [
        _saved(image, "JPEG", exif=exif),
        _saved(image, "JPEG", progressive=True),
        _saved(image.convert("CMYK"), "JPEG"),
        _saved(image.convert("L"), "JPEG"),
        _saved(image, "MPO", **frames),
        _saved(image, "PNG", exif=exif),
        _saved(alpha, "PNG"),
        _saved(image.quantize(16), "PNG", transparency=3),
        _saved(grey16, "PNG"),
        _saved(image, "PNG", **frames),
        _saved(image, "GIF", **frames),
        _saved(image.quantize(4), "GIF", transparency=0),
        _saved(image, "TIFF", compression="raw", exif=exif),
        *(_saved(image, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        _saved(image.convert("1"), "TIFF", compression="group4"),
        _saved(grey16, "TIFF"),
        _saved(image.convert("F"), "TIFF"),
        _saved(image, "WEBP"),
        _saved(alpha, "WEBP", lossless=True),
        _saved(image, "WEBP", **frames),
        _saved(image, "BMP"),
        _saved(image.quantize(16), "BMP"),
        gif_of_many_frames(3),
        jpeg_of_many_scans(64, 64, 20),
        tiff(40, 30, compression=1, strip=bytes(1200)),
    ]


_INPUTS = mutated(_originals(), _TOKENS)


def check(content: bytes) -> None:
    """Gives bytes to both readers."""
    path = scratch("images") / "image.jpg"
    path.write_bytes(content)
    with no_hang():
        report = inspect_image(path)
    assert report.problem != "too large for this machine's memory", "a small file asked for gigabytes"
    if report.problem is None:
        assert report.width > 0 < report.height
        assert len(report.phash) == 32
    else:
        assert 0 < len(report.problem) < 200
        assert report.problem.isprintable()
    with no_hang():
        try:
            pixels = load_image(path, Frame(SIZE, "centre"))
        except InputError as error:
            assert_one_sentence(error)
        else:
            assert pixels.shape == (SIZE, SIZE, 3)
            assert pixels.dtype == np.uint8


TARGET = Target("images", 0.4, _INPUTS | _INPUTS.map(with_checksums) | st.binary(max_size=64), check)
