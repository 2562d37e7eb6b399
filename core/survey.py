"""Everything that is found out about labelled images before they are used: what is there and all that is wrong.

`core.datasets.load_manifest` refuses faults; `python -m core.datasets` shows them, and its `--fix` leaves them out.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from core.dataspec import Columns, DataSpec
from core.demo_layout import MARKER
from core.errors import InputError, few
from core.images import SUFFIXES
from core.inspection import ImageReport, inspect_images
from core.layouts import recognise
from core.layouts.contract import Recognised, missing_images, unlabelled_images
from core.layouts.grouping import spelling_of_group
from core.listing import Listing, list_folder
from core.manifest import Manifest
from core.merging import join_same_ids, merge, names_of_groups


@dataclass(frozen=True)
class Sample:
    """A labelled image.

    Attributes:
        set: Which of the sets it is of, an index.
        path: POSIX path relative to the set's root.
        label: Its class.
        group: Its lesion or patient; empty if nothing names one.
        split: Its official role; empty if it has none.
        report: What its file turned out to be.
    """

    set: int
    path: str
    label: str
    group: str
    split: str
    report: ImageReport


@dataclass(frozen=True, kw_only=True)
class FoundSet:
    """What was found at one place.

    Attributes:
        root: The folder that the paths are relative to, absolute.
        found: Its layout and rows.
        sha256: What a cleaned manifest says of its files, by path; empty for all other layouts.
    """

    root: Path
    found: Recognised
    sha256: dict[str, str]

    @property
    def demo(self) -> bool:
        """Whether any of the images are built-in ones, wherever the manifest lies that names them."""
        folders = {parent for row in self.found.rows for parent in PurePosixPath(row.path).parents}
        return any((self.root / folder / MARKER).is_file() for folder in folders)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What all places hold together.

    Attributes:
        spec: What the user asked for.
        sets: What each place turned out to be.
        samples: The images that can be used, those of the first set first, by path.
        faults: A sentence for each kind of defect; the samples concerned are left out of `samples`, but for classes
            whose names nearly agree.
        notes: What was decided that a user would like to know, a sentence each.
    """

    spec: DataSpec
    sets: tuple[FoundSet, ...]
    samples: tuple[Sample, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def file(self, sample: Sample) -> Path:
        """The absolute path of an image."""
        return self.sets[sample.set].root / sample.path

    def manifest(self) -> Manifest:
        """The images as everything else takes them.

        Raises:
            InputError: They are not of two classes or more.
        """
        samples = self.samples
        classes = sorted({sample.label for sample in samples})
        if len(classes) < 2:
            found = f"all in {self.where} are {classes[0]}" if classes else f"no image in {self.where} can be used"
            raise InputError(f"The images must be of 2 classes or more, but {found}. Add others.")
        number = {label: index for index, label in enumerate(classes)}
        several = len(self.sets) > 1
        return Manifest(
            roots=tuple(part.root for part in self.sets),
            layout=" + ".join(part.found.layout for part in self.sets),
            paths=tuple(f"{sample.set + 1}/{sample.path}" if several else sample.path for sample in samples),
            labels=np.array([number[sample.label] for sample in samples], dtype=np.int64),
            groups=names_of_groups(samples),
            classes=tuple(classes),
            sha256=tuple(sample.report.sha256 for sample in samples),
            phashes=tuple(sample.report.phash for sample in samples),
            splits=tuple(sample.split for sample in samples) if any(sample.split for sample in samples) else (),
            grouped=any(sample.group for sample in samples),
            demo=any(part.demo for part in self.sets),
        )

    @property
    def where(self) -> str:
        """The folders, for messages."""
        return " and ".join(str(part.root) for part in self.sets)


def survey(spec: DataSpec) -> Survey:
    """Recognises every place and reads every image.

    The first time this takes about 2 ms an image and core; after that the findings are remembered.

    Raises:
        InputError: A place is absent, holds no images, or is of no known layout.
    """
    sets = tuple(_open(place, spec.columns) for place in spec.places)
    faults = [fault for part in sets for fault in (*part.found.faults, *missing_images(part.root, part.found))]
    notes = [note for part in sets for note in (*part.found.notes, *unlabelled_images(part.root, part.found))]
    read = [_read(index, part) for index, part in enumerate(sets)]
    samples = [sample for part in read for sample in part]
    faults += _unreadable(samples)
    usable = [sample for sample in samples if not sample.report.problem]
    faults += [fault for index, part in enumerate(sets) for fault in _changed(index, part, usable)]
    usable = [sample for sample in usable if _is_unchanged(sets[sample.set], sample)]
    of_sets = [join_same_ids([sample for sample in usable if sample.set == index]) for index in range(len(sets))]
    usable = [sample for samples, _ in of_sets for sample in samples]
    notes += [note for _, told in of_sets for note in told]
    if len(sets) > 1:
        usable, more = merge([part.root for part in sets], usable)
        notes += more
    faults += _alike(usable)
    return Survey(spec=spec, sets=sets, samples=tuple(usable), faults=tuple(faults), notes=tuple(notes))


def _open(place: Path, columns: Columns) -> FoundSet:
    """Finds out what one place is."""
    if not place.is_file():
        return _open_folder(list_folder(place), columns)
    if place.suffix.lower() == ".npz":
        return _open_arrays(place)
    from core.layouts.cleaned import is_cleaned, read_cleaned
    from core.tables import open_table

    if (table := open_table(place)) is None:
        raise InputError(
            f"`--data` must be a folder, a CSV or an npz file, but {place} is none of them. "
            "Unpack it if it is an archive, or give the folder of the images."
        )
    root = Path(os.path.abspath(place)).parent
    if is_cleaned(table):
        found, sha256 = read_cleaned(place)
        return FoundSet(root=root, found=found, sha256=sha256)
    return _open_folder(replace(list_folder(root), tables=(place.name,), arrays=()), columns, chosen=True)


def _open_arrays(file: Path) -> FoundSet:
    from core.arrays import unpack_arrays

    root, found = unpack_arrays(file)
    return FoundSet(root=root, found=found, sha256={})


def _open_folder(listing: Listing, columns: Columns, *, chosen: bool = False) -> FoundSet:
    if listing.images:
        return FoundSet(root=listing.root, found=recognise(listing, columns, chosen=chosen), sha256={})
    if len(listing.arrays) == 1:
        return _open_arrays(listing.root / listing.arrays[0])
    if listing.arrays:
        raise InputError(
            f"`--data` must be one set, but {listing.root} has {len(listing.arrays)}: {few(listing.arrays)}. "
            f"Give one of them: --data {listing.root / listing.arrays[0]}."
        )
    below = "Give the folder that holds both, the table and its images." if chosen else "Unpack its archives."
    raise InputError(
        f"`--data` must be a folder with images ({', '.join(sorted(SUFFIXES))}), but {listing.root} has none. {below}"
    )


def _read(index: int, part: FoundSet) -> list[Sample]:
    rows = sorted(part.found.rows, key=lambda row: row.path)
    reports = inspect_images([part.root / row.path for row in rows])
    return [
        Sample(index, row.path, row.label, row.group, row.split, report)
        for row, report in zip(rows, reports, strict=True)
    ]


def _unreadable(samples: Sequence[Sample]) -> list[str]:
    bad = [f"{sample.path} ({sample.report.problem})" for sample in samples if sample.report.problem]
    if not bad:
        return []
    return [
        f"Every image must be readable, but {len(bad):,} of {len(samples):,} cannot be read: {few(bad)}. "
        "Replace them or remove them with their labels."
    ]


def _is_unchanged(part: FoundSet, sample: Sample) -> bool:
    return not part.sha256 or part.sha256.get(sample.path) == sample.report.sha256


def _changed(index: int, part: FoundSet, samples: Iterable[Sample]) -> list[str]:
    mine = [sample for sample in samples if sample.set == index]
    changed = [sample.path for sample in mine if not _is_unchanged(part, sample)]
    if not changed:
        return []
    return [
        f"Images must be those that the cleaned manifest was written for, but {len(changed):,} of {len(mine):,} have "
        f"other bytes: {few(changed)}. Restore them, or write the manifest again with --fix."
    ]


def spelling(label: str) -> str:
    """What a class name is once case, spaces and the ``.0`` of a whole number don't count."""
    return spelling_of_group("".join(label.split()))


def _alike(samples: Iterable[Sample]) -> list[str]:
    """Class names that differ in spelling only: most likely one class, which nobody but the user can know."""
    counts = Counter(sample.label for sample in samples)
    spellings = defaultdict(list)
    for label in sorted(counts):
        spellings[spelling(label)].append(f"{label!r} ({counts[label]:,} images)")
    alike = [" and ".join(labels) for labels in spellings.values() if len(labels) > 1]
    if not alike:
        return []
    rule = "Class names must differ in more than case, spaces and a final .0"
    return [f"{rule}, but {few(alike)} do not. Rename all but one."]
