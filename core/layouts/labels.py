"""What a table of labels says, line by line, and the rules that hold for all of them, whatever their format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.errors import InputError, few
from core.layouts.contract import find_role, known
from core.layouts.grouping import LESIONS, PATIENTS, Group, contradict, group_columns
from core.layouts.image_names import composed, folder_role, path_role
from core.tables import Line, Table

SPLIT = "split"
WEIGHTS = ("score_weight", "validation_weight")  # of ISIC's official tests: 0 for a row that counts for nothing
EXTRAS = (*PATIENTS, *LESIONS, SPLIT, *WEIGHTS)


@dataclass(slots=True)  # not frozen, which would make the 100,000 lines of a table twice as slow
class Labelled:
    """One line of a table, as far as it says something of an image.

    Attributes:
        name: What the table calls the image.
        label: Its class.
        groups: Its patient and its lesion, as far as they are known.
        split: Its official role by a column of the table; empty if that has none.
        weightless: It counts for nothing in the official score.
    """

    name: str
    label: str
    groups: tuple[Group, ...] = ()
    split: str = ""
    weightless: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a format makes of a table.

    Attributes:
        layout: The layout's name.
        image: The column that names the images.
        columns: The column of classes, or several with one class each.
        lines: Its lines.
        labels: The class of each line; empty for those that have none.
        official: It is what a challenge or an archive gives out, whose files' names tell official parts.
        optional: Images of lines without a class are unlabelled; else they are left out, with a sentence in `faults` or
            `notes`.
        named: The user named the column of classes, so that every word in it is a class, `none` as well.
        group: The column of groups if the user named it; else it is found out.
        faults: As in `core.layouts.contract.Recognised`.
        notes: Likewise.
    """

    layout: str
    image: str
    columns: Sequence[str]
    lines: Sequence[Line]
    labels: Sequence[str]
    official: bool = True
    optional: bool = False
    named: bool = False
    group: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """A table of labels whose lines have been checked on their own.

    Attributes:
        path: Where it is, relative to the root.
        layout: The layout's name.
        role: The official role that its path tells of all its lines; empty if none.
        reason: What it was recognised by.
        lines: What it says; an image's name stands in one line only.
        left_out: Names of images whose lines cannot be used.
        faults: As in `core.layouts.contract.Recognised`.
        notes: Likewise.
    """

    path: str
    layout: str
    role: str
    reason: str
    lines: list[Labelled]
    left_out: list[str]
    faults: list[str]
    notes: list[str]


def read_lines(table: Table, columns: Sequence[str]) -> tuple[list[Line], list[str]]:
    """Reads these columns and those that any table of labels may have; a broken file is a fault among the others."""
    try:
        lines, faults = table.read(list(dict.fromkeys([*columns, *filter(table.has, EXTRAS)])))
    except InputError as error:
        return [], [str(error)]
    for line in lines:
        line.values = tuple(map(composed, line.values))
    return lines, faults


def find_wrong(table: Table, lines: Sequence[Line], right: Sequence[bool], rule: str, others: str) -> list[str]:
    """A fault if lines break a rule.

    Args:
        table: Where they stand.
        lines: Its lines.
        right: Whether each obeys.
        rule: What each must do.
        others: What those have that break it.
    """
    wrong = [str(line.number) for line, obeys in zip(lines, right, strict=True) if not obeys]
    if not wrong:
        return []
    return [
        f"Every row of {table.name} {rule}, but {len(wrong):,} of {len(lines):,} have {others}: lines {few(wrong)}. "
        "Correct or remove them."
    ]


def check_lines(path: str, table: Table, reading: Reading) -> LabelTable:
    """Applies what holds for every format: names, roles and groups, and one line for each image.

    Args:
        path: The table's path relative to the root.
        table: The table.
        reading: What its format made of it.
    """
    lines = reading.lines
    named = [line[reading.image] for line in lines]
    unnamed = find_wrong(table, lines, list(map(bool, named)), f"must have `{reading.image}`", "none")
    faults = [*reading.faults, *unnamed]
    if not lines and not faults:
        faults.append(f"{table.name} must have rows, but it has a header only. Restore it.")
    roles, wrong, passed_over = _find_roles(table, reading)
    patient, lesion = (reading.group, "") if reading.group else group_columns(table, _taken(reading))
    groups = _find_groups(lines, patient, lesion)
    used = [reading.image, *reading.columns, *filter(None, [patient, lesion])]
    label_of = {label: label if reading.named else known(label) for label in set(reading.labels)}
    labels = [label_of[label] for label in reading.labels]
    said = [
        Labelled(name, label, of, role, weightless)
        for name, label, of, role, weightless in zip(
            named, labels, groups, roles, _find_weightless(table, lines), strict=True
        )
        if name and label and role is not None
    ]
    kept, contradictions, repeats = _one_each(table, said)
    passed = {line.name for line in kept}
    passed.update(name for name, label in zip(named, labels, strict=True) if reading.optional and not label)
    return LabelTable(
        path=path,
        layout=reading.layout,
        role=path_role(path) if reading.official else folder_role(path),
        reason=f"{table.name} has the columns {few([table.columns[table.places[name.lower()]] for name in used])}",
        lines=kept,
        left_out=[name for name in dict.fromkeys(named) if name not in passed],
        faults=[*faults, *wrong, *contradictions],
        notes=[*reading.notes, *_not_known(table, reading, label_of), *passed_over, *repeats],
    )


def _not_known(table: Table, reading: Reading, label_of: Mapping[str, str]) -> list[str]:
    """A note on words that stand for no class; where they do mean one, the user can say so."""
    unknown = [label for label in reading.labels if label and not label_of[label]]
    if not unknown or len(reading.columns) != 1:
        return []
    column = reading.columns[0]
    return [
        f"rows of {table.name} that say {few(sorted(set(unknown)))} in {column} are left out, as if nothing were known "
        f"({len(unknown):,}); with --label-column {column} that is a class"
    ]


def _find_roles(table: Table, reading: Reading) -> tuple[list[str | None], list[str], list[str]]:
    """The official role of each line by the column of splits, None for a word that tells none; faults; notes."""
    lines = reading.lines
    if not table.has(SPLIT) or SPLIT in _taken(reading):
        return [""] * len(lines), [], []
    words = [line[SPLIT] for line in lines]
    role_of = {word: find_role(word) for word in set(words)}
    strange = sorted(word for word, role in role_of.items() if word and not role)
    if not any(role_of.values()):  # folds of a cross-validation, say
        note = f"the column {SPLIT} of {table.name} names no train, val or test and is passed over ({few(strange)})"
        return [""] * len(lines), [], [note] if strange else []
    right = [not word or bool(role_of[word]) for word in words]
    faults = find_wrong(table, lines, right, f"must have train, val or test in `{SPLIT}`", f"others ({few(strange)})")
    return [role_of[word] if obeys else None for word, obeys in zip(words, right, strict=True)], faults, []


def _taken(reading: Reading) -> set[str]:
    """The columns that mean something else already, because the user named them."""
    return {reading.image.lower(), *(column.lower() for column in reading.columns)}


def _find_groups(lines: Sequence[Line], patient: str, lesion: str) -> list[tuple[Group, ...]]:
    """The patient and the lesion of each line, as far as they are known."""
    both = [(line[patient] if patient else "", line[lesion] if lesion else "") for line in lines]
    of = {pair: tuple(Group(bool(place), name) for place, name in enumerate(pair) if known(name)) for pair in set(both)}
    return [of[pair] for pair in both]


def _find_weightless(table: Table, lines: Sequence[Line]) -> list[bool]:
    weights = list(filter(table.has, WEIGHTS))
    if not weights:
        return [False] * len(lines)
    return [all(line[column] in ("0", "0.0") for column in weights) for line in lines]


def _one_each(table: Table, said: Sequence[Labelled]) -> tuple[list[Labelled], list[str], list[str]]:
    """One line for each image's name: those that are repeated once, those that contradict each other not at all."""
    first: dict[str, Labelled] = {}  # these take over the groups of later ones
    several: dict[str, dict[str, None]] = {"label": {}, "lesion or patient": {}, "split": {}}  # in the table's order
    repeated = 0
    for line in said:
        before = first.setdefault(line.name, line)
        if line is before:
            continue
        groups = before.groups if line.groups == before.groups else tuple(dict.fromkeys(before.groups + line.groups))
        if line.label != before.label:
            several["label"][line.name] = None
        elif contradict(groups):
            several["lesion or patient"][line.name] = None
        elif line.split != before.split:
            several["split"][line.name] = None
        else:
            before.groups = groups
            repeated += 1
    faults = [
        f"Every image must have one {what} in {table.name}, but {len(names):,} of {len(first):,} have several: "
        f"{few(names)}. Keep one row of each."
        for what, names in several.items()
        if names
    ]
    notes = [f"rows that {table.name} repeats count once ({repeated:,})"] if repeated else []
    contradicted = {name for names in several.values() for name in names}
    return [line for name, line in first.items() if name not in contradicted], faults, notes
