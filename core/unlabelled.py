"""Images that nobody has labelled, and which of them must not be learned from because they show sealed lesions.

A network that has seen a validation or test lesion without its label has still seen it. So an image is left out if it
shows what a held-out image of the study shows, by its bytes, its pixels, its id in the ISIC Archive or its lesion, and
so is whatever shows in these ways what one shows that was left out.

Legend: N images.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.dataspec import NO_COLUMNS, Columns
from core.duplicates import find_pairs
from core.errors import InputError, counted, few
from core.inspection import inspect_images, refuse_unreadable
from core.kept_apart import refuse_known
from core.layouts.group_tables import read_groups
from core.layouts.grouping import connect, spelling_of_group
from core.layouts.image_names import ImageNames, without_masks
from core.listing import Listing, list_folder
from core.manifest import Manifest
from core.merging import isic_id
from core.splits import Split, joined_groups
from core.weights import Weights

BoolArray = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Value = TypeVar("Value")

# Others that are looked for at once: `find_pairs` compares a limited number of pairs that might be alike.
_AT_ONCE = 1000
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
        places: All files of the same bytes, absolute, `files` among them.
    """

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    phashes: tuple[str, ...]
    names: tuple[frozenset[str], ...]
    places: tuple[tuple[Path, ...], ...]

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
            places=_at(self.places, places),
        )


def check_folder(folder: Path, *, flag: str) -> None:
    """Refuses what is no folder of images, before any work is done for it.

    Args:
        folder: Where they should be.
        flag: What the user names it with.

    Raises:
        InputError: There is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"`{flag}` must be a folder of images, but got {flag} {folder}. Check the path.")


def find_unlabelled(folder: Path, *, flag: str, columns: Columns = NO_COLUMNS) -> Unlabelled:
    """All images below a folder, whatever else is there; labels are not looked for.

    Tables with a column of images and one of lesions or patients are read, so that these stay together. Masks are
    passed over, and of files with equal bytes all but the first; what is known of the others stays known.

    Args:
        folder: Where they are.
        flag: What the user names it with.
        columns: What the user calls the columns of tables.

    Raises:
        InputError: There is no such folder, it holds no image, an image can't be read, or a table contradicts itself.
    """
    check_folder(folder, flag=flag)
    listing = list_folder(folder)
    images, _ = without_masks(listing.images)
    if not images:
        raise InputError(f"`{flag}` must be a folder that holds images, but {folder} has none. Name another one.")
    files = [listing.root / image for image in images]
    refuse_unreadable(files, among=len(files))
    reports = dict(zip(images, inspect_images(files), strict=True))
    first: dict[str, str] = {}  # by hash
    originals = {image: first.setdefault(report.sha256, image) for image, report in reports.items()}
    names, faults = _read_names(listing, _OneOfCopies(listing.root, originals), columns)
    if faults:
        raise InputError(" ".join(faults))
    ids: defaultdict[str, set[str]] = defaultdict(set)
    places: defaultdict[str, list[Path]] = defaultdict(list)
    for image, original in originals.items():
        ids[original] |= {isic_id(image)} - {""}
        places[original].append(listing.root / image)
    kept = [image for _, image in sorted(first.items())]
    return Unlabelled(
        files=tuple(listing.root / image for image in kept),
        sha256=tuple(reports[image].sha256 for image in kept),
        phashes=tuple(reports[image].phash for image in kept),
        names=tuple(names.get(image, frozenset()) | ids[image] for image in kept),
        places=tuple(tuple(places[image]) for image in kept),
    )


class _OneOfCopies(ImageNames):
    """Images of which those with equal bytes count as the first of them, whichever a table names.

    Args:
        root: The folder, absolute.
        originals: By each image, the first one with the same bytes.
    """

    def __init__(self, root: Path, originals: Mapping[str, str]) -> None:
        super().__init__(root, originals)
        self._originals = originals

    def look_up(self, name: str, *, table: str = "", role: str = "") -> Sequence[str]:
        found = super().look_up(name, table=table, role=role)
        return list(dict.fromkeys(self._originals[image] for image in found))


def _read_names(listing: Listing, names: ImageNames, columns: Columns) -> tuple[dict[str, frozenset[str]], list[str]]:
    """All names by which tables call the lesion and the patient of an image, by the image; and what is wrong."""
    said = read_groups(listing, names, columns)
    joined, _ = connect(said.of)
    of_group: defaultdict[str, set[str]] = defaultdict(set)
    for image, group in joined.items():
        of_group[group] |= {each.name for each in said.of[image]}
    return {image: frozenset(of_group[group]) for image, group in joined.items()}, said.faults


def held_out_rows(split: Split) -> Rows:
    """The rows of a split that nothing may learn from: validation, test, and what is left out for the sake of these."""
    return np.sort(np.concatenate([split.val, split.test, split.left_out]))


def refuse_weights_that_know(
    weights: Weights,
    manifest: Manifest,
    rows: Rows,
    *,
    parts: str = "the validation and test part",
    way_out: str = "Pre-train with the study's data as --labelled and with its --seed, or give other weights.",
) -> None:
    """Makes sure that a pre-training, if these are the weights of one, has been kept apart from some rows.

    Args:
        weights: First weights.
        manifest: The labelled images of a study.
        rows: Those that nothing may learn from.
        parts: What they are, for people.
        way_out: A sentence on what to do else.

    Raises:
        InputError: It hasn't.
    """
    sha256, names = _at(manifest.sha256, rows.tolist()), _at(manifest.paths, rows.tolist())
    refuse_known(weights.apart, origin=weights.origin, sha256=sha256, names=names, parts=parts, way_out=way_out)


def leave_out(
    images: Unlabelled, manifest: Manifest, rows: Rows, columns: Columns = NO_COLUMNS
) -> tuple[Unlabelled, str]:
    """The images that show no lesion of some rows.

    Args:
        images: Unlabelled ones, which may be the manifest's own or others.
        manifest: The labelled images of a study.
        rows: Those that nothing may learn from; all other rows of their lesions are kept away too.
        columns: What the user calls the columns of the study's tables.

    Returns:
        What is left, and a sentence on what is not.

    Raises:
        InputError: Nothing is left, or an image can't be read any more.
    """
    joined_N = joined_groups(manifest)
    rows = np.flatnonzero(np.isin(joined_N, joined_N[rows]))
    said = _said_by_study(images, manifest, columns)
    known = _with_names(images, said)
    barred_N = copies_N = _shows_one_of(known, _of_rows(manifest, rows, said))
    new_N = barred_N
    while new_N.any():  # a copy of a photo of a sealed lesion shows it too
        new_N = _shows_one_of(known, known.only(new_N)) & ~barred_N
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


def rows_apart(images: Unlabelled, manifest: Manifest, columns: Columns = NO_COLUMNS) -> Rows:
    """The rows of lesions that none of some images shows, sorted; arguments as for `leave_out`."""
    every, joined_N = np.arange(len(manifest)), joined_groups(manifest)
    said = _said_by_study(images, manifest, columns)
    shown_N = _shows_one_of(_of_rows(manifest, every, said), _with_names(images, said))
    return every[~np.isin(joined_N, joined_N[shown_N])]


def _said_by_study(images: Unlabelled, manifest: Manifest, columns: Columns) -> dict[str, frozenset[str]]:
    """What the study's tables call the lesion and the patient of its images and of others, by the real path.

    A manifest has one name for each lesion, that of its patient if there is one; tables may say more, also of images
    that nobody has labelled. Of those that don't lie below the study's folders they speak by names that only one has.
    """
    said: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
    # By their own names, though: links may lead to files that are called by a hash.
    places = {place: Path(os.path.realpath(place)) for several in images.places for place in several}
    for root in filter(Path.is_dir, manifest.roots):
        listings = [list_folder(root)]
        top, real_root = Path(root.anchor), os.path.realpath(root)
        elsewhere = [
            place.relative_to(top).as_posix() for place, real in places.items() if not real.is_relative_to(real_root)
        ]
        if elsewhere:
            # Read from the top, so that a table may also say by a path where they are.
            tables = tuple((root / table).relative_to(top).as_posix() for table in listings[0].tables)
            listings.append(Listing(top, images=tuple(elsewhere), tables=tables))
        for listing in listings:
            # What is wrong has been told before.
            names, _ = _read_names(listing, ImageNames(listing.root, listing.images), columns)
            for image, called in names.items():
                said[os.path.realpath(listing.root / image)] |= called
    return said


def _with_names(images: Unlabelled, said: Mapping[str, frozenset[str]]) -> Unlabelled:
    """Images with what is said of any of their files besides."""
    return replace(
        images,
        names=tuple(
            own.union(*(said.get(os.path.realpath(place), ()) for place in places))
            for own, places in zip(images.names, images.places, strict=True)
        ),
    )


def _of_rows(manifest: Manifest, rows: Rows, said: Mapping[str, frozenset[str]]) -> Unlabelled:
    """The images of some rows, as if nobody had labelled them, with what is said of them."""
    chosen = rows.tolist()
    files, groups = [manifest.file(row) for row in chosen], _at(manifest.groups, chosen)
    ids = [isic_id(path) for path in _at(manifest.paths, chosen)]
    own = [{group, _SET.sub("", group), name} - {""} for group, name in zip(groups, ids, strict=True)]
    rows_alone = Unlabelled(
        files=tuple(files),
        sha256=_at(manifest.sha256, chosen),
        phashes=_at(manifest.phashes, chosen),
        names=tuple(map(frozenset, own)),
        places=tuple((file,) for file in files),
    )
    return _with_names(rows_alone, said)


def _shows_one_of(images: Unlabelled, others: Unlabelled) -> BoolArray:
    """Which images show the same as one of some others, by bytes, pixels or names; bool (N,)."""
    names = set(map(spelling_of_group, frozenset().union(*others.names)))
    alike_N = np.array([not names.isdisjoint(map(spelling_of_group, own)) for own in images.names])
    for start in range(0, len(others), _AT_ONCE):
        count = len(others.files[start : start + _AT_ONCE])
        part = slice(start, start + count)
        # The others first: of files with equal bytes each is paired with the first only. Copies may be squeezed into a
        # square as they are or cut to one: both are looked for.
        for squashed in (False, True):
            pairs_P2 = find_pairs(
                files=[*others.files[part], *images.files],
                sha256=[*others.sha256[part], *images.sha256],
                phashes=[*others.phashes[part], *images.phashes],
                apart=np.repeat(np.array([0, 1], dtype=np.int64), [count, len(images)]),
                squashed=squashed,
            )
            alike_N[pairs_P2[:, 1] - count] = True
    return alike_N


def _at(column: Sequence[Value], places: Sequence[int]) -> tuple[Value, ...]:
    return tuple(column[place] for place in places)
