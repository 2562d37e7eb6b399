"""The rows that an ensemble is judged on: validation, as the studies recorded it, and the sealed test split.

Shapes: M members, N examples, C classes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.dataspec import DataSpec
from core.errors import InputError
from core.manifest import Manifest
from ensemble.members import Member
from ensemble.studies import Study

# How messages speak of a part: what the study did with it, and what builds without its images.
_DID = {"val": "validated on", "test": "sealed"}
_WITHOUT = {"val": "with --views 1", "test": "with --no-test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of the split.

    Attributes:
        images: Paths relative to the data folder (N,).
        groups: Lesion of each (N,).
        labels: True class of each, int64 (N,).
        hashes: Hash of each one's bytes, hexadecimal (N,), where the images themselves were found.
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    hashes: tuple[str, ...] = ()


def read_part(study: Study, name: str) -> Part:
    """Reads one part (``train``, ``val`` or ``test``) from a study's `split.csv`.

    Raises:
        InputError: The file lacks rows or columns, or names a class that the study doesn't know.
    """
    number = {label: c for c, label in enumerate(study.info["data"]["classes"])}
    try:
        rows = [row for row in study.folder.read_split() if row["split"] == name]
        images, groups = tuple(row["image"] for row in rows), tuple(row["group"] for row in rows)
        labels = np.asarray([number[row["label"]] for row in rows], dtype=np.int64)
    except KeyError as error:
        raise _damaged(study, f"{error} is no class of the study") from error
    if not rows:
        raise _damaged(study, f"it has no {name} rows")
    return Part(images=images, groups=groups, labels=labels)


def read_validation(members: Sequence[Member]) -> tuple[Part, npt.NDArray[np.float32]]:
    """The validation rows, and what each member believed of them when it was trained (M, N, C).

    Raises:
        InputError: The members' probabilities are not of the same rows, or the studies tell different things of them.
    """
    first = members[0].study
    part = read_part(first, "val")
    for member in members[1:]:
        if fault := _find_difference(part, read_part(member.study, "val")):
            raise _damaged(member.study, f"{fault} of its val rows are not those of {first.folder.name}, in that order")
    expected = (len(part.images), len(first.info["data"]["classes"]))
    return part, np.stack([_read_val_probs(member, expected) for member in members])


def _find_difference(part: Part, other: Part) -> str:
    """What two parts tell differently; empty if nothing."""
    if other.images != part.images:
        return "the images"
    if not np.array_equal(other.labels, part.labels):
        return "the labels"
    return "the lesions" if other.groups != part.groups else ""


def _read_val_probs(member: Member, expected: tuple[int, int]) -> npt.NDArray[np.float32]:
    path = member.trial.folder / "val_probs.npy"
    probs_NC = member.trial.val_probs()
    if probs_NC.shape != expected:
        raise InputError(
            f"{path} must be of shape {expected}, a row for each val row of {member.study.folder.root / 'split.csv'}, "
            f"but is of {probs_NC.shape}. Restore whichever of the two has been changed."
        )
    return probs_NC


def find_test(study: Study, places: Sequence[Path] = ()) -> tuple[Manifest, npt.NDArray[np.int64], Part]:
    """Finds the data that a study was made on, and its sealed rows; see `find_part`."""
    return find_part(study, "test", places)


def find_part(study: Study, name: str, places: Sequence[Path] = ()) -> tuple[Manifest, npt.NDArray[np.int64], Part]:
    """Finds the data that a study was made on, and the rows of one part.

    Args:
        study: Says where the data were and what they were.
        name: The part, ``val`` or ``test``.
        places: Where they are now, in the order in which the search was given them; none if they haven't moved.

    Returns:
        All images, the rows of the part, and what they are. The true classes are those of the data, whose
        fingerprint has been checked; the lesions are those of `split.csv`, where near-duplicates are joined.

    Raises:
        InputError: The data are not there, or not the same.
    """
    from core.datasets import load_manifest

    spec = _spec_of(study, places)
    if gone := [place for place in spec.places if not place.exists()]:
        way_out = "Choose the right one." if places else f"Say with --data where it is now, or build {_WITHOUT[name]}."
        raise InputError(f"The data of {study.folder.name} must exist, but {gone[0]} does not. {way_out}")
    manifest = load_manifest(spec)
    root = manifest.where
    expected = study.info["data"]["fingerprint"]
    row_of = {path: row for row, path in enumerate(manifest.paths)}
    listed = read_part(study, name)
    if manifest.fingerprint == expected and (moved := [image for image in listed.images if image not in row_of]):
        raise InputError(
            f"The images in {root} must have the names that {study.folder.root / 'split.csv'} lists, but files were "
            f"renamed or moved inside the folder: {len(moved):,} are not there, as {moved[0]}. Put them where they lay."
        )
    if manifest.fingerprint != expected:
        raise InputError(
            f"The images, labels and lesions in {root} must be those that {study.folder.name} was searched on, but "
            f"they have changed (fingerprint {manifest.fingerprint[:12]} instead of {expected[:12]}). Restore them, "
            "give the right folder with --data, or run the searches again."
        )
    rows = np.asarray([row_of[image] for image in listed.images], dtype=np.int64)
    if manifest.fingerprint_of(rows) != study.info["split"][name]:
        raise _damaged(study, f"its {name} rows are not those that the study {_DID[name]}")
    if list(manifest.classes) != study.info["data"]["classes"]:
        raise InputError(
            f"{study.folder.root / 'study.json'} must list the classes of {root}, {', '.join(manifest.classes)}, but "
            f"lists {', '.join(study.info['data']['classes'])}. Restore it."
        )
    hashes = tuple(manifest.sha256[row] for row in rows.tolist())
    return manifest, rows, dataclasses.replace(listed, labels=manifest.labels[rows], hashes=hashes)


def _spec_of(study: Study, places: Sequence[Path]) -> DataSpec:
    """What the search was told of its data; `places` take the place of its places."""
    try:
        return DataSpec.recorded(study.info["data"], places, study=study.folder.name)
    except (KeyError, TypeError) as error:
        path = study.folder.root / "study.json"
        raise InputError(f"{path} must tell where the data are, but it is damaged ({error}). Restore it.") from error


def _damaged(study: Study, reason: str) -> InputError:
    path = study.folder.root / "split.csv"
    return InputError(f"{path} must list the images of the study, but it is damaged: {reason}. Restore it.")
