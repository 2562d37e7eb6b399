"""Trains the best trials of one study again over folds, and says what their recall is worth.

Legend: S seeds, N training and validation rows, F folds, C classes.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from core.checkpoint import CheckpointError, epochs_in
from core.cli import write
from core.confirmed import ConfirmedRun, ConfirmedTrial
from core.device import describe_device, is_out_of_memory
from core.durations import in_words
from core.errors import InputError, counted, one_line
from core.evaluation import evaluate
from core.metrics import Floats, LesionBootstrap, confusion_matrix, correct_prior, macro_recall
from core.refit import Refitter
from core.traindata import TrainData, TrainResult
from core.trainer import CHECKPOINT_SHARE, NonFiniteLossError
from search.confirm_console import ConfirmConsole
from search.confirm_plan import Candidate, Plan, Rows, Task
from search.confirm_summary import Outcome
from search.resources import Resources

_log = logging.getLogger(__name__)


class Confirmation:
    """Carries a plan out.

    Args:
        plan: Which runs are missing.

    Attributes:
        failed: Why trials could not be confirmed, by number.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.folder = plan, plan.folder
        self.failed: dict[int, str] = {}

    def show_plan(self, resources: Resources) -> None:
        """Says what will be done."""
        plan, study, wanted = self.plan, self.plan.study, self.plan.wanted
        missing = sum(len(plan.missing(candidate)) for candidate in plan.candidates)
        finished = len(plan.candidates) * wanted.folds * wanted.seeds - missing
        numbers = ", ".join(str(candidate.number) for candidate in plan.candidates)
        write(
            f"Study {study.folder.name}: {counted(missing, 'run')} to go, {finished} finished, of "
            f"{study.arch.timm_name} at {study.arch.image_size} pixels on {describe_device(resources.device)}"
        )
        write(f"  data     {study.manifest.where} ({study.manifest.layout})")
        write(
            f"           {counted(len(plan.rows_N), 'image')} of {counted(len(set(plan.groups_N)), 'lesion')} in "
            f"{wanted.folds} folds, {len(study.split.test):,} sealed for the test"
        )
        write(f"  trials   {numbers}, the best of {len(plan.ranked)}, with {counted(wanted.seeds, 'seed')} each")

    def run(self, resources: Resources) -> None:
        """Makes the runs that are missing, and writes what each trial amounts to as soon as it has all of its own.

        Raises:
            StoppedError: Somebody asked for an end.
        """
        tasks = {candidate.number: self.plan.missing(candidate) for candidate in self.plan.candidates}
        if any(tasks.values()):
            self.folder.write_folds(self.plan.fold_rows())
            with self._open(resources) as refitter:
                self._show_estimate(refitter, tasks)
                with ConfirmConsole(sum(map(len, tasks.values()))) as console:
                    for candidate in self.plan.candidates:
                        self._train_all(candidate, tasks[candidate.number], refitter, console)
                        self._finish(candidate)
        for candidate in self.plan.candidates:  # a process may have died between a trial's last run and this
            self._finish(candidate)
        self.outcome().write()

    def outcome(self) -> Outcome:
        """What is confirmed by now, for people and for `summary.json`."""
        return Outcome(self.plan, self.failed)

    @contextmanager
    def _open(self, resources: Resources) -> Iterator[Refitter]:
        """Opens the pixels and builds the model. The test rows' pixels stay closed."""
        study, rows_N = self.plan.study, self.plan.rows_N
        opened = resources.open(study.manifest, study.arch, rows_N)
        data = TrainData.of(study.manifest, study.split, opened.source)
        with opened.source:
            yield Refitter(
                arch=study.arch,
                weights=study.weights,
                data=dataclasses.replace(data, train_rows=rows_N, val_rows=rows_N),
                device=resources.device,
                seed=self.plan.candidates[0].config.seed,
                activations=opened.activations,
                checkpoint_share=CHECKPOINT_SHARE,
            )

    def _show_estimate(self, refitter: Refitter, tasks: Mapping[int, list[Task]]) -> None:
        """Says how long it takes, measured on a few batches."""
        total_s = 0.0
        for candidate in self.plan.candidates:
            missing = tasks[candidate.number]
            if not missing:
                continue
            self._turn(refitter, missing[0])
            try:
                each_s = refitter.measure_refit_s(candidate.config_of(missing[0].seed), candidate.recalls)
            except NonFiniteLossError:
                continue  # its runs will say so
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                write(f"Trial {candidate.number} needs more memory than there is.")
                continue
            total_s += each_s * len(missing)
        write(f"It takes about {in_words(total_s)}, less what frozen layers gave and is remembered.")

    def _turn(self, refitter: Refitter, task: Task) -> Rows:
        """Readies the refitter for a run; returns the rows that are held out."""
        out_N = self.plan.fold_of_N == task.fold
        seed = task.candidate.config_of(task.seed).seed
        held_out: Rows = self.plan.rows_N[out_N]
        refitter.turn_to(self.plan.rows_N[~out_N], held_out, seed=seed)
        return held_out

    def _train_all(self, candidate: Candidate, tasks: list[Task], refitter: Refitter, console: ConfirmConsole) -> None:
        """Makes runs of a candidate. One that its own config makes impossible ends them."""
        for done, task in enumerate(tasks):
            try:
                self._train(task, refitter, console)
                continue
            except NonFiniteLossError as error:
                reason = str(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"out of memory: {one_line(str(error))}"
            self.failed[candidate.number] = f"{reason}, with fold {task.fold + 1} held out"
            write(f"trial {candidate.number} can't be confirmed: {self.failed[candidate.number]}")
            console.skip(len(tasks) - done)
            return

    def _train(self, task: Task, refitter: Refitter, console: ConfirmConsole) -> None:
        """Makes one run and keeps it."""
        candidate, fold, seed = task
        held_out, wanted = self._turn(refitter, task), self.plan.wanted
        checkpoint = self.folder.checkpoint_file(candidate.number, fold, seed)
        name = f"trial {candidate.number}, fold {fold + 1} of {wanted.folds}"
        if seed or wanted.seeds > 1:
            name += f", seed {seed + 1} of {wanted.seeds}"
        config, epochs = candidate.config_of(seed), len(candidate.recalls)
        if epochs_in(checkpoint) >= epochs:  # of another trial, which had this number before
            checkpoint.unlink()
        console.run_starts(name, epochs=epochs, epochs_done=epochs_in(checkpoint), images=len(refitter.data.train_rows))

        def train() -> TrainResult:
            return refitter.refit(
                config,
                candidate.recalls,
                checkpoint_file=checkpoint,
                on_epoch=console.epoch_done,
                on_step=console.step_done,
            )

        try:
            result = train()
        except CheckpointError as error:
            _log.warning("%s starts afresh: %s", name, error)
            checkpoint.unlink()
            result = train()
        run = ConfirmedRun(
            folder=self.folder.run_folder(candidate.number, fold, seed),
            config=config.to_dict(),
            epochs=epochs,
            prior=tuple(result.prior.tolist()),
            elapsed_s=result.elapsed_s,
        )
        self.folder.write_run(run, result.val_probs, result.model if wanted.keep_models else None)
        checkpoint.unlink(missing_ok=True)
        labels = self.plan.study.manifest.labels[held_out]
        recall = evaluate(labels, result.val_probs, result.prior).recall
        console.run_done(recall, images=len(held_out), elapsed_s=result.elapsed_s)

    def _finish(self, candidate: Candidate) -> None:
        """Writes what a candidate's runs amount to, if all of a seed are there and it isn't what lies there already."""
        plan, seeds = self.plan, self.plan.find_seeds(candidate)
        if not seeds:
            return
        folds, epochs, config = plan.wanted.folds, len(candidate.recalls), candidate.config.to_dict()
        probs_SNC, priors_SFC = self._stack(seeds)
        priors = tuple(tuple(map(tuple, of_seed)) for of_seed in priors_SFC.tolist())
        before, told = self.folder.read_trial(candidate.number), (len(seeds), epochs, config, priors)
        # A run that was made again, perhaps on another device, has the same config and says something else.
        if before and (before.seeds, before.epochs, before.config, before.priors) == told:
            if np.array_equal(before.oof_probs(), probs_SNC):
                return
        classes = len(plan.study.manifest.classes)
        corrected_SNC = list(map(correct_prior, probs_SNC, priors_SFC[:, plan.fold_of_N]))
        hits_SN = np.stack(corrected_SNC).argmax(2) == plan.labels_N
        bootstrap = LesionBootstrap(plan.labels_N, plan.groups_N, classes)
        trial = ConfirmedTrial(
            number=candidate.number,
            folder=self.folder.trial_folder(candidate.number),
            config=config,
            folds=folds,
            seeds=len(seeds),
            epochs=epochs,
            recall=_mean_recall(corrected_SNC, plan.labels_N),
            recall_interval=bootstrap.interval(hits_SN.mean(axis=0)),
            recall_argmax=_mean_recall(probs_SNC, plan.labels_N),
            priors=priors,
            elapsed_s=sum(run.elapsed_s for runs in seeds for run in runs),
        )
        self.folder.write_trial(trial, probs_SNC)
        self.outcome().write()

    def _stack(
        self, seeds: Sequence[Sequence[ConfirmedRun]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """The probabilities of all rows (S, N, C), and the priors of all runs (S, F, C)."""
        plan, classes = self.plan, len(self.plan.study.manifest.classes)
        probs_SNC = np.zeros((len(seeds), len(plan.rows_N), classes), np.float32)
        for probs_NC, runs in zip(probs_SNC, seeds, strict=True):
            for fold, run in enumerate(runs):
                out_N, probs = plan.fold_of_N == fold, run.probs()
                if probs.shape != (np.count_nonzero(out_N), classes) or len(run.prior) != classes:
                    raise InputError(f"{run.folder} must be of the rows held out, but is of others. Remove it.")
                probs_NC[out_N] = probs
        return probs_SNC, np.array([[run.prior for run in runs] for runs in seeds])


def _mean_recall(probs_SNC: Iterable[Floats], labels_N: Rows) -> float:
    """Macro recall of one network, the mean over seeds."""
    return float(np.mean([macro_recall(confusion_matrix(labels_N, p.argmax(1), p.shape[1])) for p in probs_SNC]))
