"""Several image sets as one: an image that is in two of them counts once.

ISIC 2019 contains HAM10000, and an image that is in training by one set and in the test by the other would make any
recall a lie. Copies are found by the ISIC archive's own ids, which are unique across all its sets, by their bytes, and
by what they show. Of 1,252 images of HAM10000 all were found again at JPEG quality 60, at half the size, and squeezed
into squares of 64 and of 28 pixels as in DermaMNIST; 4 or 5 further pairs were taken for copies, which are photos of
one lesion that look alike.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.duplicates import find_pairs
from core.layouts.contract import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from core.survey import Sample

_ISIC_ID = re.compile(r"ISIC_\d{7}")
_STRICTNESS = (TEST, VAL, TRAIN, "")  # of two roles of one image the stricter one holds


def merge(roots: Sequence[Path], samples: Sequence["Sample"]) -> tuple[list["Sample"], list[str]]:
    """Leaves out images that an earlier set has, too; what is known of the copies only, stays known.

    The image that stays takes over the stricter official role of its copies, and its lesion becomes one with theirs:
    else their other photos could be in another part than itself.

    Args:
        roots: The sets' folders.
        samples: Readable images of all sets, those of earlier sets first.

    Returns:
        The images that stay, and a sentence for each way in which copies were found, with the counts.
    """
    by_id = _first_of(samples, [_isic_id(sample) for sample in samples])
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
    return kept, notes


def _isic_id(sample: "Sample") -> str:
    match = _ISIC_ID.match(posixpath.basename(sample.path))
    return match[0] if match else ""


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
