"""Several image sets as one: an image that is in two of them counts once.

ISIC 2019 contains HAM10000, and an image that is in training by one set and in the test by the other would make any
recall a lie. Copies are found by the ISIC archive's own ids, which are unique across all its sets, by their bytes, and
by what they show. Of 1,252 images of HAM10000 all were found again at JPEG quality 60, at half the size, and squeezed
into squares of 64 and of 28 pixels as in DermaMNIST; 4 or 5 further pairs were taken for copies, which are photos of
one lesion that look alike.
"""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.duplicates import find_pairs
from core.errors import few
from core.layouts.contract import TEST, TRAIN, VAL
from core.layouts.grouping import Group, connect

if TYPE_CHECKING:
    from core.survey import Sample

_ISIC_ID = re.compile(r"ISIC_\d{7}(?!\d)", re.IGNORECASE)
# Lesions and patients of HAM10000, ISIC 2020, and the ISIC Archive; no other name means anything across sets.
_ARCHIVES_GROUP = re.compile(r"(HAM|BCN|MSK\d?|IL|IP)_\d{7}")
_STRICTNESS = (TEST, VAL, TRAIN, "")  # of two roles of one image the stricter one holds


def merge(roots: Sequence[Path], samples: Sequence["Sample"]) -> tuple[list["Sample"], list[str]]:
    """Leaves out images that an earlier set has, too; what is known of the copies only, stays known.

    The image that stays takes over the stricter official role of its copies, and its lesion becomes one with theirs:
    else their other photos could be in another part than itself. Lesion 7 of one set is not lesion 7 of another.

    Args:
        roots: The sets' folders.
        samples: Readable images of all sets, those of earlier sets first.

    Returns:
        The images that stay, and what was found: the copies with their counts, and classes of one set alone.
    """
    samples = _with_groups_of_their_sets(samples)
    by_id = _first_of(samples, [isic_id(sample.path) for sample in samples])
    by_bytes = _first_of(samples, [sample.report.sha256 for sample in samples])
    original = {copy: first for copy, (first, _) in ({**by_bytes, **by_id}).items()}
    by_look = _look_alikes(roots, samples, original)
    original |= by_look
    kept = take_over(samples, original)
    conflicts = [copy for copy in original if samples[copy].label != samples[_first(original, copy)].label]
    only_bytes = len(by_bytes.keys() - by_id.keys())
    counts = f"{len(by_id):,} by their ISIC id, {only_bytes:,} by their bytes, {len(by_look):,} by what they show"
    notes = [f"{len(original):,} images are in an earlier set, too, and count once ({counts})"]
    if conflicts:
        notes.append(f"{len(conflicts):,} of them have another label there; the earlier set's holds")
    return kept, notes + _classes_of_one(roots, samples)


def isic_id(path: str) -> str:
    """The ISIC Archive's id of an image, by which its file's name begins; empty if it has none."""
    match = _ISIC_ID.match(posixpath.basename(path))
    return match[0].upper() if match else ""


def join_same_ids(samples: Sequence["Sample"]) -> tuple[list["Sample"], list[str]]:
    """Joins the lesions of images that have one ISIC id, such as turned copies of it: they must stay together.

    Args:
        samples: The images of one set.

    Returns:
        The images with the names of their lesions, and a sentence with the counts. Images of which none has a lesion
        get none here, but one name in `names_of_groups`.
    """
    counts = Counter(isic_id(sample.path) for sample in samples)
    several = {name: count for name, count in counts.items() if name and count > 1}
    if not several:
        return list(samples), []
    groups: defaultdict[str, set[Group]] = defaultdict(set)
    for sample in samples:
        if sample.group:
            groups[_shared(sample, several)].add(Group(True, sample.group))
    name_of, _ = connect(groups)
    joined = [replace(sample, group=name_of.get(_shared(sample, several), "")) for sample in samples]
    note = f"{sum(several.values()):,} images have {len(several):,} ISIC ids; those of one id count as one lesion"
    return joined, [note]


def _shared(sample: "Sample", ids: Container[str]) -> str:
    """What a sample has in common with others if its ISIC id is one of these; else its path, which has a suffix."""
    name = isic_id(sample.path)
    return name if name in ids else sample.path


def names_of_groups(samples: Sequence["Sample"]) -> tuple[str, ...]:
    """The group of each image: its lesion; where none is named, one of its own, which its copies share.

    These are files of its ISIC id, or else of its bytes.
    """
    ids = Counter(isic_id(sample.path) for sample in samples if not sample.group)
    shared = {name for name, count in ids.items() if name and count > 1}
    return tuple(
        sample.group or f"image {name if (name := isic_id(sample.path)) in shared else sample.report.sha256[:16]}"
        for sample in samples
    )


def _with_groups_of_their_sets(samples: Sequence["Sample"]) -> list["Sample"]:
    """The images with the names of their groups made different from those of other sets: ``7`` becomes ``2/7``."""
    return [
        sample
        if not sample.group or _ARCHIVES_GROUP.fullmatch(sample.group)
        else replace(sample, group=f"{sample.set + 1}/{sample.group}")
        for sample in samples
    ]


def _classes_of_one(roots: Sequence[Path], samples: Sequence["Sample"]) -> list[str]:
    """A warning of the classes that only one of the sets has."""
    sets_of: defaultdict[str, set[int]] = defaultdict(set)
    for sample in samples:
        sets_of[sample.label].add(sample.set)
    alone = {
        number: sorted(label for label, sets in sets_of.items() if sets == {number}) for number in range(len(roots))
    }
    if not any(alone.values()):
        return []
    told = "; ".join(f"{few(labels)} of {roots[number]}" for number, labels in alone.items() if labels)
    return [
        f"classes that one set alone has: {told}; where two names mean one class, give it one name, as a model would "
        "learn to tell the sets apart"
    ]


def _first_of(samples: Sequence["Sample"], keys: Sequence[str]) -> dict[int, tuple[int, str]]:
    """For each image whose key an earlier set has: the first image with that key, and the key."""
    first: dict[str, int] = {}
    copies = {}
    for index, key in enumerate(keys):
        if not key:
            continue
        seen = first.setdefault(key, index)
        if samples[seen].set != samples[index].set:
            copies[index] = (seen, key)
    return copies


def _look_alikes(roots: Sequence[Path], samples: Sequence["Sample"], known: dict[int, int]) -> dict[int, int]:
    """For each further image that shows what one of an earlier set shows: that one."""
    rest = [index for index in range(len(samples)) if index not in known]
    pairs = find_pairs(
        files=[roots[samples[index].set] / samples[index].path for index in rest],
        sha256=[samples[index].report.sha256 for index in rest],
        phashes=[samples[index].report.phash for index in rest],
        apart=np.array([samples[index].set for index in rest], dtype=np.int64),
        squashed=True,
    )
    found: dict[int, int] = {}
    for i, j in pairs.tolist():  # the earlier set's row first, because samples are in the order of the sets
        found.setdefault(rest[j], rest[i])
    return found


def _first(original: dict[int, int], index: int) -> int:
    while index in original:
        index = original[index]
    return index


def take_over(samples: Sequence["Sample"], original: dict[int, int]) -> list["Sample"]:
    """The images that stay, with the roles of their copies and with lesions joined that share an image.

    Args:
        samples: All images.
        original: For each image that goes, one before it that it is a copy of, which may go, too.
    """
    copies = defaultdict(list)
    for copy in original:
        copies[_first(original, copy)].append(samples[copy])
    joined: dict[str, str] = {}  # lesion → an earlier name of the same

    def name_of(group: str) -> str:
        while group in joined:
            group = joined[group]
        return group

    kept = []
    for index, sample in enumerate(samples):
        if index in original:
            continue
        everyone = [sample, *copies[index]]
        groups = list(dict.fromkeys(name_of(one.group) for one in everyone if one.group))
        joined.update(dict.fromkeys(groups[1:], groups[0]) if groups else {})
        split = min((one.split for one in everyone), key=_STRICTNESS.index)
        kept.append(replace(sample, group=groups[0] if groups else "", split=split))
    return [replace(sample, group=name_of(sample.group)) for sample in kept]
