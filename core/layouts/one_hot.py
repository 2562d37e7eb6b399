"""One column for each class, a 1 in that of the image's own: ISIC 2018 Task 3, ISIC 2019 and others."""

from collections.abc import Sequence

from core.errors import InputError, few
from core.layouts.contract import LABELS, known
from core.layouts.labels import EXTRAS, Reading, find_wrong, read_lines
from core.tables import Line, Table

_NAMES = ("image", "image_id", "image_name", "isic_id", "filename", "file_name", "file", "path", "image_path")
_CODES = frozenset({"mel", "nv", "bcc", "akiec", "ak", "bkl", "df", "vasc", "scc", "unk"})
_UNKNOWN = "unk"
_ANYBODYS = "one-hot table"
_SAME = {"ak": "akiec"}  # ISIC 2019's name for what HAM10000 and ISIC 2018 call akiec
_ISIC_2018 = frozenset({"mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"})
_ISIC_2019 = frozenset({"mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc"})

_VALUES = dict.fromkeys(("1", "1.0", "1,0", "true"), True) | dict.fromkeys(("0", "0.0", "0,0", "false"), False)
_SAMPLE = 1_000  # lines by which a table is recognised
# Shares of the sample that must be one-hot. Columns of 0 and 1 may be findings of which an image has any number, and
# columns of the known codes may be somebody's predictions.
_MOST, _HALF = 0.9, 0.5


def one_hot(table: Table) -> Reading | None:
    """A column of image names; all others, but for weights, groups and splits, are 0 or 1, and one is 1 in each row."""
    image = next(filter(table.has, _NAMES), "")
    classes = _class_columns(table)
    layout = _layout(classes)
    if layout == _ANYBODYS and any(map(table.has, LABELS)):  # these say it, and the columns of 0 and 1 something else
        return None
    if not image or len(classes) < 2 or not _is_one_hot(table, classes):
        return None
    lines, faults = read_lines(table, [image, *classes])
    marked = [_marked(line, classes) for line in lines]
    rule = f"must have a single 1 in its {len(classes)} classes"
    faults += find_wrong(table, lines, list(map(bool, marked)), rule, "none or several")
    notes = []
    if unknown := [column for column in marked if column and not _class_name(column)]:
        name = unknown[0]
        notes.append(
            f"images that {table.name} labels {name}, which is none of its classes, are left out ({len(unknown):,})"
        )
    if renamed := [column for column in classes if column.lower() in _SAME]:
        notes.append(f"{few(renamed)} of {table.name} is called {_SAME[renamed[0].lower()]}, as in HAM10000")
    return Reading(
        layout=layout,
        official=layout != _ANYBODYS,
        image=image,
        columns=classes,
        lines=lines,
        labels=[_class_name(column) for column in marked],
        faults=faults,
        notes=notes,
    )


def _class_columns(table: Table) -> list[str]:
    """The columns that may be classes; an index that pandas wrote has no name, or ``Unnamed: 0`` once read again."""
    first = [column for place, column in enumerate(table.columns) if table.places[column.lower()] == place]
    passed_over = ("", *_NAMES, *EXTRAS)
    return [
        column for column in first if column.lower() not in passed_over and not column.lower().startswith("unnamed:")
    ]


def _is_one_hot(table: Table, classes: Sequence[str]) -> bool:
    codes = {column.lower() for column in classes} <= _CODES
    try:
        sample, _ = table.read(classes, most=_SAMPLE)
    except InputError:
        return codes
    right = sum(bool(_marked(line, classes)) for line in sample)
    return right >= len(sample) * (_HALF if codes else _MOST) and (codes or right > 0)


def _marked(line: Line, classes: Sequence[str]) -> str:
    """The one class that has a 1 where all others have 0; empty if it isn't so."""
    values = [_VALUES.get(line[column].lower()) for column in classes]
    return classes[values.index(True)] if values.count(True) == 1 and None not in values else ""


def _class_name(column: str) -> str:
    """What a class is called: ISIC's codes as HAM10000 writes them, others as they stand; empty if it is none."""
    code = column.lower()
    if code == _UNKNOWN:
        return ""
    return _SAME.get(code, code) if code in _CODES else known(column)


def _layout(classes: Sequence[str]) -> str:
    codes = frozenset(column.lower() for column in classes)
    if codes == _ISIC_2018:
        return "isic 2018 task 3"
    return "isic 2019" if codes - {_UNKNOWN} == _ISIC_2019 else _ANYBODYS
