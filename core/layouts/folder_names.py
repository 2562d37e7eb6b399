"""What the names of folders tell: classes, or splits and containers of images of any class."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from core.errors import InputError, few
from core.layouts.contract import find_role, is_role, words_of

# Words in the names of folders that hold images of any class. A class may have one in its name.
_CONTAINER_WORDS = frozenset(
    "archive batch chunk data dataset file files fold folder image images img imgs input inputs part parts photo "
    "photos picture pictures set shard split bmp gif jpeg jpg png tif tiff webp".split()
)
# What else such names have in the sets that people download.
_SET_WORDS = frozenset("challenge ham isic task".split())
# Words in the names of folders below a class that are no classes, though every class may have those of equal names.
_GROUP_WORDS = frozenset("case id lesion patient person subject visit".split())
_MOST_CLASSES = 100  # more folders of equal names below every class are patients with photos of each


def are_containers(names: Collection[str]) -> bool:
    """Whether the folders of one level hold images of any class.

    Each has a word that says so, and what other words there are, tell none of them from another: ``ISIC_train_images``
    and ``ISIC_test_images``, but neither ``image of mel`` and ``image of nv`` nor ``patch test`` and ``naevus``.
    """
    if not all(find_role(name) or not _CONTAINER_WORDS.isdisjoint(words_of(name)) for name in names):
        return False
    return len({_rest(name) for name in names}) == 1


def _rest(name: str) -> tuple[str, ...]:
    """The words of a name that may tell a class; single letters count as numbers do."""
    words = [word for word in words_of(name) if len(word) > 1 and not is_role(word)]
    return tuple(word for word in words if word not in _CONTAINER_WORDS | _SET_WORDS)


def refuse_roles(classes: Collection[str]) -> None:
    """Refuses classes that are called like a split, or like a class and a split.

    Raises:
        InputError: There are some.
    """
    roles: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in classes:
        roles[_rest(name)].add(find_role(name))
    wrong = sorted(name for name in classes if find_role(name) and (not _rest(name) or len(roles[_rest(name)]) > 1))
    if wrong:
        beside = sorted({*classes} - {*wrong})
        raise InputError(
            f"No class may be called as a split is, but the folders of classes are {few([*wrong, *beside])}. Put each "
            "class into a folder of its own below train, val and test, or give a table of images and labels."
        )


def refuse_two_levels(folders: Iterable[Sequence[str]]) -> None:
    """Refuses folders in several classes that could be classes themselves.

    These are several names that the same classes hold and that have no numbers, as lesions and patients have; or the
    same names in every class, with numbers or without.

    Args:
        folders: Of each image its class and the folders below.

    Raises:
        InputError: There are some.
    """
    inner: defaultdict[str, set[str]] = defaultdict(set)
    for label, *below in folders:
        inner[label.strip()].update(name for name in below[:1] if _GROUP_WORDS.isdisjoint(words_of(name)))
    everywhere = set.intersection(*inner.values())
    same = len(inner) > 1 and all(names == everywhere for names in inner.values())
    if same and 1 < len(everywhere) <= _MOST_CLASSES:
        raise _two_levels(sorted(inner), sorted(everywhere))
    for labels, names in _shared(inner).items():
        if len(labels) > 1 and len(names) > 1:
            raise _two_levels(labels, names)


def _shared(inner: Mapping[str, Collection[str]]) -> dict[tuple[str, ...], list[str]]:
    """The names without numbers that lie in exactly these classes."""
    holders = defaultdict(set)
    for label, names in inner.items():
        for name in names:
            if not any(char.isdigit() for char in name):
                holders[name].add(label)
    shared = defaultdict(list)
    for name in sorted(holders):
        shared[tuple(sorted(holders[name]))].append(name)
    return shared


def _two_levels(labels: Sequence[str], names: Sequence[str]) -> InputError:
    return InputError(
        f"The folders of classes must be on one level, but {few(labels)} all hold {few(names)}. Name the outer "
        "folders train, val and test if they are splits, move the images into the outer folders, or give a table of "
        "images and labels."
    )
