"""One call of `python -m search.run` once its study is ready: the plan, the trials that are missing, what they gave."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import optuna

from core.cli import stopping_cleanly, write
from core.config import TrainConfig
from core.device import describe_device, is_out_of_memory
from core.durations import in_words
from core.trainer import Trainer
from search.console import Console
from search.identity import lesion_names
from search.loop import SearchFailedError, count_finished, run_trials
from search.objective import Objective
from search.pictures import Pictures
from search.samplers import build_pruner, build_sampler
from search.setup import Setup
from search.summary import rank, summarise, table

EXIT_FAILED = 1


class Session:
    """Brings a study to the number of finished trials that was asked for. Only for the holder of its lock.

    Args:
        setup: What the study is.
        study: The same in Optuna.
        n_trials: Finished trials that it is to hold.
        keep: Best trials whose weights stay.
        deadline: When to stop, by `time.monotonic`; None for never.
        proposals: Parameters of the next trials; after them the sampler is asked.
        asked: What asks for that many trials, in words; by default the option.
        last: Whether the search ends with it, and the user is told what to type next.
    """

    def __init__(
        self,
        setup: Setup,
        study: optuna.Study,
        *,
        n_trials: int,
        keep: int,
        deadline: float | None,
        proposals: Sequence[dict[str, Any]] = (),
        asked: str = "",
        last: bool = True,
    ) -> None:
        self.setup, self.study = setup, study
        self.n_trials, self.keep, self.deadline = n_trials, keep, deadline
        self.proposals = list(proposals)
        self.asked, self.last = asked or f"--trials {n_trials}", last
        self.names = tuple(setup.space.distributions)

    def run(self) -> int:
        """Runs what is missing; returns the exit status."""
        finished = count_finished(self.study)
        if finished >= self.n_trials:
            name = self.setup.folder.name
            write(f"{name} holds {finished} finished trials, so {self.asked} asks for no more.")
            with self.pictures() as pictures:  # a process may have died before it could
                pictures.draw_owed(self.study, self.setup.folder)
            self.write_summary()
            self.show_end()
            return 0
        trainer = self.setup.open_trainer()
        self.show_plan(trainer, finished)
        settings = self.setup.settings
        self.study.pruner = build_pruner(settings.pruner, epochs=settings.epochs)
        try:
            with (
                trainer.data.source,
                self.pictures() as pictures,
                stopping_cleanly(),
                self.console(finished) as console,
            ):
                objective = self.objective(trainer, console, pictures)
                pictures.draw_owed(self.study, self.setup.folder)
                stopped = run_trials(self.study, objective, n_trials=self.n_trials, ask=self.ask)
        except SearchFailedError as error:
            write(
                f"\nThe search stopped: {error}. Every finished trial is kept; mend the cause and run the same command."
            )
            return EXIT_FAILED
        finally:
            self.write_summary()
        if stopped:
            write(f"\nThe search stopped because {stopped}. The same command continues it.")
        self.show_end()
        return 0

    def ask(self) -> optuna.Trial:
        """A new trial with all its parameters: a proposed one, else at first the one that is known to be good."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = build_sampler(self.setup.settings.sampler, seed=self.setup.sampler_seed(number))
        if self.proposals:
            self.study.enqueue_trial(self.proposals.pop(0))
        elif number == 0:
            self.study.enqueue_trial(self.setup.space.known_good)
        return self.study.ask(fixed_distributions=self.setup.space.distributions)

    def pictures(self) -> Pictures:
        """What draws the trials for the dashboard."""
        manifest = self.setup.manifest
        return Pictures(self.setup.settings.studies.artifacts, manifest.labels[self.setup.split.val], manifest.classes)

    def objective(self, trainer: Trainer, console: Console, pictures: Pictures) -> Objective:
        """What runs a trial."""
        lesions = lesion_names(self.setup.manifest)
        return Objective(
            folder=self.setup.folder,
            pictures=pictures,
            trainer=trainer,
            names=self.names,
            groups=tuple(lesions[row] for row in self.setup.split.val),
            fixed=self.setup.fixed,
            keep=self.keep,
            watcher=console,
        )

    def console(self, finished: int) -> Console:
        """What shows how the trials come along."""
        ranked = rank(self.setup.folder.read_trials())
        return Console(
            n_trials=self.n_trials,
            finished=finished,
            epochs=self.setup.settings.epochs,
            train_images=len(self.setup.split.train),
            names=list(self.names),
            deadline=self.deadline,
            best=ranked[0].recall if ranked else None,
        )

    def show_plan(self, trainer: Trainer, finished: int) -> None:
        """Says what will be done, and how long it takes."""
        setup, manifest = self.setup, self.setup.manifest
        train, val, test = (f"{len(rows):,}" for rows in (setup.split.train, setup.split.val, setup.split.test))
        to_go = self.n_trials - finished
        write(
            f"Study {setup.folder.name}: {to_go} trials to go, {finished} finished, of {setup.arch.timm_name} at "
            f"{setup.arch.image_size} pixels on {describe_device(trainer.device)}"
        )
        write(f"  data     {manifest.where} ({manifest.layout}), {len(manifest.classes)} classes")
        write(f"           {train} images to train, {val} to validate, {test} sealed for the test")
        write(f"  weights  {setup.weights.origin}")
        for name, words in setup.space.describe().items():
            write(f"  {name:<16} {words}")
        epochs = setup.settings.epochs
        deep = dataclasses.replace(setup.known_good, unfreeze_depth=trainer.model.max_unfreeze_depth)
        longest_s = measure_trial_s(trainer, deep)
        if longest_s is None:
            write(f"Training everything in batches of {deep.batch_size} needs more memory than there is.")
            return
        shallow = dataclasses.replace(setup.known_good, unfreeze_depth=0)
        shortest_s = measure_trial_s(trainer, shallow) if setup.weights.state else longest_s
        if shortest_s is None:  # others have taken memory meanwhile
            return
        write(
            f"A trial of {epochs} epochs takes {in_words(shortest_s)} (head alone) to {in_words(longest_s)} "
            f"(everything learns); the search at most about {in_words(longest_s * to_go)}, less what ends early."
        )

    def write_summary(self) -> None:
        """Writes what the study holds by now, for the report."""
        records = self.setup.folder.read_trials()
        self.setup.folder.write_summary(summarise(self.study, records, list(self.names)))

    def show_end(self) -> None:
        """The best trials, and the two commands to type next."""
        setup, studies = self.setup, shlex.quote(str(self.setup.settings.studies.root))
        if records := setup.folder.read_trials():
            write(
                f"\nBest trials of {setup.folder.name}, by macro recall on {len(setup.split.val):,} validation images:"
            )
            write(table(records, list(self.names)))
        if not self.last:
            return
        write("\nNext:")
        write(f"  optuna-dashboard {studies}/journal.log --artifact-dir {studies}/artifacts --host 127.0.0.1")
        write(f"  python -m ensemble.build {studies}")


def measure_trial_s(trainer: Trainer, config: TrainConfig) -> float | None:
    """Seconds that a trial would take, measured on a few batches; None where memory doesn't suffice for it."""
    try:
        return trainer.measure_epoch_s(config) * config.epochs
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
