"""One command's studies, one for each architecture: all are begun before the first one's first trial."""

import time
from collections.abc import Sequence

from core.archs import resolve_arch
from core.cli import stop_asked, write
from core.errors import InputError, few
from search.session import Session
from search.setup import Setup
from search.storage import open_storage
from search.two_sizes import run_two_sizes
from search.worker import Goal, begin, refuse


def refuse_mixtures(archs: Sequence[str], *, study: str | None, weights: str) -> None:
    """Checks that what is said once can be meant of several architectures.

    Args:
        archs: Their names.
        study: The study's name, if one was given.
        weights: What `--weights` says.

    Raises:
        InputError: It can't, or a name is unknown.
    """
    if len(archs) == 1:
        return
    names: dict[str, list[str]] = {}
    for arch in archs:
        names.setdefault(resolve_arch(arch).full_name, []).append(arch)
    if twice := [each for each in names.values() if len(each) > 1]:
        raise InputError(
            f"`--arch` must name each architecture once, but got {few(twice[0])}, which are one. Raise --trials for "
            "more trials of it."
        )
    if study is not None:
        raise InputError(
            f"`--study` must come with one --arch, since each has a study of its own, but got --study {study} for "
            f"{len(archs)}. Leave it out, or call the command once for each."
        )
    if weights not in ("auto", "none"):
        raise InputError(
            f"`--weights` must be auto or none with several --arch, as a file is of one of them, but got --weights "
            f"{weights}. Call the command once for each."
        )


def run_studies(setups: Sequence[Setup], goal: Goal, *, retrain: int, deadline: float | None) -> int:
    """Runs studies one after the other, each by all workers; returns the exit status.

    A study whose trials fail keeps none of the others from being run.

    Args:
        setups: What they are; they share a storage.
        goal: Of each.
        retrain: See `search.two_sizes.run_two_sizes`.
        deadline: When to stop, by `time.monotonic`; None for never.
    """
    settings = setups[0].settings
    storage = open_storage(settings.studies, settings.database, grace_s=settings.grace_s)
    # What differs from an earlier call is refused now, and not after the hours of another study.
    first = [each for setup in setups for each in _first(setup)]
    for step in (refuse, begin):
        for each in first:
            step(each, storage)
    status = 0
    for place, setup in enumerate(setups):
        last = place + 1 == len(setups)
        if setup.settings.search_size is not None:
            ended = run_two_sizes(setup, storage, goal, retrain=retrain, deadline=deadline, last=last)
        else:
            ended = Session(setup, storage, begin(setup, storage), goal, deadline=deadline, last=last).run()
        status = max(status, ended)
        if not last and (stop_asked() or (deadline is not None and time.monotonic() > deadline)):
            write(f"\nNot begun: {few([each.folder.name for each in setups[place + 1 :]])}. The same command goes on.")
            break
        if not last:
            write()
    return status


def _first(setup: Setup) -> list[Setup]:
    """The studies that one is begun with."""
    if setup.settings.search_size is None:
        return [setup]
    # That of the full size begins after its small one, but may be there from an earlier call.
    return [setup, setup.at_search_size()] if setup.folder.exists else [setup.at_search_size()]
