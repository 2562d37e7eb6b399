"""Which images belong together: lesions and patients as tables name them, joined where they share an image."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from core.tables import Table

PATIENTS = ("patient_id", "patient", "subject", "group", "case")
LESIONS = ("lesion_id", "lesion")


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
    patients = sum(not group.is_lesion for group in groups)
    return patients > 1 or (not patients and len(groups) > 1)


def connect(said: Mapping[str, Collection[Group]]) -> tuple[dict[str, str], list[str]]:
    """Joins lesions and patients that share an image, whichever tables say so: their photos must stay together.

    Args:
        said: By image, all lesions and patients that it is said to be of.

    Returns:
        The name of each image's group, that of the first patient or else the first lesion in it; and what was joined.
    """
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
    return names, [note] if joined else []
