"""One call of `python -m search.run` once its study is ready: the plan, the trials that are missing, what they gave."""

import dataclasses
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.storages import BaseStorage

from core.cli import stopping_cleanly, write
from core.config import TrainConfig
from core.device import describe_device, give_back_memory, is_out_of_memory
from core.durations import in_words
from core.errors import counted, one_line
from core.files import LEFTOVER_S, remove_leftovers
from core.framing import SHOWN
from core.trainer import NonFiniteLossError, Trainer
from search.choosing import Verdict, judge_search
from search.console import Console
from search.crew import Crew
from search.identity import lesion_names
from search.loop import SearchFailedError, count_finished
from search.pictures import Pictures
from search.setup import Setup
from search.storage import dashboard_storage
from search.summary import explain_gap, rank, summarise, table
from search.worker import Goal, Work
from search.workers import run_workers

_log = logging.getLogger(__name__)

EXIT_FAILED = 1
_FRESH_S = 60.0  # a file aside may be that of a command which has just been typed


class Session:
    """Brings a study to the number of finished trials that was asked for.

    Args:
        setup: What the study is.
        storage: Optuna's, of all studies.
        study: The same in Optuna.
        goal: When it is over.
        deadline: When to stop, by `time.monotonic`; None for never.
        asked: What asks for that many trials, in words; by default the option.
        last: Whether the search ends with it, and the user is told what to type next.
    """

    def __init__(
        self,
        setup: Setup,
        storage: BaseStorage,
        study: optuna.Study,
        goal: Goal,
        *,
        deadline: float | None,
        asked: str = "",
        last: bool = True,
    ) -> None:
        self.setup, self.storage, self.study, self.goal = setup, storage, study, goal
        self.deadline = deadline
        self.asked, self.last = asked or f"--trials {goal.n_trials}", last
        self.names = tuple(setup.space.distributions)
        self.verdict: Verdict | None = None

    def run(self) -> int:
        """Runs what is missing; returns the exit status."""
        finished = count_finished(self.study)
        if finished >= self.goal.n_trials:
            name = self.setup.folder.name
            write(f"{name} holds {finished} finished trials, so {self.asked} asks for no more.")
            with self.pictures() as pictures:  # a process may have died before it could
                pictures.draw_owed(self.study, self.setup.folder)
            self.write_summary()
            self.show_end()
            return 0
        try:
            stopped = self.run_here() if self.is_alone else self.run_several()
        except BaseException as error:
            self.try_to_write_summary()
            if not isinstance(error, SearchFailedError):
                raise
            write(
                f"\nThe search stopped: {error}. Every finished trial is kept; mend the cause and run the same command."
            )
            return EXIT_FAILED
        self.write_summary()
        if stopped:
            write(f"\nThe search stopped because {stopped}. The same command continues it.")
        self.show_end()
        return 0

    @property
    def is_alone(self) -> bool:
        """Whether this process is the only worker, and no cluster is asked for."""
        settings = self.setup.settings
        return settings.workers == 1 and settings.backend == "loky"

    def run_here(self) -> str:
        """Runs trials in this process; returns why it stopped early, if it did."""
        try:
            return self._run_here()
        finally:
            give_back_memory(self.setup.settings.device)  # another study may follow in this process

    def _run_here(self) -> str:
        trainer = self.setup.open_trainer()
        with trainer.data:
            self.show_plan(describe_device(trainer.device))
            with suppress(NonFiniteLossError):  # its trials will say so
                self.show_estimate(trainer)
            with self.crew(describe_device(trainer.device)) as crew, self.pictures() as pictures, stopping_cleanly():
                pictures.draw_owed(self.study, self.setup.folder)
                with self.console() as console:
                    work = Work(
                        setup=self.setup,
                        study=self.study,
                        crew=crew,
                        goal=self.goal,
                        watcher=console,
                        pictures=pictures,
                    )
                    return work.run(trainer)

    def run_several(self) -> str:
        """Has other processes run trials, and shows how they come along; returns why they stopped early, if so."""
        settings = self.setup.settings
        workers = counted(settings.workers, "worker")
        self.show_plan(f"{settings.device}, {workers} through {settings.backend}")
        with self.crew(f"looks after {workers}") as crew, self.pictures() as pictures:
            with stopping_cleanly():
                return run_workers(
                    self.setup, self.storage, crew, self.goal, pictures, deadline=self.deadline, best=self.best()
                )

    @contextmanager
    def crew(self, device: str) -> Iterator[Crew]:
        """This process among those that run the study."""
        goal, grace_s = self.goal.n_trials, self.setup.settings.grace_s
        with Crew(self.setup.leases(), device=device, goal=goal, grace_s=grace_s) as crew:
            for folder in (self.setup.folder.root, self.setup.folder.running):
                remove_leftovers(folder, older_than_s=_FRESH_S if crew.is_alone() else LEFTOVER_S)
            yield crew

    @contextmanager
    def pictures(self) -> Iterator[Pictures]:
        """What draws the trials for the dashboard."""
        manifest, studies = self.setup.manifest, self.setup.settings.studies
        studies.sync_pictures()
        with Pictures(studies.artifacts, manifest.labels[self.setup.split.val], manifest.classes) as pictures:
            yield pictures
        studies.sync_pictures()

    def best(self) -> float | None:
        """The best recall so far."""
        ranked = rank(self.setup.folder.read_trials())
        return ranked[0].recall if ranked else None

    def console(self) -> Console:
        """What shows how the trials come along."""
        return Console(
            n_trials=self.goal.n_trials,
            count_finished=lambda: count_finished(self.study),
            epochs=self.setup.settings.epochs,
            train_images=len(self.setup.split.train),
            names=list(self.names),
            deadline=self.deadline,
            best=self.best(),
        )

    def show_plan(self, where: str) -> None:
        """Says what will be done."""
        setup, manifest = self.setup, self.setup.manifest
        finished = count_finished(self.study)
        train, val, test = (f"{len(rows):,}" for rows in (setup.split.train, setup.split.val, setup.split.test))
        write(
            f"Study {setup.folder.name}: {self.goal.n_trials - finished} trials to go, {finished} finished, of "
            f"{setup.arch.timm_name} at {setup.arch.image_size} pixels on {where}"
        )
        write(f"  data     {manifest.where} ({manifest.layout}), {len(manifest.classes)} classes")
        write(f"           {train} images to train, {val} to validate, {test} sealed for the test")
        write(f"  photos   {SHOWN[setup.arch.framing]}")
        write(f"  weights  {setup.weights.origin}")
        for name, words in setup.space.describe().items():
            write(f"  {name:<16} {words}")

    def show_estimate(self, trainer: Trainer) -> None:
        """Says how long it takes, measured on a few batches."""
        setup, epochs = self.setup, self.setup.settings.epochs
        deep = dataclasses.replace(setup.known_good, unfreeze_depth=trainer.model.max_unfreeze_depth)
        longest_s = measure_trial_s(trainer, deep)
        if longest_s is None:
            write(f"Training everything in batches of {deep.batch_size} needs more memory than there is.")
            return
        least = setup.space.least_depth
        shallow = dataclasses.replace(setup.known_good, unfreeze_depth=least)
        varies = least < deep.unfreeze_depth
        shortest_s = measure_trial_s(trainer, shallow) if varies else longest_s
        if shortest_s is None:  # others have taken memory meanwhile
            return
        to_go = self.goal.n_trials - count_finished(self.study)
        write(
            f"A trial of {epochs} epochs takes {f'{in_words(shortest_s)} ({_learning(least)}) to ' if varies else ''}"
            f"{in_words(longest_s)} "
            f"(everything learns); the search at most about {in_words(longest_s * to_go)}, less what ends early."
        )

    def write_summary(self) -> None:
        """Writes what the study holds by now and how far its ranking can be believed, for the report."""
        setup, records = self.setup, self.setup.folder.read_trials()
        manifest, val = setup.manifest, setup.split.val
        lesions = lesion_names(manifest)
        groups = [lesions[row] for row in val]
        self.verdict = judge_search(rank(records), manifest.labels[val], groups, len(manifest.classes))
        setup.folder.write_summary(summarise(self.study, records, list(self.names), self.verdict))

    def try_to_write_summary(self) -> None:
        """Writes it where that goes: what ended the search, a full disk perhaps, is what its user must be told."""
        try:
            self.write_summary()
        except Exception as error:
            _log.warning("the study's summary could not be written: %s", one_line(str(error)))

    def show_end(self) -> None:
        """The best trials, and the commands to type next."""
        setup, settings = self.setup, self.setup.settings
        if records := setup.folder.read_trials():
            write(
                f"\nBest trials of {setup.folder.name}, by macro recall on {len(setup.split.val):,} validation images:"
            )
            write(table(records, list(self.names), self.verdict))
            if gap := explain_gap(rank(records)):
                write(gap)
        if self.verdict is not None:
            write(self.verdict.explain_ties())
            if optimism := self.verdict.explain_optimism():
                write(optimism)
        if not self.last:
            return
        write("\nNext:")
        storage = dashboard_storage(settings.studies, settings.database)
        folder = settings.studies.artifacts
        dashboard = ["optuna-dashboard", storage, "--artifact-dir", str(folder), "--host", "127.0.0.1"]
        write(f"  {shlex.join(dashboard)}")
        if "://" not in settings.studies.place:  # which search.confirm refuses
            write(f"  python -m search.confirm {shlex.quote(settings.studies.place)}")
        write(f"  python -m ensemble.build {shlex.quote(settings.studies.place)}")


def _learning(depth: int) -> str:
    """What learns at the least depth of a space."""
    return f"{counted(depth, 'block')} and the head" if depth else "head alone"


def measure_trial_s(trainer: Trainer, config: TrainConfig) -> float | None:
    """Seconds that a trial would take, measured on a few batches; None where memory doesn't suffice for it."""
    try:
        return trainer.measure_epoch_s(config) * config.epochs
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
