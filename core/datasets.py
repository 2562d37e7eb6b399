"""Recognises a folder of labelled images and checks every one of them: `python -m core.datasets FOLDER`."""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from core import cli
from core.demo_layout import MARKER
from core.errors import InputError
from core.manifest import Manifest

if TYPE_CHECKING:
    from core.splits import Split

_log = logging.getLogger(__name__)


def load_manifest(folder: Path) -> Manifest:
    """Recognises the layout of a folder and reads every image in it.

    The first time this takes about 2 ms an image and core; after that the findings are remembered.

    Raises:
        InputError: The folder is of no known layout, an image cannot be read, or there is only one class.
    """
    from core.inspection import inspect_images
    from core.layouts import list_folder, recognise

    listing = list_folder(folder)
    found = recognise(listing)
    rows = sorted(found.rows, key=lambda row: row.path)
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise InputError(f"The images must be of 2 classes or more, but all in {folder} are {classes[0]}. Add others.")
    paths = tuple(row.path for row in rows)
    reports = inspect_images([listing.root / path for path in paths])
    _refuse_unreadable({path: r.problem for path, r in zip(paths, reports, strict=True) if r.problem}, len(rows))
    if not found.grouped:
        _log.warning("%s names no lesions or patients: photos of the same one may be in two splits", folder)
    return Manifest(
        root=listing.root,
        layout=found.layout,
        paths=paths,
        labels=np.array([classes.index(row.label) for row in rows], dtype=np.int64),
        groups=tuple(row.group for row in rows),
        classes=tuple(classes),
        sha256=tuple(report.sha256 for report in reports),
        phashes=tuple(report.phash for report in reports),
        grouped=found.grouped,
        demo=(listing.root / MARKER).is_file(),
    )


def _refuse_unreadable(problems: dict[str, str], total: int) -> None:
    from core.layouts import few

    if problems:
        named = few([f"{path} ({problem})" for path, problem in problems.items()])
        raise InputError(
            f"Every image must be readable, but {len(problems):,} of {total:,} cannot be read: {named}. "
            "Replace them or remove them with their labels."
        )


def main(args: argparse.Namespace) -> int:
    """Prints what a folder holds and how it would be split."""
    from core.splits import joined_groups, split_manifest

    manifest = load_manifest(args.folder)
    split = split_manifest(manifest, seed=args.seed)
    group_of_N = joined_groups(manifest)
    sizes_G = np.bincount(group_of_N)
    named = len(set(manifest.groups))
    facts = {
        "folder": f"{manifest.root}{' (DEMO: the built-in procedural images)' if manifest.demo else ''}",
        "layout": manifest.layout,
        "images": f"{len(manifest):,} of {len(manifest.classes)} classes",
        "lesions": f"{named:,}" if manifest.grouped else "not named, so every image counts as one",
        "groups": f"{len(sizes_G):,} once near-duplicates are joined ({named - len(sizes_G):,} fewer than lesions); "
        f"the largest has {sizes_G.max()} images",
        "fingerprint": manifest.fingerprint[:16],
    }
    for name, fact in facts.items():
        cli.write(f"{name:<12} {fact}")
    cli.write()
    for line in _table(manifest, split, group_of_N):
        cli.write(line)
    return 0


def _table(manifest: Manifest, split: "Split", group_of_N: npt.NDArray[np.int64]) -> Iterator[str]:
    """Lines of fixed width: images and groups of each class, and its images in each part."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    width = max(len("class"), *map(len, manifest.classes))
    yield f"{'class':<{width}} {'images':>8} {'groups':>8}" + "".join(f" {part:>15}" for part in parts)
    chosen = {name: manifest.labels == index for index, name in enumerate(manifest.classes)}
    for name, mask_N in [*chosen.items(), ("all", np.ones(len(manifest), dtype=bool))]:
        total, groups = int(mask_N.sum()), len(np.unique(group_of_N[mask_N]))
        sizes = [int(mask_N[rows].sum()) for rows in parts.values()]
        cells = "".join(f" {f'{size:,} ({size / total:.1%})':>15}" for size in sizes)
        yield f"{name:<{width}} {total:>8,} {groups:>8,}{cells}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m core.datasets", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of labelled images")
    parser.add_argument("--seed", type=int, default=0, help="draws train and val; the test part never changes")
    sys.exit(cli.run(main, parser))
