"""What a study that is there has settled already, and a command need not say again: framing and first weights."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.archs import Arch
from core.artifacts import StudyFolder
from core.errors import InputError
from core.framing import DEFAULT, Framing
from core.shapes import find_misfit
from core.weights import Weights, resolve_weights
from search.identity import framing_of, full_name
from search.storage import read_storage

if TYPE_CHECKING:
    from search.setup import Settings

_BACKBONE = {"arch": {"timm_name": str, "weight_tag": str | None}}


def find_framing(settings: "Settings", folders: Sequence[StudyFolder]) -> Framing:
    """What was asked for, else what the study was started with, else the whole photo.

    Args:
        settings: What the user asked for.
        folders: Where the study lies, and the one that serves it, if any.

    Raises:
        InputError: The study's `study.json` is damaged.
    """
    if settings.framing is not None:
        return settings.framing
    for folder in folders:
        if folder.exists:
            return framing_of(_read(folder, "backbone", _BACKBONE))
    return DEFAULT


def find_weights(settings: "Settings", arch: Arch, folders: Sequence[StudyFolder]) -> Weights:
    """The study's own weights once it has been started, so that a vanished hub changes nothing; else others.

    Random ones, those of a file and those of another tag are its own only once it has a trial.

    Args:
        settings: What the user asked for.
        arch: The backbone.
        folders: Where the study lies, and the one that serves it, if any.

    Raises:
        InputError: The study's `study.json` is damaged, or there are no weights.
    """
    for folder in folders if settings.weights == "auto" else ():
        if not folder.exists:
            continue
        study = _read(folder, "weights", {"weights": {"hash": str, "spec": str}, **_BACKBONE})
        stored = study["weights"]
        if study["arch"]["timm_name"] != arch.timm_name:  # refused later, if it has trials
            break
        # A study without trials is free to become another; its workers, which need no hub, say the same as it.
        is_same = stored["spec"] == "auto" and full_name(study) == arch.full_name
        if not is_same and not _has_trials(settings, folder):
            continue
        if stored["spec"] == "none":
            return resolve_weights("none", arch)
        file = settings.studies.weights_file(stored["hash"])
        if file.is_file():
            return Weights.load(file)
        break
    return resolve_weights(settings.weights, arch)


def _read(folder: StudyFolder, of: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    study = folder.read_study()
    if misfit := find_misfit(study, shape):
        raise InputError(f"{folder.root / 'study.json'} must tell of its {of}, but {misfit}. Restore it.")
    return study


def _has_trials(settings: "Settings", folder: StudyFolder) -> bool:
    """Whether a study has got to a trial, finished or not."""
    if not settings.database and not settings.studies.journal_file.is_file():
        return False
    storage = read_storage(settings.studies, settings.database)
    try:
        return storage.get_n_trials(storage.get_study_id_from_name(folder.name)) > 0
    except KeyError:
        return False
