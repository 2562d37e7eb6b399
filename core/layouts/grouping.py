"""Which images belong together: lesions and patients as tables name them, joined where they share an image."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from core.errors import few
from core.layouts.image_names import composed
from core.tables import Table

PATIENTS = ("patient_id", "patient", "subject", "group", "case")
LESIONS = ("lesion_id", "lesion")
_FLOAT = re.compile(r"(\d+)\.0")


def spelling_of_group(name: str) -> str:
    """What a lesion's or patient's name is once its spelling doesn't count; names that share it mean the same one.

    Programs such as pandas write whole numbers with ``.0`` where one of a column is unknown.

    >>> spelling_of_group("12.0"), spelling_of_group("Pat4")
    ('12', 'pat4')
    """
    whole = _FLOAT.fullmatch(name)
    return whole[1] if whole else composed(name).casefold()


class Group(NamedTuple):
    """A lesion or a patient; patients come first, and their names are those of their lesions, too."""

    is_lesion: bool
    name: str


def group_columns(table: Table, taken: Collection[str] = ()) -> tuple[str, str]:
    """The columns of patients and of lesions; empty where there is none.

    Args:
        table: The table.
        taken: Columns that mean something else, in lower case.
    """
    patient, lesion = (
        next((name for name in names if table.has(name) and name not in taken), "") for names in (PATIENTS, LESIONS)
    )
    return patient, lesion


def contradict(groups: Collection[Group]) -> bool:
    """Whether one table may not say all of this of one image: several patients, or several lesions of no patient."""
    different = {(group.is_lesion, spelling_of_group(group.name)) for group in groups}
    patients = sum(not is_lesion for is_lesion, _ in different)
    return patients > 1 or (not patients and len(different) > 1)


def connect(said: Mapping[str, Collection[Group]]) -> tuple[dict[str, str], list[str]]:
    """Joins lesions and patients that share an image, whichever tables say so: their photos must stay together.

    Args:
        said: By image, all lesions and patients that it is said to be of.

    Returns:
        The name of each image's group, that of the first patient or else the first lesion in it; and what was joined.
    """
    said, notes = _with_one_spelling(said)
    joined: dict[Group, Group] = {}  # a group → an earlier one that it is joined with

    def first(group: Group) -> Group:
        while group in joined:
            joined[group] = joined.get(joined[group], joined[group])  # or long chains would be walked again and again
            group = joined[group]
        return group

    for groups in said.values():
        if len(groups) > 1:
            firsts = sorted(set(map(first, groups)))
            joined.update(dict.fromkeys(firsts[1:], firsts[0]))
    of = {image: first(next(iter(groups))) for image, groups in said.items() if groups}
    patients = {group.name for group in of.values() if not group.is_lesion}
    names = {
        image: f"lesion {group.name}" if group.is_lesion and group.name in patients else group.name
        for image, group in of.items()
    }
    together = set(map(first, list(joined)))
    note = f"{len(joined) + len(together):,} lesions and patients that share images count as {len(together):,}"
    return names, [*notes, *([note] if joined else [])]


def _with_one_spelling(said: Mapping[str, Collection[Group]]) -> tuple[Mapping[str, Collection[Group]], list[str]]:
    """The same with one spelling, the first, for each lesion and patient; and what was joined."""
    spellings: defaultdict[tuple[bool, str], list[Group]] = defaultdict(list)
    for group in sorted({group for groups in said.values() for group in groups}):
        spellings[group.is_lesion, spelling_of_group(group.name)].append(group)
    several = [groups for groups in spellings.values() if len(groups) > 1]
    if not several:
        return said, []
    first = {group: groups[0] for groups in several for group in groups}
    told = few([" and ".join(group.name for group in groups) for groups in several])
    note = f"{len(first):,} names of lesions and patients are spellings of {len(several):,}: {told}"
    return {image: {first.get(group, group) for group in groups} for image, groups in said.items()}, [note]
