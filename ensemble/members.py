"""Which trials take part: the best of each architecture, on the same data, split and classes, better than chance."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from core.archs import ALIASES
from core.artifacts import TrialRecord
from core.config import TrainConfig
from core.confirmed import ConfirmedRun, ConfirmedTrial
from core.errors import InputError, counted, few
from ensemble.studies import Study

FitTo = Literal["validation", "confirmed"]
_STATES: dict[FitTo, str] = {"validation": "complete", "confirmed": "confirmed"}
_WAYS_OUT: dict[FitTo, str] = {
    "validation": "Let the search go on.",
    "confirmed": "Run python -m search.confirm on the folder.",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A trial that takes part, or might.

    Attributes:
        study: Where it was searched.
        trial: What the search left of it.
        confirmed: What its runs over folds gave, where it is judged by that; None where validation judges it.
        runs: Those runs, where their networks vote together in its place.
    """

    study: Study
    trial: TrialRecord
    confirmed: ConfirmedTrial | None = None
    runs: tuple[ConfirmedRun, ...] = ()

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.study.folder.name} #{self.trial.number}"

    @property
    def recall(self) -> float:
        """Its macro recall on the images that judge it."""
        return (self.confirmed or self.trial).recall

    @property
    def recall_interval(self) -> tuple[float, float]:
        """The 95 % interval of that."""
        return (self.confirmed or self.trial).recall_interval

    @property
    def prior(self) -> tuple[float, ...]:
        """The class frequencies that its networks learned, on average (C,)."""
        if not self.runs:
            return self.trial.prior
        return tuple(sum(shares) / len(self.runs) for shares in zip(*(run.prior for run in self.runs), strict=True))

    @property
    def files(self) -> tuple[Path, ...]:
        """The weights of its networks."""
        return tuple(run.model_file for run in self.runs) or (self.trial.model_file,)

    @property
    def can_vote(self) -> bool:
        """Whether these were kept."""
        return all(file.is_file() for file in self.files)


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


def choose_members(
    studies: Sequence[Study],
    *,
    top_k: int | None = 1,
    at_most: int | None = None,
    archs: Sequence[str] = (),
    fit_to: FitTo = "validation",
    of_folds: bool = False,
) -> Selection:
    """Picks the best complete trials of each architecture whose weights are kept, over all its studies.

    A trial whose interval reaches down to chance, 1 / C, is left out: a weak member adds nothing to a vote.

    Args:
        studies: Studies of the same data, split and classes.
        top_k: Trials that each architecture must have; None takes those that it has.
        at_most: Trials of an architecture, the best ones; None for no limit.
        archs: Architectures that take part, by the name that a search was given or timm's; empty for all that have a
            complete trial.
        fit_to: What trials are judged by: ``validation``, or what `search.confirm` found out of fold.
        of_folds: Whether the networks that `search.confirm` trained vote in place of the trials'.

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
        if fit_to == "confirmed":
            complete, others = _confirmed(complete, of_folds=of_folds)
            if complete and others:
                told = f"not confirmed, {len(others)} of {counted(len(complete) + len(others), 'complete trial')}"
                left_out.append((arch, f"{told}, the best by validation first: {few([each.name for each in others])}"))
        if not complete and not archs:
            left_out.append((arch, f"no trial of it is {_STATES[fit_to]} yet"))
            continue
        for member in _take(arch, complete, top_k, fit_to)[:at_most]:
            chance = 1 / len(member.study.info["data"]["classes"])
            if member.recall_interval[0] > chance:
                members.append(member)
            else:
                left_out.append((member.name, _explain_chance(member, chance)))
    if not members:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise InputError(
            f"At least one trial must be {_STATES[fit_to]} and better than chance, but none is ({reasons}). "
            f"{_WAYS_OUT[fit_to]}"
        )
    return Selection(members=members, studies=list(studies), left_out=left_out)


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


def _confirmed(complete: Sequence[Member], *, of_folds: bool) -> tuple[list[Member], list[Member]]:
    """Those of some trials that have been trained again over folds, the best out of fold first; and the others."""
    members, others = [], []
    for member in complete:
        folder, number = member.study.folder.confirmed, member.trial.number
        if (confirmed := folder.read_trial(number)) is None:
            others.append(member)
            continue
        if TrainConfig.from_dict(confirmed.config) != TrainConfig.from_dict(member.trial.config):
            raise InputError(
                f"{confirmed.folder} must be of trial {number} of {member.study.folder.name}, but is of another one "
                "that had its number. Remove it and run search.confirm again."
            )
        places = list(product(range(confirmed.folds), range(confirmed.seeds))) if of_folds else []
        runs = tuple(run for place in places if (run := folder.read_run(number, *place)))
        if len(runs) < len(places):
            raise InputError(
                f"{confirmed.folder} must have a folder for each of its {len(places)} runs, but has {len(runs)}. Run "
                "search.confirm again."
            )
        members.append(dataclasses.replace(member, confirmed=confirmed, runs=runs))
    return sorted(members, key=lambda member: -member.recall), others


def _take(arch: str, complete: list[Member], top_k: int | None, fit_to: FitTo) -> list[Member]:
    """The `top_k` best whose weights are kept, or all of these."""
    kept, state = [member for member in complete if member.can_vote], _STATES[fit_to]
    if not complete:
        way_out = _WAYS_OUT[fit_to].removesuffix(".")
        raise InputError(f"`--archs` must have {state} trials, but {arch} has none yet. {way_out} or leave it out.")
    if not kept and complete[0].runs:
        raise InputError(
            f"`--members folds` must have the weights of its runs, but those of {arch} were not kept. Run "
            "search.confirm with --keep-models, or let trials vote."
        )
    if not kept:
        raise InputError(
            f"Trials must have their weights kept to vote, but those of all {len(complete)} {state} trials of {arch} "
            "are deleted. Run its search again under another name (--study), or choose others with --archs."
        )
    if top_k is not None and len(kept) < top_k:
        way_out = "keep more weights while searching"
        if fit_to == "confirmed":
            keeping = " and --keep-models" if complete[0].runs else ""
            way_out = f"run python -m search.confirm with --top {top_k}{keeping}"
        raise InputError(
            f"`--top-k` must be at most {len(kept)}, the {state} trials of {arch} whose weights are kept, but got "
            f"--top-k {top_k}. Lower it, or {way_out}."
        )
    if kept[0] is not complete[0]:
        _log.warning(
            "%s is the best of %s, but its weights are deleted; %s is taken", complete[0].name, arch, kept[0].name
        )
    return kept[:top_k]


def _explain_chance(member: Member, chance: float) -> str:
    low, high = member.recall_interval
    where = "validation recall" if member.confirmed is None else "recall out of fold"
    return (
        f"not better than chance: {where} {member.recall:.1%}, interval {low:.1%} to {high:.1%}, "
        f"reaches down to {chance:.1%}"
    )
