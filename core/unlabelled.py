"""Images that nobody has labelled, and which of them must not be learned from because they show sealed lesions.

A network that has seen a validation or test lesion without its label has still seen it. So an image is left out if it
shows what a held-out image of the study shows, by its bytes, its pixels, its id in the ISIC Archive or its lesion, and
so is whatever shows in these ways what one shows that was left out.

Legend: N images.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.duplicates import find_pairs
from core.errors import InputError, counted, few
from core.inspection import inspect_images, refuse_unreadable
from core.kept_apart import refuse_known
from core.layouts.group_tables import read_groups
from core.layouts.grouping import Group, connect
from core.layouts.image_index import stem_of
from core.layouts.image_names import ImageNames, without_masks
from core.listing import list_folder
from core.manifest import Manifest
from core.merging import isic_id
from core.splits import Split, joined_groups
from core.weights import Weights

BoolArray = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Value = TypeVar("Value")

_SET = re.compile(r"^\d+/")  # which of several --data a lesion's name is of; see `core.merging`


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlabelled:
    """Images without labels, each once.

    Attributes:
        files: Where they are (N,), absolute; in the order of their hashes, which is the same wherever they lie.
        sha256: Hash of each file's bytes, hexadecimal.
        phashes: Perceptual hash of each, as `core.inspection.ImageReport.phash`.
        names: What the lesion and the patient of each are called by tables beside the images, and the photo by the
            ISIC Archive. Images that share one belong together.
    """

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    phashes: tuple[str, ...]
    names: tuple[frozenset[str], ...]

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the images are, whatever their names and order, hexadecimal."""
        return hashlib.sha256("\n".join(sorted(self.sha256)).encode()).hexdigest()

    def only(self, mask_N: BoolArray) -> "Unlabelled":
        """Those of the mask, in their order."""
        places = np.flatnonzero(mask_N).tolist()
        return Unlabelled(
            files=_at(self.files, places),
            sha256=_at(self.sha256, places),
            phashes=_at(self.phashes, places),
            names=_at(self.names, places),
        )


def find_unlabelled(folder: Path, *, flag: str) -> Unlabelled:
    """All images below a folder, whatever else is there; labels are not looked for.

    Tables with a column of images and one of lesions or patients are read, so that these stay together. Masks are
    passed over, and of files with equal bytes all but the first; what is known of the others stays known.

    Args:
        folder: Where they are.
        flag: What the user names it with.

    Raises:
        InputError: There is no such folder, it holds no image, an image can't be read, or a table contradicts itself.
    """
    if not folder.is_dir():
        raise InputError(f"`{flag}` must be a folder of images, but got {flag} {folder}. Check the path.")
    listing = list_folder(folder)
    images, _ = without_masks(listing.images)
    if not images:
        raise InputError(f"`{flag}` must be a folder that holds images, but {folder} has none. Name another one.")
    files = [listing.root / image for image in images]
    refuse_unreadable(files, among=len(files))
    reports = inspect_images(files)
    first: dict[str, str] = {}  # by hash
    originals = {image: first.setdefault(report.sha256, image) for image, report in zip(images, reports, strict=True)}
    # Kaggle's HAM10000 holds each image twice under one name, by which a table means both.
    named = [image for image, of in originals.items() if image == of or stem_of(image) != stem_of(of)]
    said = read_groups(listing, ImageNames(listing.root, named))
    if said.faults:
        raise InputError(said.faults[0])
    groups: defaultdict[str, set[Group]] = defaultdict(set)
    for image, of in said.of.items():
        groups[originals[image]] |= of
    joined, _ = connect(groups)
    names: defaultdict[str, set[str]] = defaultdict(set)  # by what is joined
    for image, name in joined.items():
        names[name] |= {group.name for group in groups[image]}
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for image, original in originals.items():
        ids[original] |= {isic_id(image)} - {""}
    kept = sorted((digest, image) for digest, image in first.items())
    report_of = dict(zip(images, reports, strict=True))
    return Unlabelled(
        files=tuple(listing.root / image for _, image in kept),
        sha256=tuple(digest for digest, _ in kept),
        phashes=tuple(report_of[image].phash for _, image in kept),
        names=tuple(frozenset(ids[image] | names[joined.get(image, "")]) for _, image in kept),
    )


def held_out_rows(split: Split) -> Rows:
    """The rows of a split that nothing may learn from: validation, test, and what is left out for the sake of these."""
    return np.sort(np.concatenate([split.val, split.test, split.left_out]))


def refuse_weights_that_know(weights: Weights, manifest: Manifest, rows: Rows, *, parts: str) -> None:
    """Makes sure that a pre-training, if these are the weights of one, has been kept apart from some rows.

    Args:
        weights: First weights.
        manifest: The labelled images of a study.
        rows: Those that nothing may learn from.
        parts: What they are, for people.

    Raises:
        InputError: It hasn't.
    """
    sha256, names = _at(manifest.sha256, rows.tolist()), _at(manifest.paths, rows.tolist())
    refuse_known(weights.apart, origin=weights.origin, sha256=sha256, names=names, parts=parts)


def leave_out(images: Unlabelled, manifest: Manifest, rows: Rows) -> tuple[Unlabelled, str]:
    """The images that show no lesion of some rows.

    Args:
        images: Unlabelled ones, which may be the manifest's own or others.
        manifest: The labelled images of a study.
        rows: Those that nothing may learn from; all other rows of their lesions are kept away too.

    Returns:
        What is left, and a sentence on what is not.

    Raises:
        InputError: Nothing is left, or an image can't be read any more.
    """
    joined_N = joined_groups(manifest)
    rows = np.flatnonzero(np.isin(joined_N, joined_N[rows]))
    barred_N = copies_N = _shows_one_of(images, _of_rows(manifest, rows))
    new_N = barred_N
    while new_N.any():  # a copy of a photo of a sealed lesion shows it too
        new_N = _shows_one_of(images, images.only(new_N)) & ~barred_N
        barred_N = barred_N | new_N
    if barred_N.all():
        raise InputError(
            f"Unlabelled images must show lesions that the study doesn't keep for validation and test, but all "
            f"{len(images):,} show one of them: {few([file.name for file in images.files])}. Name another folder."
        )
    told = (
        f"{counted(int(barred_N.sum()), 'image')} of {len(images):,} left out: they show lesions of the validation or "
        f"test part ({int(copies_N.sum()):,} by their photo or its name, the others by what these show)"
    )
    return images.only(~barred_N), told


def _of_rows(manifest: Manifest, rows: Rows) -> Unlabelled:
    """The images of some rows, as if nobody had labelled them."""
    chosen = rows.tolist()
    groups = _at(manifest.groups, chosen)
    ids = [isic_id(path) for path in _at(manifest.paths, chosen)]
    return Unlabelled(
        files=tuple(manifest.file(row) for row in chosen),
        sha256=_at(manifest.sha256, chosen),
        phashes=_at(manifest.phashes, chosen),
        names=tuple(
            frozenset({group, _SET.sub("", group), name} - {""}) for group, name in zip(groups, ids, strict=True)
        ),
    )


def _shows_one_of(images: Unlabelled, others: Unlabelled) -> BoolArray:
    """Which images show the same as one of some others, by bytes, pixels or names; bool (N,)."""
    names = frozenset().union(*others.names)
    alike_N = np.array([not names.isdisjoint(own) for own in images.names])
    count = len(others)
    # The others first: of files with equal bytes each is paired with the first only. Copies may be squeezed into a
    # square as they are or cut to one: both are looked for.
    for squashed in (False, True):
        pairs_P2 = find_pairs(
            files=[*others.files, *images.files],
            sha256=[*others.sha256, *images.sha256],
            phashes=[*others.phashes, *images.phashes],
            apart=np.repeat(np.array([0, 1], dtype=np.int64), [count, len(images)]),
            squashed=squashed,
        )
        alike_N[pairs_P2[:, 1] - count] = True
    return alike_N


def _at(column: Sequence[Value], places: Sequence[int]) -> tuple[Value, ...]:
    return tuple(column[place] for place in places)
