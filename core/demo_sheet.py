"""The contact sheet of a demo folder: a row of lesions for each class."""

import csv
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from core.demo_layout import METADATA, PARTS
from core.errors import InputError

NAMES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "naevus",
    "vasc": "vascular lesion",
}
LESIONS = 5
THUMBNAIL = (180, 135)
GAP, MARGIN, TITLES, HEADING = 6, 22, 176, 74
PAPER, INK, FAINT_INK = "#ffffff", "#1f2328", "#6e7781"


def check_sheet(file: Path) -> None:
    """Finds out before anything is drawn that `file` can't become a picture.

    Raises:
        InputError: Its ending names no picture format, or its folder doesn't exist.
    """
    if file.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError(f"`--sheet` must end in .jpg or .png, but got --sheet={file}. Choose one of them.")
    if not file.absolute().parent.is_dir():
        raise InputError(f"`--sheet` must lie in an existing folder, but got --sheet={file}. Make the folder first.")


def write_sheet(folder: Path, file: Path) -> Path:
    """Draws one row a class: photos of several lesions, then two photos of one further lesion.

    Args:
        folder: Written by `core.demo.write_demo`.
        file: The picture, as `check_sheet` wants it.
    """
    columns = LESIONS + 2
    size = (
        MARGIN + TITLES + columns * (THUMBNAIL[0] + GAP) + 2 * GAP + MARGIN,
        HEADING + len(NAMES) * (THUMBNAIL[1] + GAP) + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 20), "Demo images: drawn by a program, not photos of people", INK, _font(24))
    draw.text((_left(0), HEADING - 20), f"{LESIONS} lesions", FAINT_INK, _font(14))
    draw.text((_left(LESIONS), HEADING - 20), "one lesion, two photos", FAINT_INK, _font(14))
    by_class = _photos(folder)
    for row, dx in enumerate(sorted(by_class)):
        top = HEADING + row * (THUMBNAIL[1] + GAP)
        draw.text((MARGIN, top + 44), dx, INK, _font(24))
        draw.text((MARGIN, top + 76), NAMES[dx], FAINT_INK, _font(15))
        for column, photo in enumerate(_chosen(by_class[dx])):
            sheet.paste(_thumbnail(photo), (_left(column), top))
    sheet.save(file, quality=86)
    return file


def _photos(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Photos by class and lesion, in the metadata's order."""
    by_class: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    files = {file.stem: file for part in PARTS for file in (folder / part).iterdir()}
    with (folder / METADATA).open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            by_class[row["dx"]][row["lesion_id"]].append(files[row["image_id"]])
    return by_class


def _chosen(lesions: dict[str, list[Path]]) -> list[Path]:
    """One photo each of the first lesions, then two of one that isn't among them, where there is such a one."""
    pairs = [name for name, photos in lesions.items() if len(photos) > 1]
    pair = pairs[-1] if pairs else None
    singles = [photos[0] for name, photos in lesions.items() if name != pair][:LESIONS]
    return singles + (lesions[pair][:2] if pair else [])


def _thumbnail(photo: Path) -> Image.Image:
    with Image.open(photo) as image:
        return image.convert("RGB").resize(THUMBNAIL, Image.Resampling.LANCZOS)


def _left(column: int) -> int:
    return MARGIN + TITLES + column * (THUMBNAIL[0] + GAP) + (2 * GAP if column >= LESIONS else 0)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
