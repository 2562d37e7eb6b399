"""Text on pictures: any text, in fonts that are always there, cut to the room that it has."""

from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from core.errors import one_line

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LONGEST = 400  # characters; no picture of ours has room for more
_NO_CHARACTER = "\U0010ffff"  # no font draws it, so it shows how a font draws what it lacks


class Lettering:
    """Writes on a picture.

    Args:
        draw: The picture's.
    """

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def write(self, place: tuple[int, int], text: str, size: int, colour: str, *, width: int | None = None) -> None:
        """Writes one line; what is too long for `width` pixels ends in an ellipsis.

        Characters that no font has, and those that would not stay on a line, are written as escapes.
        """
        text, font = _legible(text, size)
        self._draw.text(place, text if width is None else _cut(text, font, width), colour, font)

    @staticmethod
    def width(text: str, size: int) -> int:
        """The pixels that a text takes."""
        text, font = _legible(text, size)
        return round(font.getlength(text) + 0.5)


def _legible(text: str, size: int) -> tuple[str, _Font]:
    """A text that can be drawn, and the font for it."""
    text = one_line(text[:_LONGEST])
    for font in (_plain(size), _broad(size)):
        if all(_has(font, char) for char in set(text)):
            return text, font
    return "".join(char if _has(font, char) else _escaped(char) for char in text), font


def _cut(text: str, font: _Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    length = next((n for n in range(len(text) - 1, 0, -1) if font.getlength(f"{text[:n].rstrip()}…") <= width), 0)
    return f"{text[:length].rstrip()}…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


@cache
def _plain(size: int) -> _Font:
    """Pillow's own font, which has ASCII and little else."""
    return ImageFont.load_default(size)


@cache
def _broad(size: int) -> _Font:
    """DejaVu Sans, which comes with matplotlib: all of Latin, Greek, Cyrillic, Arabic and Hebrew."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", round(0.9 * size))


@cache
def _has(font: _Font, char: str) -> bool:
    return char.isspace() or bytes(font.getmask(char)) != bytes(font.getmask(_NO_CHARACTER))
