"""Which trials take part: the best of each architecture, on the same data, split and classes, better than chance."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.archs import ALIASES
from core.artifacts import StudiesFolder, StudyFolder, TrialRecord
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

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A trial that takes part, or might."""

    study: Study
    trial: TrialRecord

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.study.folder.name} #{self.trial.number}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """What `choose_members` found.

    Attributes:
        members: Who votes, by architecture and rank.
        studies: All studies that were looked at.
        left_out: What does not take part and why, a pair each.
    """

    members: list[Member]
    studies: list[Study]
    left_out: list[tuple[str, str]]


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
            f"`studies` must be a folder, but {folder.root} is none. Give the one that search.run wrote to."
        )
    if not there:
        raise InputError(
            f"`studies` must hold at least one study, but {folder.root} holds none. Run `python -m search.run` first, "
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
                f"`studies` must hold trials of the full image size, but {folder.root} holds only {', '.join(served)}, "
                "whose best are still to be trained at it. Let the search go on."
            )
        chosen = [study for study in chosen if not study.info["demo"]] or chosen
    _check_same_data(chosen)
    return chosen


def choose_members(studies: Sequence[Study], *, top_k: int | None = 1, archs: Sequence[str] = ()) -> Selection:
    """Picks the best complete trials of each architecture whose weights are kept, over all its studies.

    A trial whose validation interval reaches down to chance, 1 / C, is left out: a weak member adds nothing to a vote.

    Args:
        studies: Studies of the same data, split and classes.
        top_k: Trials an architecture; None takes all.
        archs: Architectures that take part, by the name that a search was given or timm's; empty for all that have a
            complete trial.

    Raises:
        InputError: An architecture is unknown or has too few trials, or nobody is better than chance.
    """
    by_arch: dict[str, list[Study]] = {}
    for study in studies:
        by_arch.setdefault(study.timm_name, []).append(study)
    wanted = _timm_names(studies, archs) if archs else list(by_arch)
    members: list[Member] = []
    left_out: list[tuple[str, str]] = []
    for timm_name in wanted:
        arch, complete = by_arch[timm_name][0].arch, _rank(by_arch[timm_name])
        if not complete and not archs:
            left_out.append((arch, "no trial of it is complete yet"))
            continue
        for member in _take(arch, complete, top_k):
            chance = 1 / len(member.study.info["data"]["classes"])
            if member.trial.recall_interval[0] > chance:
                members.append(member)
            else:
                left_out.append((member.name, _explain_chance(member.trial, chance)))
    if not members:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise InputError(
            f"At least one trial must be complete and better than chance, but none is ({reasons}). "
            "Let the search go on."
        )
    return Selection(members=members, studies=list(studies), left_out=left_out)


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


def _timm_names(studies: Sequence[Study], archs: Sequence[str]) -> list[str]:
    """timm's names of the architectures that were asked for, each once."""
    timm_name_of = {study.arch: study.timm_name for study in studies}
    known = {timm_name: timm_name for timm_name in timm_name_of.values()}
    known |= {alias: timm_name for alias, timm_name in ALIASES.items() if timm_name in known} | timm_name_of
    if unknown := [arch for arch in archs if arch not in known]:
        raise InputError(
            f"`--archs` must be among {', '.join(timm_name_of)}, but got --archs {unknown[0]}. Choose from these."
        )
    return list(dict.fromkeys(known[arch] for arch in archs))


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


def _rank(studies: Sequence[Study]) -> list[Member]:
    """Complete trials, the best first; equals in the order of study and number."""
    trials = [Member(study=study, trial=trial) for study in studies for trial in study.folder.read_trials()]
    for member in trials:
        count = len(member.study.info["data"]["classes"])
        if len(member.trial.prior) != count:
            raise InputError(
                f"{member.trial.folder} must be a whole trial, but its prior is of {len(member.trial.prior)} classes "
                f"and its study of {count}. Remove the folder."
            )
    return sorted((m for m in trials if m.trial.state == "complete"), key=lambda member: -member.trial.recall)


def _take(arch: str, complete: list[Member], top_k: int | None) -> list[Member]:
    """The `top_k` best whose weights are kept, or all of these."""
    kept = [member for member in complete if member.trial.has_model]
    if not complete:
        raise InputError(
            f"`--archs` must have complete trials, but {arch} has none yet. Let its search go on or leave it out."
        )
    if not kept:
        raise InputError(
            f"Trials must have their weights kept to vote, but those of all {len(complete)} complete trials of {arch} "
            "are deleted. Run its search again under another name (--study), or choose others with --archs."
        )
    if top_k is not None and len(kept) < top_k:
        raise InputError(
            f"`--top-k` must be at most {len(kept)}, the complete trials of {arch} whose weights are kept, but got "
            f"--top-k {top_k}. Lower it, or keep more weights while searching."
        )
    if kept[0] is not complete[0]:
        _log.warning(
            "%s is the best of %s, but its weights are deleted; %s is taken", complete[0].name, arch, kept[0].name
        )
    return kept[:top_k]


def _explain_chance(trial: TrialRecord, chance: float) -> str:
    low, high = trial.recall_interval
    return (
        f"not better than chance: validation recall {trial.recall:.1%}, interval {low:.1%} to {high:.1%}, "
        f"reaches down to {chance:.1%}"
    )
