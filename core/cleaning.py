"""`--fix`: what can be used of an image set, written as a manifest of its own; the images stay as they are."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core import cli
from core.cache import cache_folder
from core.errors import InputError, few
from core.layouts.cleaned import CleanedRow, write_cleaned
from core.merging import take_over
from core.splits import classes_that_do_not_split
from core.survey import Sample, Survey, spelling


def write_fixed(found: Survey, file: Path) -> None:
    """Writes the cleaned manifest and says what was left out.

    Left out are the images that the survey found faults with, all but one of images with equal bytes, all of those
    where such copies are of several classes, and classes that are too small to be split. Spellings of one class name
    become the most frequent one.

    Raises:
        InputError: The file cannot lie there, the images lie in the cache, or no two classes remain.
    """
    refuse_arrays(found)
    cleaned, changes = clean(found)
    rows = [
        CleanedRow(
            file=found.file(sample),
            label=sample.label,
            group=sample.group,
            split=sample.split,
            sha256=sample.report.sha256,
        )
        for sample in cleaned.samples
    ]
    write_cleaned(file, rows)
    cli.write()
    before = sum(len(part.found.rows) for part in found.sets)
    for change in changes:
        cli.write(f"fixed        {change}")
    cli.write(f"wrote        {file}: {len(rows):,} of {before:,} labelled images")
    cli.write(f"next         python -m search.run --arch mobilenet --trials 50 --data {file}")


def refuse_arrays(found: Survey) -> None:
    """Refuses to clean what lies in the cache.

    Raises:
        InputError: A set is of arrays.
    """
    arrays = cache_folder("arrays")
    places = zip(found.spec.places, found.sets, strict=True)
    if inside := [str(place) for place, part in places if arrays in part.root.parents]:
        raise InputError(
            f"`--fix` must be for image files, but {few(inside)} holds arrays, unpacked into the cache, which may "
            "be deleted at any time. Use it as it is."
        )


def clean(found: Survey) -> tuple[Survey, list[str]]:
    """What remains of a survey, and a sentence for each change beyond its faults and notes.

    Raises:
        InputError: No two classes remain.
    """
    changes = []
    samples, renamed = _one_spelling(found.samples)
    if renamed:
        changes.append(f"class names were unified: {few(renamed)}")
    contradicting = contradicting_copies(samples)
    if contradicting:
        paths = few([samples[index].path for index in contradicting])
        changes.append(f"{len(contradicting):,} images were left out, as their copies are of other classes: {paths}")
        samples = [sample for index, sample in enumerate(samples) if index not in set(contradicting)]
    copies = {copy: same[0] for same in copies_of_one(samples) for copy in same[1:]}
    if copies:
        changes.append(f"{len(copies):,} copies were left out: {few([samples[copy].path for copy in copies])}")
        samples = take_over(samples, copies)
    while small := classes_that_do_not_split(replace(found, samples=tuple(samples)).manifest()):
        changes.append(f"classes that are too small to be split were left out: {few(small)}")
        samples = [sample for sample in samples if sample.label not in small]
    return replace(found, samples=tuple(samples)), changes


def _one_spelling(samples: tuple[Sample, ...]) -> tuple[list[Sample], list[str]]:
    """The samples with one spelling for each class name, and the changes."""
    counts = Counter(sample.label for sample in samples)
    spellings = defaultdict(list)
    for label in sorted(counts):
        spellings[spelling(label)].append(label)
    best = {key: max(labels, key=lambda label: counts[label]) for key, labels in spellings.items()}
    renamed = [f"{label!r} → {best[spelling(label)]!r}" for label in sorted(counts) if label != best[spelling(label)]]
    return [replace(sample, label=best[spelling(sample.label)]) for sample in samples], renamed


def copies_of_one(samples: Sequence[Sample]) -> list[list[int]]:
    """The indices of samples with equal bytes, where there are several."""
    by_bytes = defaultdict(list)
    for index, sample in enumerate(samples):
        by_bytes[sample.report.sha256].append(index)
    return [same for same in by_bytes.values() if len(same) > 1]


def contradicting_copies(samples: Sequence[Sample]) -> list[int]:
    """The indices of samples with equal bytes and different classes."""
    return [
        index for same in copies_of_one(samples) if len({samples[each].label for each in same}) > 1 for index in same
    ]
