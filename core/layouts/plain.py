"""Any table with a column of images and a column of classes, named by the user or guessed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from core.errors import InputError, few
from core.layouts.contract import IMAGES, LABELS, Columns
from core.layouts.image_names import ImageNames
from core.layouts.labels import Reading, read_lines
from core.tables import Line, Table


def plain_table(path: str, table: Table, columns: Columns, images: ImageNames) -> Reading | None:
    """A table with a column of images and a column of classes.

    Args:
        path: Its path relative to the root.
        table: The table; it has all columns that the user named.
        columns: What the user named; the others are guessed.
        images: By which a column of images is recognised.

    Returns:
        None if a column cannot be guessed. Or if the table names no image and its column `id` is all that could, which
        may well number something else, such as the classes.
    """
    candidates, label = _guess(table, columns)
    if not candidates or not label:
        return None
    lines, faults = read_lines(table, list(filter(None, [*candidates, label, columns.group])))
    image, hits = _most_hits(path, lines, candidates, images)
    if not hits and not columns and candidates == ["id"] and not faults:
        return None
    return Reading(
        layout="plain table",
        image=image,
        columns=[label],
        lines=lines,
        labels=[line[label] for line in lines],
        official=False,
        optional=True,
        named=bool(columns.label),
        group=columns.group,
        faults=faults,
    )


def _guess(table: Table, columns: Columns) -> tuple[list[str], str]:
    """The columns that may name the images, and that of classes; as the user named them, else by their usual names."""
    named = {name.lower() for name in (columns.image, columns.label, columns.group) if name}
    images = [name for name in IMAGES if table.has(name) and name not in named]
    candidates = [columns.image] if columns.image else images
    named.update(candidates if len(candidates) == 1 else ())
    return candidates, columns.label or next((name for name in LABELS if table.has(name) and name not in named), "")


def _most_hits(path: str, lines: Iterable[Line], candidates: Sequence[str], images: ImageNames) -> tuple[str, int]:
    """The column whose values name the most images, and how many."""
    hits = dict.fromkeys(candidates, 0)
    for line in lines:
        for name in candidates:
            hits[name] += bool(line[name] and images.look_up(line[name], table=path))
    best = max(candidates, key=hits.__getitem__)
    return best, hits[best]


def refuse_columns(root: Path, tables: Sequence[Table], columns: Columns) -> InputError:
    """The error for columns that the user named and no table has, or beside which others cannot be guessed."""
    given = {f"--{kind}-column": name for kind, name in vars(columns).items() if name}
    there = few([f"{table.name} has {few(table.columns)}" for table in tables]) or "there is no table"
    asked = " and ".join(f"{flag} {name}" for flag, name in given.items())
    holders = [table for table in tables if table.has(*given.values())]
    if not holders:
        return InputError(
            f"`{next(iter(given))}` must be a column of a table below {root}, but got {asked}, and {there}. "
            "Name one of those columns; if another of several sets has it, write that one down with --fix and give the "
            "file."
        )
    guesses = zip(("--image-column", "--label-column"), _guess(holders[0], columns), strict=True)
    open_ = [flag for flag, guess in guesses if not guess]
    return InputError(
        f"`{open_[0]}` must be given where it cannot be guessed, but got {asked}, and {there}. "
        f"Add {' and '.join(open_)}."
    )
