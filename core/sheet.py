"""Contact sheets: one picture that shows some photos of every class, for people to look at before anything is trained.

sheet = SheetRow("melanoma", [(Path("a.jpg"), "lesion 1"), (Path("b.jpg"), "lesion 2")])
write_sheet(Path("sheet.png"), [sheet], title="my photos")
"""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, PngImagePlugin

from core.errors import InputError, counted
from core.files import written_aside
from core.images import read_image
from core.lettering import Lettering

COLUMNS = 7
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_REMARK = b"dermatune contact sheet"
_MOST_ROWS = 400  # a JPEG has at most 65,500 pixels a side
_THUMBNAIL = (180, 135)  # pixels; most dermoscopes take 4:3
_GAP, _MARGIN, _HEADING = 6, 22, 74
_NAMES = 168  # width of the column of names, at least; long names make it wider
_WIDEST_NAMES = 300
_SIZES = (24, 20, 17)  # of names; the largest in which the longest name fits its column
_SMALL, _TITLE, _CAPTION = 15, 24, 14
_PAPER, _MOUNT, _INK, _FAINT_INK = "#ffffff", "#eceff2", "#1f2328", "#6e7781"


@dataclass(frozen=True)
class SheetRow:
    """One class.

    Attributes:
        name: Its name.
        photos: All its photos, each with the name of its lesion; empty where nobody knows the lesion.
        remark: Stands below the name; by default how many photos and lesions there are.
    """

    name: str
    photos: Sequence[tuple[Path, str]]
    remark: str = ""

    @property
    def remarks(self) -> list[str]:
        """The lines below the name."""
        if self.remark:
            return [self.remark]
        named = {lesion for _, lesion in self.photos if lesion}
        unknown = sum(not lesion for _, lesion in self.photos)
        lesions = [counted(len(named), "lesion") + (f" and {unknown:,} unknown" if unknown else "")] if named else []
        return [counted(len(self.photos), "image"), *lesions]


def check_sheet(file: Path, folders: Iterable[Path] = ()) -> None:
    """Finds out before anything is drawn that `file` can't become a picture.

    Args:
        file: Where it shall be.
        folders: Folders of images, in which the sheet would pass for one of them.

    Raises:
        InputError: Its ending names no picture format, its folder doesn't exist or can't be written to, it would take
            the place of another picture or become one of the images.
    """
    if file.suffix.lower() not in _FORMATS:
        raise InputError(f"`--sheet` must end in .jpg or .png, but got --sheet={file}. Choose one of them.")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise InputError(f"`--sheet` must lie in an existing folder, but got --sheet={file}. Make the folder first.")
    if file.is_dir():
        raise InputError(f"`--sheet` must be a file, but got --sheet={file}, a folder. Name a file in it.")
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"`--sheet` must lie in a folder that can be written to, but got --sheet={file}. Choose another place."
        )
    for images in folders:
        if images.is_dir() and file.resolve().is_relative_to(images.resolve()):
            raise InputError(
                f"`--sheet` must lie outside {images}, or it would become one of the images, but got --sheet={file}. "
                "Choose another place."
            )
    if file.exists() and not _is_sheet(file):
        raise InputError(
            f"`--sheet` must be a new file or an earlier sheet, but got --sheet={file}, another file. Name a new one."
        )


def write_sheet(file: Path, rows: Sequence[SheetRow], *, title: str, pairs: bool = False) -> Path:
    """Draws one row a class: its name, its counts and up to seven photos, whole and in their proportions.

    The photos are spread evenly over the class's lesions, the same ones every time; no two neighbours are of one
    lesion.

    Args:
        file: The picture, as `check_sheet` wants it.
        rows: The classes, from top to bottom.
        title: Stands above them.
        pairs: The rows hold the very photos to be shown, seven at most, and the last two are of one lesion.

    Returns:
        `file`.

    Raises:
        InputError: There are no rows or too many, a photo can't be read, or the sheet would take a photo's place.
    """
    _check(file, rows)
    shown = [[path for path, _ in row.photos] if pairs else choose_photos(row.photos) for row in rows]
    layout = _Layout.of(rows, pairs=pairs)
    sheet = Image.new("RGB", layout.size(len(rows)), _PAPER)
    draw = Lettering(ImageDraw.Draw(sheet))
    draw.write((_MARGIN, 20), title, _TITLE, _INK, width=sheet.width - 2 * _MARGIN)
    if pairs:
        draw.write((layout.left(0), _HEADING - 20), f"{COLUMNS - 2} lesions", _CAPTION, _FAINT_INK)
        draw.write((layout.left(COLUMNS - 2), _HEADING - 20), "one lesion, two photos", _CAPTION, _FAINT_INK)
    for number, (row, photos) in enumerate(zip(rows, shown, strict=True)):
        top = _HEADING + number * (_THUMBNAIL[1] + _GAP)
        draw.write((_MARGIN, top + 44), row.name, layout.name_size, _INK, width=layout.names)
        for line, remark in enumerate(row.remarks):
            draw.write((_MARGIN, top + 76 + 20 * line), remark, _SMALL, _FAINT_INK, width=layout.names)
        for column, photo in enumerate(photos[:COLUMNS]):
            sheet.paste(_thumbnail(photo), (layout.left(column), top))
    drawn = io.BytesIO()  # Pillow itself passes over a full disk: the JPEG would be cut in silence
    said = PngImagePlugin.PngInfo()
    said.add_text("Comment", _REMARK.decode())
    sheet.save(drawn, _FORMATS[file.suffix.lower()], quality=86, comment=_REMARK, pnginfo=said)
    with written_aside(file) as aside:
        aside.write_bytes(drawn.getvalue())
    return file


def choose_photos(photos: Sequence[tuple[Path, str]], count: int = COLUMNS) -> list[Path]:
    """Photos of different lesions, spread evenly over all of them; second photos only where lesions are too few.

    Where even second photos would stand beside the first of the same lesion, there are fewer than `count`.

    >>> choose_photos([(Path("1"), "a"), (Path("2"), "a"), (Path("3"), "b")])[2:]
    [PosixPath('2')]
    """
    of_lesion: dict[tuple[str, int], list[Path]] = {}
    for number, (path, lesion) in enumerate(photos):
        of_lesion.setdefault((lesion, -1) if lesion else ("", number), []).append(path)
    lesions = list(of_lesion)
    if len(lesions) >= count:
        # the middles of `count` equal pieces, so that neither end is preferred
        return [of_lesion[lesions[(2 * place + 1) * len(lesions) // (2 * count)]][0] for place in range(count)]
    rounds = [
        (lesion, of_lesion[lesion][turn])
        for turn in range(max(map(len, of_lesion.values()), default=0))
        for lesion in lesions
        if turn < len(of_lesion[lesion])
    ]
    apart = next((place for place in range(1, len(rounds)) if rounds[place][0] == rounds[place - 1][0]), len(rounds))
    return [path for _, path in rounds[: min(apart, count)]]


@dataclass(frozen=True)
class _Layout:
    """Where things stand.

    Attributes:
        names: Width of the column of names, pixels.
        name_size: Size of the letters in it.
        pairs: Whether the last two columns stand apart.
    """

    names: int
    name_size: int
    pairs: bool

    @classmethod
    def of(cls, rows: Sequence[SheetRow], *, pairs: bool) -> "_Layout":
        remarks = max(Lettering.width(line, _SMALL) for row in rows for line in row.remarks)
        for size in _SIZES:
            longest = max(remarks, *(Lettering.width(row.name, size) for row in rows))
            if longest <= _NAMES:
                return cls(_NAMES, size, pairs)
        return cls(min(longest, _WIDEST_NAMES), _SIZES[-1], pairs)

    def left(self, column: int) -> int:
        """The left edge of a column of photos."""
        apart = 2 * _GAP if self.pairs and column >= COLUMNS - 2 else 0
        return _MARGIN + self.names + 8 + column * (_THUMBNAIL[0] + _GAP) + apart

    def size(self, rows: int) -> tuple[int, int]:
        """Width and height of the sheet."""
        return self.left(COLUMNS) + _MARGIN, _HEADING + rows * (_THUMBNAIL[1] + _GAP) + _MARGIN


def _check(file: Path, rows: Sequence[SheetRow]) -> None:
    if not 1 <= len(rows) <= _MOST_ROWS:
        raise InputError(
            f"A contact sheet must have 1 to {_MOST_ROWS} classes, but got {len(rows):,}. Leave out --sheet."
        )
    if file.exists() and any(path.exists() and file.samefile(path) for row in rows for path, _ in row.photos):
        raise InputError(f"`--sheet` must not be one of the photos, but got --sheet={file}. Name another file.")


def _is_sheet(file: Path) -> bool:
    """Whether a picture is one of ours, by the remark that `write_sheet` leaves in it."""
    try:
        with Image.open(file, formats=list(_FORMATS.values())) as image:
            return _REMARK in (image.info.get("comment"), str(image.info.get("Comment", "")).encode())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False


def _thumbnail(photo: Path) -> Image.Image:
    """The whole photo in the middle of its mount."""
    image = read_image(photo, at_least=_THUMBNAIL[1])
    scale = min(_THUMBNAIL[0] / image.width, _THUMBNAIL[1] / image.height)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    mount = Image.new("RGB", _THUMBNAIL, _MOUNT)
    mount.paste(
        image.resize(size, Image.Resampling.LANCZOS), ((_THUMBNAIL[0] - size[0]) // 2, (_THUMBNAIL[1] - size[1]) // 2)
    )
    return mount
