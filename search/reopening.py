"""A study that was searched before, with its data, as a command needs it that trains its trials again."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.archs import Arch, resolve_arch
from core.artifacts import StudiesFolder, StudyFolder
from core.dataspec import DataSpec
from core.errors import InputError, counted
from core.manifest import Manifest
from core.shapes import NUMBER, find_misfit
from core.splits import Split, split_manifest
from core.unlabelled import refuse_weights_that_know
from core.weights import Weights, resolve_weights
from search.identity import framing_of, full_name, split_rows

_CHANNELS = (NUMBER, NUMBER, NUMBER)
_STUDY = {
    "arch": {
        "name": str,
        "timm_name": str,
        "image_size": int,
        "mean": _CHANNELS,
        "std": _CHANNELS,
        "weight_tag": str | None,
    },
    "data": {"root": str, "fingerprint": str},
    "split": {"seed": int},
    "weights": {"hash": str, "spec": str},
    "demo": bool,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reopened:
    """A study that was searched before.

    Attributes:
        folder: Where it lies.
        arch: The backbone, with the image size, normalisation and framing of its trials.
        manifest: All rows.
        split: Their parts, as `split.csv` has them.
        rows: Those of `split.csv`, in the manifest's order.
        weights: First weights of its trials.
    """

    folder: StudyFolder
    arch: Arch
    manifest: Manifest
    split: Split
    rows: list[dict[str, str]]
    weights: Weights


def choose_studies(studies: StudiesFolder, names: Sequence[str]) -> list[StudyFolder]:
    """The studies that were named; without names all that stand for themselves, demo ones only if there are no others.

    Raises:
        InputError: There is no such study, or none at all.
    """
    there = {folder.name: folder for folder in studies.read_studies()}
    if not there:
        raise InputError(
            f"`studies` must be a folder that search.run wrote to, but {studies.root} holds no study. Run "
            "`python -m search.run` first, or give the folder that its --studies named."
        )
    if unknown := [name for name in names if name not in there]:
        raise InputError(
            f"`--study` must be one of {', '.join(there)}, but got --study {unknown[0]}. Choose one of them."
        )
    if names:
        return [there[name] for name in dict.fromkeys(names)]
    # What searched on small images only found the trials of another study.
    infos = {name: read_info(folder) for name, folder in there.items()}
    own = [name for name, info in infos.items() if not info.get("serves")]
    real = [name for name in own if not infos[name]["demo"]]
    if not own:
        raise InputError(
            f"`studies` must hold trials of the full image size, but {studies.root} holds only {', '.join(there)}, "
            "whose best are still to be trained at it. Let the search go on, or name one with --study."
        )
    return [there[name] for name in real or own]


def reopen(
    folder: StudyFolder, studies: StudiesFolder, places: Sequence[Path], load: Callable[[DataSpec], Manifest]
) -> Reopened:
    """Finds a study's data and first weights, and holds them to what it was started with.

    Args:
        folder: The study.
        studies: Where first weights lie.
        places: Where the data are now, in the order in which the search was given them; none if they haven't moved.
        load: Recognises data; studies may share them.

    Raises:
        InputError: Data or weights are not there, or not the same.
    """
    info = read_info(folder)
    if info.get("unlabelled"):
        raise InputError(
            f"Trials that are trained again must have learned from labelled images alone, but {folder.name} was "
            "searched with --unlabelled, whose images may show lesions that a fold holds out. Choose one with --study."
        )
    arch = _find_arch(folder, info)
    manifest = load(_find_data(folder, info["data"], places))
    if manifest.fingerprint != info["data"]["fingerprint"]:
        raise InputError(
            f"The images, labels and lesions in {manifest.where} must be those that {folder.name} was searched on, but "
            "they have changed. Restore them, give the right place with --data, or search again with --study NAME."
        )
    split = split_manifest(manifest, seed=info["split"]["seed"])
    rows, before = split_rows(manifest, split), folder.read_split()
    if rows != before:
        # Views and batches hang on the places of rows, and the parts decide what is sealed.
        differing = sum(a != b for a, b in zip(rows, before, strict=False)) + abs(len(rows) - len(before))
        raise InputError(
            f"The images of {folder.name} must have the names, the order and the parts that its split.csv lists, but "
            f"{counted(differing, 'row')} of it differ. Put them where they lay, or search again with --study NAME."
        )
    weights = _find_weights(folder, studies, info["weights"], arch)
    every = np.arange(len(manifest))
    way_out = "Choose a study of other first weights, with --study."
    refuse_weights_that_know(weights, manifest, every, parts=f"what folds of {folder.name} hold out", way_out=way_out)
    return Reopened(
        folder=folder,
        arch=arch,
        manifest=manifest,
        split=split,
        rows=rows,
        weights=weights,
    )


def read_info(folder: StudyFolder) -> dict[str, Any]:
    """What `study.json` says.

    Raises:
        InputError: It lacks what is needed to train the study's trials again.
    """
    info = folder.read_study()
    if misfit := find_misfit(info, _STUDY):
        raise _damaged(folder, misfit)
    return info


def _find_arch(folder: StudyFolder, info: dict[str, Any]) -> Arch:
    """The backbone as the study's trials had it: what timm says of its default tag by now may be another's."""
    stored = info["arch"]
    name, _, tag = stored["name"].partition(".")
    arch = resolve_arch(name)
    if arch.timm_name != stored["timm_name"] or tag not in ("", stored["weight_tag"]):
        raise _damaged(folder, f"{stored['name']} is not {full_name(info)}")
    if not min(stored["std"]) > 0:
        raise _damaged(folder, f"arch.std is {stored['std']} and not above 0")
    return dataclasses.replace(
        arch,
        name=stored["name"],
        image_size=stored["image_size"],
        mean=tuple(stored["mean"]),
        std=tuple(stored["std"]),
        weight_tag=stored["weight_tag"],
        framing=framing_of(info),
    )


def _find_data(folder: StudyFolder, data: dict[str, Any], places: Sequence[Path]) -> DataSpec:
    """Where the study's data are; `places` take the place of its own."""
    try:
        spec = DataSpec.recorded(data, places, study=folder.name)
    except (KeyError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    if gone := [place for place in spec.places if not place.exists()]:
        raise InputError(
            f"The data of {folder.name} must exist, but {gone[0]} does not. Say with --data where it is now."
        )
    return spec


def _find_weights(folder: StudyFolder, studies: StudiesFolder, stored: dict[str, Any], arch: Arch) -> Weights:
    """The first weights that the study has kept."""
    if stored["spec"] == "none":
        return resolve_weights("none", arch)
    file = studies.weights_file(stored["hash"])
    if not file.is_file():
        raise InputError(f"The first weights of {folder.name} must be in {file}, but are not there. Restore them.")
    weights = Weights.load(file)
    if weights.hash != stored["hash"]:
        raise InputError(f"{file} must hold the first weights of {folder.name}, but holds others. Restore them.")
    return weights


def _damaged(folder: StudyFolder, reason: str) -> InputError:
    path = folder.root / "study.json"
    return InputError(f"{path} must describe a study, but it is damaged: {reason}. Restore it.")
