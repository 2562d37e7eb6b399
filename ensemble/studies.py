"""The studies that an ensemble may be built from: of the same data, split and classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.artifacts import StudiesFolder, StudyFolder
from core.errors import InputError
from core.shapes import find_misfit
from ensemble.spec import read_arch

# All that building and the report rely on.
_STUDY = {
    "data": {
        "root": str,
        "layout": str,
        "fingerprint": str,
        "classes": [str],
        "images": int,
        "groups": int,
        "grouped": bool,
    },
    "split": {"seed": int, "train": str, "val": str, "test": str},
    "demo": bool,
    "arch": dict,
    "versions": {str: str},
    "command": str,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A study's folder, and what its `study.json` says."""

    folder: StudyFolder
    info: dict[str, Any]

    @property
    def arch(self) -> str:
        """The architecture's name, as its user wrote it."""
        return str(self.info["arch"]["name"])

    @property
    def timm_name(self) -> str:
        """The architecture's one name, which an alias shares with the model that it stands for."""
        return str(self.info["arch"]["timm_name"])

    @property
    def data_key(self) -> tuple[Any, ...]:
        """What studies must share for their trials to vote together."""
        data, split = self.info["data"], self.info["split"]
        return (data["fingerprint"], split["train"], split["val"], split["test"], tuple(data["classes"]))


def read_studies(folder: StudiesFolder, names: Sequence[str] = ()) -> list[Study]:
    """The studies that may vote together.

    Without names, all those that aren't demo are meant, or all where there is nothing but demo. A study whose best
    trials are trained again in another one has served, and takes no part.

    Args:
        folder: Where the studies lie.
        names: Those to take; empty leaves the choice to us.

    Raises:
        InputError: There is no such folder or study, or they are of different data, splits or classes.
    """
    there = {study.name: study for study in folder.read_studies()}
    if not there and not folder.root.is_dir():
        raise InputError(
            f"`studies` must be a folder, but {folder.place} is none. Give the one that search.run wrote to."
        )
    if not there:
        raise InputError(
            f"`studies` must hold at least one study, but {folder.place} holds none. Run `python -m search.run` first, "
            "or give the folder that its --studies named."
        )
    if unknown := [name for name in names if name not in there]:
        raise InputError(
            f"`--study` must be one of {', '.join(there)}, but got --study {unknown[0]}. Choose one of them."
        )
    # Only those that were named are read: a damaged one beside them is nobody's business.
    chosen = [_read(there[name]) for name in dict.fromkeys(names or there)]
    if not names:
        served = [study.folder.name for study in chosen if study.info.get("serves")]
        chosen = [study for study in chosen if not study.info.get("serves")]
        if not chosen:
            raise InputError(
                f"`studies` must hold trials of the full image size, but {folder.place} holds only {', '.join(served)}"
                ", whose best are still to be trained at it. Let the search go on."
            )
        chosen = [study for study in chosen if not study.info["demo"]] or chosen
    _check_same_data(chosen)
    return chosen


def _read(folder: StudyFolder) -> Study:
    info = folder.read_study()
    path = folder.root / "study.json"
    if misfit := find_misfit(info, _STUDY):
        raise InputError(f"{path} must describe a study, but {misfit}. Restore it or remove the folder.")
    try:
        read_arch(info["arch"])
    except TypeError as error:
        raise InputError(f"{path} must describe a study, but {error}. Restore it or remove the folder.") from error
    return Study(folder=folder, info=info)


def _check_same_data(studies: Sequence[Study]) -> None:
    by_key: dict[tuple[Any, ...], list[Study]] = {}
    for study in studies:
        by_key.setdefault(study.data_key, []).append(study)
    if len(by_key) == 1:
        return
    choices = "; ".join(
        f"{' '.join(f'--study {s.folder.name}' for s in same)} ({_describe(same[0])})" for same in by_key.values()
    )
    raise InputError(
        f"Studies must share data, split and classes to vote together, but these are of {len(by_key)} kinds. "
        f"Choose one of them: {choices}."
    )


def _describe(study: Study) -> str:
    data, demo = study.info["data"], "demo, " if study.info["demo"] else ""
    count = len(data["classes"])
    return f"{demo}{data['root']}, {data['images']:,} images, {count} classes, split seed {study.info['split']['seed']}"
