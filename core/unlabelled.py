"""Images that nobody has labelled, and which of them must not be learned from because they show sealed lesions.

A network that has seen a validation or test lesion without its label has still seen it. So an image is left out if it
shows what a held-out image of the study shows, by its bytes, its pixels, its id in the ISIC Archive or its lesion, and
so are all other images of that lesion.

Legend: N images.
"""

import hashlib
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
from core.layouts.group_tables import read_groups
from core.layouts.grouping import connect
from core.layouts.image_names import ImageNames, without_masks
from core.listing import list_folder
from core.manifest import Manifest
from core.merging import isic_id
from core.splits import Split, joined_groups

BoolArray = npt.NDArray[np.bool_]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlabelled:
    """Images without labels, each once.

    Attributes:
        files: Where they are (N,), absolute.
        sha256: Hash of each file's bytes, hexadecimal.
        phashes: Perceptual hash of each, as `core.inspection.ImageReport.phash`.
        groups: The lesion or patient of each, as a table beside the images names it; empty if none does.
    """

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    phashes: tuple[str, ...]
    groups: tuple[str, ...]

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
            files=tuple(_at(self.files, places)),
            sha256=tuple(_at(self.sha256, places)),
            phashes=tuple(_at(self.phashes, places)),
            groups=tuple(_at(self.groups, places)),
        )


def find_unlabelled(folder: Path) -> Unlabelled:
    """All images below a folder, whatever else is there; labels are not looked for.

    Tables with a column of images and one of lesions or patients are read, so that these stay together. Masks are
    passed over, and of files with equal bytes all but the first.

    Raises:
        InputError: There is no such folder, it holds no image, an image can't be read, or a table contradicts itself.
    """
    listing = list_folder(folder)
    images, _ = without_masks(listing.images)
    if not images:
        raise InputError(f"A folder of unlabelled images must hold some, but {folder} has none. Name another folder.")
    files = [listing.root / image for image in images]
    refuse_unreadable(files, among=len(files))
    said = read_groups(listing, ImageNames(listing.root, images))
    if said.faults:
        raise InputError(said.faults[0])
    group_of, _ = connect(said.of)
    reports = inspect_images(files)
    first = {report.sha256: place for place, report in reversed(list(enumerate(reports)))}
    places = sorted(first.values())
    return Unlabelled(
        files=tuple(files[place] for place in places),
        sha256=tuple(reports[place].sha256 for place in places),
        phashes=tuple(reports[place].phash for place in places),
        groups=tuple(group_of.get(images[place], "") for place in places),
    )


def held_out_rows(split: Split) -> npt.NDArray[np.int64]:
    """The rows of a split that nothing may learn from: validation, test, and what is left out for the sake of these."""
    return np.sort(np.concatenate([split.val, split.test, split.left_out]))


def leave_out(images: Unlabelled, manifest: Manifest, rows: npt.NDArray[np.int64]) -> tuple[Unlabelled, str]:
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
    alike_N = _shows_one_of(images, manifest, rows)
    ids = {name for row in rows.tolist() if (name := isic_id(manifest.paths[row]))}
    alike_N |= np.array([isic_id(str(file)) in ids for file in images.files])
    groups = {manifest.groups[row] for row in rows.tolist()}
    groups |= {group for group, alike in zip(images.groups, alike_N.tolist(), strict=True) if alike}
    barred_N = alike_N | np.array([bool(group) and group in groups for group in images.groups])
    if barred_N.all():
        raise InputError(
            f"Unlabelled images must show lesions that the study doesn't keep for validation and test, but all "
            f"{len(images):,} show one of them: {few([file.name for file in images.files])}. Name another folder."
        )
    told = (
        f"{counted(int(barred_N.sum()), 'image')} of {len(images):,} left out: they show lesions of the validation or "
        f"test part ({int(alike_N.sum()):,} the same photo, the others by their lesion)"
    )
    return images.only(~barred_N), told


def _shows_one_of(images: Unlabelled, manifest: Manifest, rows: npt.NDArray[np.int64]) -> BoolArray:
    """Which images show the same as one of some rows, by their bytes or pixels; bool (N,)."""
    # The rows first: of files with equal bytes each is paired with the first only.
    count = len(rows)
    pairs_P2 = find_pairs(
        files=[*(manifest.file(row) for row in rows.tolist()), *images.files],
        sha256=[*_at(manifest.sha256, rows.tolist()), *images.sha256],
        phashes=[*_at(manifest.phashes, rows.tolist()), *images.phashes],
        apart=np.repeat(np.array([0, 1], dtype=np.int64), [count, len(images)]),
    )
    alike_N = np.zeros(len(images), dtype=bool)
    alike_N[pairs_P2[:, 1] - count] = True
    return alike_N


def _at(column: Sequence[Value], places: Sequence[int]) -> list[Value]:
    return [column[place] for place in places]
