"""The contact sheet of a demo folder: photos of several lesions a class, then two photos of one further lesion."""

import csv
from collections import defaultdict
from pathlib import Path

from core.demo_layout import METADATA, PARTS
from core.sheet import COLUMNS, SheetRow, write_sheet

NAMES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "naevus",
    "vasc": "vascular lesion",
}


def write_demo_sheet(folder: Path, file: Path) -> Path:
    """Draws one row a class.

    Args:
        folder: Written by `core.demo.write_demo`.
        file: The picture, as `core.sheet.check_sheet` wants it.
    """
    rows = [SheetRow(dx, _chosen(lesions), NAMES[dx]) for dx, lesions in sorted(_photos(folder).items())]
    return write_sheet(file, rows, title="Demo images: drawn by a program, not photos of people", pairs=True)


def _photos(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Photos by class and lesion, in the metadata's order."""
    by_class: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    files = {file.stem: file for part in PARTS for file in (folder / part).iterdir()}
    with (folder / METADATA).open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            by_class[row["dx"]][row["lesion_id"]].append(files[row["image_id"]])
    return by_class


def _chosen(lesions: dict[str, list[Path]]) -> list[tuple[Path, str]]:
    """One photo each of the first lesions, then two of one that isn't among them, where there is such a one."""
    several = [name for name, photos in lesions.items() if len(photos) > 1]
    pair = several[-1] if several else None
    singles = [(photos[0], name) for name, photos in lesions.items() if name != pair][: COLUMNS - 2]
    return singles + ([(photo, pair) for photo in lesions[pair][:2]] if pair else [])
