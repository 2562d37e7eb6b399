"""One worker's part of a search: it opens what trials need, and runs trials until the study holds enough of them."""

import logging
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage

from core.artifacts import StudyFolder, TrialRecord
from core.trainer import Trainer
from search.asking import Asking, Params
from search.crew import Crew
from search.identity import goes_on, lesion_names, refuse_other, start_or_continue
from search.loop import run_trials
from search.objective import Objective, Watcher
from search.pictures import Pictures
from search.samplers import build_pruner
from search.setup import Setup
from search.storage import find_study, open_study

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a study is to be brought to.

    Attributes:
        n_trials: Finished trials that it is to hold.
        keep: Best trials whose weights stay.
        proposals: Parameters that are tried before the sampler is asked.
    """

    n_trials: int
    keep: int
    proposals: tuple[Params, ...] = ()


def refuse(setup: Setup, storage: BaseStorage) -> None:
    """Checks what `begin` checks, and writes nothing.

    Raises:
        InputError: As `begin` raises it.
    """
    records = _read_trials(setup.folder)
    goes_on(setup, find_study(storage, setup.folder.name), records)


def begin(setup: Setup, storage: BaseStorage) -> optuna.Study:
    """Opens a study in Optuna, and starts it or checks that it is the same as before.

    Raises:
        InputError: The study was started with something else, or its folder and Optuna's journal disagree.
    """
    records = _read_trials(setup.folder)  # it may be hundreds, for which nobody else should have to wait
    with setup.leases().lock():
        study = open_study(storage, setup.folder.name)
        start_or_continue(setup, study, records)
        for half in setup.folder.set_aside_halves():
            _log.warning("a trial's folder lacked its complete.json, so it is not whole and lies in %s now", half)
    return study


def _read_trials(folder: StudyFolder) -> list[TrialRecord]:
    folder.bring_up_to_date()
    return folder.read_trials()


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """Runs trials of one study in this process.

    Attributes:
        setup: What the study is.
        study: The same in Optuna.
        crew: This worker, among the others.
        goal: When it is over.
        watcher: Is told how trials come along.
        pictures: Draws them for the dashboard.
    """

    setup: Setup
    study: optuna.Study
    crew: Crew
    goal: Goal
    watcher: Watcher
    pictures: Pictures

    def run(self, trainer: Trainer) -> str:
        """Runs trials until there are enough; returns why it stopped before that, if it did.

        Raises:
            SearchFailedError: Too many trials fail.
            InputError: Another command has begun the study with something else while this one decoded.
        """
        # This worker is noted by now: nobody can make it another study from here on.
        with self.crew.leases.lock():
            refuse_other(self.setup)
        settings = self.setup.settings
        self.study.pruner = build_pruner(settings.pruner, epochs=settings.epochs)
        objective = self.objective(trainer)
        return run_trials(self.study, objective, self.crew, self.asking(), n_trials=self.goal.n_trials)

    def asking(self) -> Asking:
        """What begins new trials: proposed ones, the one that is known to be good, then the sampler's."""
        return Asking(
            study=self.study,
            space=self.setup.space,
            sampler=self.setup.settings.sampler,
            seed=self.setup.sampler_seed,
            proposals=self.goal.proposals,
        )

    def objective(self, trainer: Trainer) -> Objective:
        """What runs a trial."""
        lesions = lesion_names(self.setup.manifest)
        return Objective(
            folder=self.setup.folder,
            pictures=self.pictures,
            trainer=trainer,
            groups=tuple(lesions[row] for row in self.setup.split.val),
            fixed=self.setup.fixed,
            keep=self.goal.keep,
            watcher=self.watcher,
        )
