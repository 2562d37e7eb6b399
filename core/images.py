"""The one way from a file to pixels: for training, prediction and export alike. No torch here.

Safe to call from several threads and processes at once.
"""

import os
import re
import stat
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from core.errors import InputError
from core.framing import Frame
from core.jpeg import count_scans

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})

# Pillow opens more formats, some by starting other programs (EPS runs Ghostscript); a data set needs none of those.
# "JPEG" covers MPO, which some phones write.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
# Largest image that is decoded, width x height: Pillow's own limit, which by default it only warns of at this size.
MAX_PIXELS = 89_478_485
# Longest side, as JPEG has it: scaling an image of 80,000,000 x 1 pixels takes more memory than there is.
_MAX_SIDE = 65_535
_MAX_BYTES = 1 << 30  # of a file; 16 bit a channel, uncompressed, `MAX_PIXELS` take 0.7 GB
_MAX_SCANS = 100  # of a JPEG, as libtiff has it; programs write 10
_BOMB = re.compile(r"\((\d+) pixels\)")  # in what Pillow says of one
_ORIENTATION = 0x0112  # EXIF tag, whose values 2 to 8 ask for these
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255, 255)

# An oddity in metadata that Pillow warns of doesn't concern the pixels, and 10,015 such lines would hide what does.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Too many pixels for us is refused by `decode` with the image's size; Pillow's own error still stops twice as many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(Exception):
    """A file is no image that we can decode; the message is the reason in a few words."""


def load_image(path: Path, frame: Frame) -> npt.NDArray[np.uint8]:
    """Decodes an image into a square of RGB pixels.

    The EXIF orientation is applied, transparency becomes white, 16 bit are scaled to 8, grey and CMYK become RGB; of a
    file with several frames the first counts. What the frame keeps is scaled with an antialiasing filter.

    Args:
        path: A JPEG, PNG, BMP, TIFF, WebP or GIF file.
        frame: What is kept of it.

    Returns:
        uint8 (size, size, 3), with the frame's size.

    Raises:
        InputError: The file cannot be read or decoded.
    """
    size = frame.size
    image = read_image(path, at_least=size)
    side = min(image.size)
    if frame.framing == "whole":
        kept = (0, 0, image.width, image.height)
    else:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        kept = (left, top, left + side, top + side)
    # HAMMING averages about one source area per pixel (BOX would alias at ratios below 2, BILINEAR blurs more); it has
    # no support for enlarging, where BICUBIC is the better one.
    resample = Image.Resampling.HAMMING if side >= size else Image.Resampling.BICUBIC
    square = image.resize((size, size), resample, box=kept)
    return np.asarray(square, dtype=np.uint8).copy()


def read_image(path: Path, *, at_least: int | None = None) -> Image.Image:
    """Decodes a whole file into upright RGB; `at_least` as for `decode`.

    Raises:
        InputError: The file cannot be read or decoded.
    """
    try:
        with open_image(path) as file:
            return decode(file, at_least=at_least)
    except (UnreadableImageError, OSError) as error:
        reason = (error.strerror or "cannot be read") if isinstance(error, OSError) else error
        sentence = f"An image must be readable, but {path} is not ({reason}). Replace it or leave it out."
        raise InputError(sentence) from error


def open_image(path: Path) -> BinaryIO:
    """Opens a file for `decode`.

    Raises:
        UnreadableImageError: It is no regular file, or far too long for an image.
        OSError: The file system can't open it.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise UnreadableImageError("not a regular file")  # opening a pipe waits for somebody to write into it
    if status.st_size > _MAX_BYTES:
        raise UnreadableImageError(f"{status.st_size >> 20:,} MB, more than {_MAX_BYTES >> 20:,}")
    return path.open("rb")


def decode(file: BinaryIO, *, at_least: int | None = None) -> Image.Image:
    """Decodes a whole file into upright RGB.

    Args:
        file: The file's bytes, opened for reading.
        at_least: The caller will shrink the image until its short side has this many pixels: a JPEG may then be decoded
            at a half, a quarter or an eighth of its size, as long as twice this many pixels are left for the filter
            (three times as fast at 2400x1800; the result differs by 0.1 to 0.8 grey levels on average). By default
            nothing is left out.

    Raises:
        UnreadableImageError: It cannot be decoded completely, has more than `MAX_PIXELS`, or was made to take for ever.
        OSError: The file system failed, not the image.
    """
    try:
        image = Image.open(file, formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        if max(image.size) > _MAX_SIDE:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels, more than {_MAX_SIDE:,} a side")
        if image.format in ("JPEG", "MPO"):
            _check_scans(file)
            if at_least is not None:
                image.draft(image.mode, (2 * at_least, 2 * at_least))
        image.load()
        return _to_rgb(_upright(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("empty file" if _is_empty(file) else "not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        counted = _BOMB.search(str(error))
        got = f"{int(counted[1]):,} pixels, " if counted else ""
        raise UnreadableImageError(f"{got}more than {MAX_PIXELS:,}") from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableImageError(_reason(error)) from error


def _check_scans(file: BinaryIO) -> None:
    file.seek(0)
    if (scans := count_scans(file.read())) > _MAX_SCANS:
        raise UnreadableImageError(f"{scans:,} scans, more than {_MAX_SCANS}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error, UserWarning):
        return image  # damaged metadata don't make the pixels wrong
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16 bit to white instead of scaling them; 257 maps 65,535 to 255 exactly.
        stored = np.asarray(image)
        if stored.min() < 0 or stored.max() > 65_535:
            raise UnreadableImageError("more than 16 bit a pixel")
        values = stored.astype(np.uint32)
        values += 128  # in place, as `MAX_PIXELS` take 0.4 GB
        values //= 257
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_empty(file: BinaryIO) -> bool:
    return file.seek(0, os.SEEK_END) == 0


def _reason(error: Exception) -> str:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError | struct.error):
        return "truncated"
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    return f"damaged ({type(error).__name__})"
