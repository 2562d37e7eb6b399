"""The formats of label tables that challenges and archives have, each recognised by its columns.

A format is a function from a `Table` to a `Reading`, or to None if the table is not of its kind.
"""

import re
from collections.abc import Callable, Sequence

from core.layouts.contract import known
from core.layouts.labels import Reading, find_wrong, read_lines
from core.layouts.one_hot import one_hot
from core.tables import Line, Table

Format = Callable[[Table], Reading | None]

_LEVEL = re.compile(r"diagnosis_(\d{1,2})", re.IGNORECASE)
_MOSTLY = 0.8  # of the rows must fill in a level of diagnosis, or too many images would have no class
_MALIGNANT = {"0": "benign", "0.0": "benign", "1": "malignant", "1.0": "malignant"}


def diagnoses(table: Table) -> Reading | None:
    """HAM10000, and the official test of ISIC 2018 as it comes with it: the columns `image_id` and `dx`."""
    if not table.has("image_id", "dx"):
        return None
    lines, faults = read_lines(table, ["image_id", "dx"])
    return Reading(
        layout="ham10000",
        image="image_id",
        columns=["dx"],
        lines=lines,
        labels=[line["dx"] for line in lines],
        optional=True,
        faults=faults,
    )


def isic_2020(table: Table) -> Reading | None:
    """ISIC 2020: benign or malignant by `target`, grouped by patient; its diagnoses are unknown for most images."""
    if not table.has("image_name", "patient_id", "target"):
        return None
    lines, faults = read_lines(table, ["image_name", "target"])
    labels = [_MALIGNANT.get(line["target"], "") for line in lines]
    faults += find_wrong(table, lines, list(map(bool, labels)), "must have 0 or 1 in `target`", "others")
    return Reading(
        layout="isic 2020", image="image_name", columns=["target"], lines=lines, labels=labels, faults=faults
    )


def isic_archive(table: Table) -> Reading | None:
    """What the ISIC Archive exports: `isic_id` beside diagnoses in levels of detail, of which one is taken."""
    levels = _levels(table)
    if not table.has("isic_id") or not levels:
        return None
    lines, faults = read_lines(table, ["isic_id", *levels])
    level, share = _finest(lines, levels)
    labels = [known(line[level]) for line in lines]
    kind = f"the finest diagnosis that at least {_MOSTLY:.0%} of the rows have" if share >= _MOSTLY else "the fullest"
    others = [other for other in levels if other != level]
    choice = f"; another is taken with --label-column {others[-1]}" if others else ""
    notes = [f"the label is {level} of {table.name}, {kind} ({share:.0%}){choice}"]
    if absent := labels.count(""):
        notes.append(f"{absent:,} of {len(lines):,} rows of {table.name} have no {level} and are left out")
    return Reading(
        layout="isic archive",
        image="isic_id",
        columns=[level],
        lines=lines,
        labels=labels,
        faults=faults,
        notes=notes,
    )


def _levels(table: Table) -> list[str]:
    """The columns of diagnoses, the finest first; older exports have one, and whether it is malignant."""
    numbered = {int(match[1]): column for column in table.columns if (match := _LEVEL.fullmatch(column))}
    older = [column for column in table.columns if column.lower() in ("diagnosis", "benign_malignant")]
    return [numbered[number] for number in sorted(numbered, reverse=True)] + sorted(older, key=str.lower, reverse=True)


def _finest(lines: Sequence[Line], levels: Sequence[str]) -> tuple[str, float]:
    """The finest level that tells classes apart and is mostly filled in; else the fullest; and how full it is."""
    values = {level: [line[level] for line in lines if known(line[level])] for level in levels}
    shares = {level: len(texts) / max(1, len(lines)) for level, texts in values.items()}
    telling = [level for level in levels if len(set(values[level])) > 1]
    chosen = next((level for level in telling if shares[level] >= _MOSTLY), None)
    chosen = chosen or max(telling or levels, key=shares.__getitem__)
    return chosen, shares[chosen]


FORMATS: tuple[Format, ...] = (diagnoses, isic_2020, isic_archive, one_hot)
