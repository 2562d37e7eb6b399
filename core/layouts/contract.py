"""What every layout gives: labelled images, relative to a folder, and whatever is wrong with them.

A layout is a function from a `Listing` to a `Recognised`, or to None if the folder is not of its kind. It never stops
at the first fault: it leaves out what cannot be used and says so in `faults`, so that all of it is told at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.dataspec import Columns as Columns
from core.errors import few
from core.listing import Listing

TRAIN, VAL, TEST = "train", "val", "test"
# Usual names of columns: of images, by file name, path or id, and of classes.
IMAGES = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_id", "image_path", "image_name", "img", "img_id", "isic_id", "id"),
)
LABELS = ("label", "class", "diagnosis", "dx", "target", "category", "y", "diagnostic")
_ROLES = {
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing", "testset"), TEST),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
# What people and programs write where they know nothing: as a class these images would be one that is none, and as a
# lesion all of them would have to be in one part.
_UNKNOWN = frozenset({"", "-", "?", "na", "n/a", "nan", "nat", "none", "null", "unknown"})


@dataclass(frozen=True)
class Row:
    """One labelled image.

    Attributes:
        path: POSIX path relative to the listing's root.
        label: Its class as the data name it, without the spaces around it.
        group: Its lesion or patient; empty if nothing names one.
        split: Its official role, ``train``, ``val`` or ``test``; empty if it has none.
    """

    path: str
    label: str
    group: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A folder whose layout is known.

    Attributes:
        layout: The layout's name, such as ``ham10000``.
        reason: What it was recognised by, in words: ``"meta.csv has the columns lesion_id, image_id, dx"``.
        rows: The images that have a label and can be used, in any order; a path stands in one row only.
        missing: What has a label and no image, as the table names it.
        unlabelled: Images that have no label, relative to the root.
        faults: One sentence of our error form for each kind of defect that the user must mend. Rows concerned are left
            out of `rows`. Not for what is in `missing` and `unlabelled`.
        notes: What was decided silently otherwise, a sentence each: classes renamed, rows passed over by rule.
    """

    layout: str
    reason: str
    rows: list[Row]
    missing: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def missing_images(root: Path, found: Recognised) -> list[str]:
    """A fault if what has a label has no image."""
    if not found.missing:
        return []
    total = len(found.rows) + len(found.missing)
    return [
        f"Every labelled image must be below {root}, but {len(found.missing):,} of {total:,} have none: "
        f"{few(found.missing)}. Add the images or remove the rows."
    ]


def unlabelled_images(root: Path, found: Recognised) -> list[str]:
    """A note if images have no label."""
    images = found.unlabelled
    return [f"{len(images):,} images below {root} have no label and are left out: {few(images)}"] if images else []


Layout = Callable[[Listing, Columns], Recognised | None]


def known(text: str) -> str:
    """The text of a cell; empty if it says that nothing is known, such as ``nan``."""
    return "" if text.lower() in _UNKNOWN else text


def words_of(name: str) -> list[str]:
    """The words of a file's or folder's name, in lower case.

    >>> words_of("ISIC2018_Task3_Test_Input")
    ['isic', 'task', 'test', 'input']
    """
    return [word.lower() for word in _WORD.findall(name)]


def is_role(word: str) -> bool:
    """Whether a word, in lower case, tells an official role."""
    return word in _ROLES


def find_role(name: str) -> str:
    """The official role that the words of a file's or folder's name tell: ``ISIC2018_Task3_Test_Input`` → ``test``.

    Returns:
        ``train``, ``val`` or ``test``; empty if the name tells none, or more than one.

    >>> find_role("HAM10000_images_part_1"), find_role("ISIC_2019_Training_Input"), find_role("latest")
    ('', 'train', '')
    """
    roles = {_ROLES[word] for word in words_of(name) if word in _ROLES}
    return roles.pop() if len(roles) == 1 else ""
