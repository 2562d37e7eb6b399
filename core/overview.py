"""What `python -m core.datasets` prints of an image set, and the contact sheet of its classes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core import cli
from core.cleaning import copies_of_one
from core.duplicates import find_pairs
from core.errors import InputError, few, one_line
from core.manifest import Manifest
from core.splits import Split, joined_groups, split_manifest
from core.survey import Survey

_LABEL = 13  # characters of the first column
_FEW_GROUPS = 10  # below so many lesions in a part, one of them moves a class's recall by more than 10 points


def describe(found: Survey, *, seed: int) -> tuple[str, ...]:
    """Prints what was found and returns what must be mended.

    Args:
        found: The images.
        seed: Draws train and val.
    """
    faults = list(found.faults)
    for line in _sets(found):
        cli.write(line)
    for note in found.notes:
        _fact("note", note)
    try:
        manifest = found.manifest()
        for name, fact in _facts(found, manifest):
            _fact(name, fact)
        split = split_manifest(manifest, seed=seed)
        cli.write()
        for line in _table(manifest, split):
            cli.write(line)
        for line in _warnings(manifest, split):
            _fact("warning", line)
    except InputError as error:
        if found.samples or not faults:  # else it is only what comes of them
            faults.append(str(error))
    for fault in faults:
        _fact("fault", fault)
    return tuple(faults)


def draw_sheet(found: Survey, file: Path) -> None:
    """Draws the contact sheet of all classes."""
    from core.sheet import SheetRow, write_sheet

    photos: dict[str, list[tuple[Path, str]]] = {label: [] for label in sorted({s.label for s in found.samples})}
    for sample in found.samples:
        photos[sample.label].append((found.file(sample), sample.group or sample.path))
    if not photos:
        raise InputError(f"`--sheet` must have images to show, but none in {found.where} can be used. Mend them first.")
    write_sheet(file, [SheetRow(label, images) for label, images in photos.items()], title=found.where)
    _fact("sheet", str(file))


def _fact(name: str, fact: str) -> None:
    cli.write(f"{name:<{_LABEL}}{one_line(fact)}")


def _sets(found: Survey) -> Iterator[str]:
    """What each place is, and by what it was recognised."""
    for part in found.sets:
        yield f"{'folder':<{_LABEL}}{one_line(str(part.root))}"
        if part.demo:
            yield f"{'':<{_LABEL}}DEMO: the built-in procedural images"
        yield f"{'layout':<{_LABEL}}{part.found.layout}, because {one_line(part.found.reason)}"
        roles = Counter(row.split or "no part" for row in part.found.rows)
        if set(roles) - {"no part"}:
            counts = ", ".join(f"{roles[role]:,} {role}" for role in ("train", "val", "test", "no part") if roles[role])
            yield f"{'official':<{_LABEL}}{counts}"


def _facts(found: Survey, manifest: Manifest) -> Iterator[tuple[str, str]]:
    named = len({sample.group for sample in found.samples if sample.group})
    unnamed = sum(not sample.group for sample in found.samples)
    yield "images", f"{len(manifest):,} of {len(manifest.classes)} classes"
    if not manifest.grouped:
        yield "lesions", "not named: photos of the same lesion may be in two parts, which makes every recall too high"
    else:
        yield "lesions", f"{named:,}" + (f", and {unnamed:,} images whose lesion is unknown" if unnamed else "")
    sizes_G = np.bincount(joined_groups(manifest))
    fewer = len(set(manifest.groups)) - len(sizes_G)
    yield "groups", f"{len(sizes_G):,}, as near-duplicates join {fewer:,}; the largest has {sizes_G.max()} images"
    yield "duplicates", _duplicates(found)
    yield "look-alikes", _look_alikes(manifest)
    yield "fingerprint", manifest.fingerprint[:16]


def _duplicates(found: Survey) -> str:
    """Images with equal bytes, within and across lesions."""
    samples = found.samples
    same = copies_of_one(samples)
    across = [rows for rows in same if len({samples[row].group or samples[row].path for row in rows}) > 1]
    clashes = [rows for rows in same if len({samples[row].label for row in rows}) > 1]
    surplus = sum(len(rows) - 1 for rows in same)
    if not surplus:
        return "none with equal bytes"
    text = f"{surplus:,} with equal bytes, {sum(len(rows) - 1 for rows in across):,} of them across lesions"
    paths = few([samples[row].path for rows in clashes for row in rows])
    return text + (f"; of several classes: {paths}" if clashes else f": {few([samples[r[0]].path for r in same])}")


def _look_alikes(manifest: Manifest) -> str:
    """Near-duplicates, within and across lesions."""
    files = [manifest.file(row) for row in range(len(manifest))]
    groups_N = np.unique(np.array(manifest.groups), return_inverse=True)[1]
    within, across = (
        find_pairs(files=files, sha256=manifest.sha256, phashes=manifest.phashes, apart=groups_N, within=inside)
        for inside in (True, False)
    )
    text = f"{len(within):,} pairs within lesions, {len(across):,} across"
    names = [f"{manifest.paths[i]} and {manifest.paths[j]}" for i, j in across.tolist()]
    return text + (f", which count as one lesion: {few(names)}" if names else "")


def _warnings(manifest: Manifest, split: Split) -> Iterator[str]:
    """What makes the official or drawn parts a weak ground to judge on."""
    group_of_N = joined_groups(manifest)
    if len(split.left_out):
        yield f"{len(split.left_out):,} images are left out, as their lesions are in a stricter official part"
    for part in ("val", "test"):
        rows = getattr(split, part)
        labels, groups = manifest.labels[rows], group_of_N[rows]
        counts = {name: len(np.unique(groups[labels == c])) for c, name in enumerate(manifest.classes)}
        if rare := [f"{name} ({n})" for name, n in counts.items() if n < _FEW_GROUPS]:
            yield f"{part} has fewer than {_FEW_GROUPS} lesions of {few(rare)}: their recall there is a rough guess"


def _table(manifest: Manifest, split: Split) -> Iterator[str]:
    """Lines of fixed width: images and groups of each class, and its images in each part."""
    group_of_N = joined_groups(manifest)
    parts = {"train": split.train, "val": split.val, "test": split.test}
    names = [one_line(name) for name in manifest.classes]
    width = max(len("class"), *map(len, names))
    yield f"{'class':<{width}} {'images':>8} {'groups':>8}" + "".join(f" {part:>15}" for part in parts)
    chosen = [(name, manifest.labels == index) for index, name in enumerate(names)]
    for name, mask_N in [*chosen, ("all", np.ones(len(manifest), dtype=bool))]:
        total, groups = int(mask_N.sum()), len(np.unique(group_of_N[mask_N]))
        sizes = [int(mask_N[rows].sum()) for rows in parts.values()]
        cells = "".join(f" {f'{size:,} ({size / total:.1%})':>15}" for size in sizes)
        yield f"{name:<{width}} {total:>8,} {groups:>8,}{cells}"
