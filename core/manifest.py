"""What a labelled image set is, once its folder has been recognised: rows of path, label and group."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class Manifest:
    """The rows of an image set, in a fixed order.

    Attributes:
        roots: Absolute folders of the sets, in the order in which they were given; mostly one.
        layout: Names of the recognised layouts, such as ``ham10000``.
        paths: One name a row, sorted: the POSIX path relative to the root; with several roots the number of the
            root, counted from 1, and a slash before it.
        labels: int64 (N,), an index into `classes` a row.
        groups: One lesion or patient id a row; rows of one group never end in two splits.
        classes: Class names, sorted; their order is the order of every probability column.
        sha256: Hash of each file's bytes, hexadecimal.
        phashes: Perceptual hash of each image, hexadecimal; near-duplicates differ in few bits.
        splits: One official role a row, ``train``, ``val``, ``test`` or empty; no roles at all if there are none.
        grouped: False if the folder named no lesions, so that every image is its own group.
        demo: True for the built-in procedural images, whose results must never pass for clinical ones.
    """

    roots: tuple[Path, ...]
    layout: str
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    sha256: tuple[str, ...]
    phashes: tuple[str, ...]
    splits: tuple[str, ...] = ()
    grouped: bool = True
    demo: bool = False

    def __post_init__(self) -> None:
        lengths = {len(self.paths), len(self.labels), len(self.groups), len(self.sha256), len(self.phashes)}
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"
        assert len(self.splits) in (0, len(self.paths)), f"{len(self.splits)} official roles of {len(self.paths)} rows"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Images per class, int64 (C,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def file(self, row: int) -> Path:
        """The absolute path of one row's image."""
        if len(self.roots) == 1:
            return self.roots[0] / self.paths[row]
        number, path = self.paths[row].split("/", 1)
        return self.roots[int(number) - 1] / path

    @property
    def where(self) -> str:
        """The folders, for messages."""
        return " and ".join(map(str, self.roots))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the images show and how they are labelled and grouped, wherever the folder lies."""
        return self.fingerprint_of(range(len(self)))

    def fingerprint_of(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> str:
        """The fingerprint of some rows only, whatever their order."""
        lines = sorted(f"{self.sha256[i]} {self.classes[self.labels[i]]} {self.groups[i]}" for i in rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
