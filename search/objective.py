"""One trial: train, report, prune, keep."""

import logging
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from core.artifacts import StudyFolder, TrialRecord
from core.checkpoint import CheckpointError, epochs_in
from core.config import TrainConfig
from core.device import is_out_of_memory
from core.errors import InputError
from core.metrics import bootstrap_interval, correct_prior
from core.trainer import EpochResult, NonFiniteLossError, Trainer, TrainResult
from search.crew import FencedError, Hold, TakenOverError
from search.pictures import Pictures, name_pictures

INFEASIBLE = "infeasible"  # the constraint that tells the sampler to stay away
PRUNED = "pruned"
COMPLETE = "complete"
PRUNED_IN = "pruned_in"  # the attribute that tells the epoch, counted from 0, in which a trial was pruned
MAX_DEATHS = 5  # of processes in a row that ran one trial, without an epoch between them

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The user, the machine or the clock asked the search to stop; the trial can be continued."""


class Watcher(Protocol):
    """Is told how trials come along, and may stop them."""

    def check(self) -> None:
        """Raises StoppedError where the search should stop."""

    def trial_starts(self, number: int, config: TrainConfig, epochs_done: int) -> None:
        """A trial begins, or continues after some epochs."""

    def step_done(self, images: int) -> None:
        """A batch has been trained on. Raises StoppedError to break the trial off."""

    def epoch_done(self, result: EpochResult) -> None:
        """An epoch is over."""

    def trial_done(self, number: int, state: str, record: TrialRecord | None, reason: str) -> None:
        """A trial is over; without a record if it gave none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """Runs the trials of one study.

    Attributes:
        folder: Where finished trials go.
        pictures: Draws them for the dashboard.
        trainer: Trains them, one after the other.
        groups: Lesion of each validation row, for intervals.
        fixed: Fields of `TrainConfig` that no trial varies.
        keep: Number of best trials whose weights stay.
        watcher: Is told how trials come along.
    """

    folder: StudyFolder
    pictures: Pictures
    trainer: Trainer
    groups: tuple[str, ...]
    fixed: dict[str, Any]
    keep: int
    watcher: Watcher

    def config_of(self, trial: optuna.Trial) -> TrainConfig:
        """The config that a trial's parameters stand for."""
        return TrainConfig.from_dict({**self.fixed, **trial.params, "trial": trial.number})

    def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
        """Runs one trial to its end and tells the study. A failure of ours is stored with the trial and not raised.

        Args:
            study: The study.
            trial: The trial.
            hold: Says that it is this worker's.

        Raises:
            StoppedError, OSError, InputError: The trial was broken off, by somebody or by a full disk, say. It stays as
                it is, and continues from its last epoch.
            FencedError: It has another owner by now, or the study's lock was taken from this process.
        """
        try:
            if self.folder.holds_trial(trial.number):
                # A process died between keeping the trial and telling Optuna.
                self._tell(study, trial, hold, self.folder.read_trial(trial.number))
            elif hold.deaths >= MAX_DEATHS:
                self._tell_infeasible(study, trial, hold, f"{MAX_DEATHS} processes in a row died while they ran it")
            else:
                self._try(study, trial, hold)
        except TakenOverError:
            self.folder.checkpoint_file(trial.number, hold.generation).unlink(missing_ok=True)  # nobody reads it
            raise
        self.folder.drop_models(self.keep)
        self.folder.drop_checkpoints(trial.number)

    def _try(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
        try:
            record = self._keep(trial, hold, self._train(study, trial, hold))
        except (StoppedError, FencedError, OSError, InputError):
            raise
        except NonFiniteLossError as error:
            self._tell_infeasible(study, trial, hold, str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._tell_infeasible(study, trial, hold, f"out of memory: {_first_line(error)}")
            else:
                self._tell_failure(study, trial, hold, error)
        else:
            self._tell(study, trial, hold, record)

    def _train(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> TrainResult:
        config = self.config_of(trial)
        reported = study.trials[trial.number].intermediate_values
        checkpoint = self.folder.inherit_checkpoint(trial.number, hold.generation)
        self.watcher.trial_starts(trial.number, config, epochs_in(checkpoint))

        def on_epoch(result: EpochResult) -> str | None:
            is_last = result.epoch + 1 == config.epochs
            with hold.acting():
                if result.epoch not in reported:  # else it is done again, for want of a checkpoint
                    trial.report(result.val.recall, step=result.epoch)
                    reported[result.epoch] = result.val.recall
                # Optuna judges by the last report. An epoch that is repeated was judged before, as it stood then.
                is_newest = result.epoch >= max(reported)
                is_pruned = is_newest and not is_last and _is_pruned(trial, result.epoch)
            self.watcher.epoch_done(result)
            return PRUNED if is_pruned else None

        def train() -> TrainResult:
            return self.trainer.train(config, on_epoch, checkpoint_file=checkpoint, on_step=self.watcher.step_done)

        with self.folder.sharing(checkpoint):
            try:
                return train()
            except CheckpointError as error:
                _log.warning("trial %d starts afresh: %s", trial.number, error)
                checkpoint.unlink()
                return train()

    def _keep(self, trial: optuna.Trial, hold: Hold, result: TrainResult) -> TrialRecord:
        """Writes the trial's folder."""
        best = result.history[result.best_epoch]
        data = self.trainer.data
        predictions_N = correct_prior(result.val_probs, result.prior).argmax(1)
        interval = bootstrap_interval(data.labels[data.val_rows], predictions_N, self.groups, len(data.classes))
        record = TrialRecord(
            number=trial.number,
            state=PRUNED if result.reason == PRUNED else COMPLETE,
            folder=Path(),
            config=self.config_of(trial).to_dict(),
            recall=best["val_recall"],
            recall_interval=interval,
            recall_argmax=best["val_recall_argmax"],
            best_epoch=result.best_epoch,
            prior=tuple(result.prior.tolist()),
            elapsed_s=result.elapsed_s,
            reason=result.reason,
            zeros=result.zeros,
            generation=hold.generation,
        )
        return self.folder.write_trial(
            record,
            history=result.history,
            val_probs_NC=result.val_probs,
            model=result.model if record.state == COMPLETE else None,
            replacing=hold.acting(),
        )

    def _tell(self, study: optuna.Study, trial: optuna.Trial, hold: Hold, record: TrialRecord) -> None:
        """Names the trial's pictures, and tells the study."""
        attributes: dict[str, Any] = {
            "recall_interval": list(record.recall_interval),
            "recall_argmax": record.recall_argmax,
            "best_epoch": record.best_epoch,
            "zeros": record.zeros,
        }
        if record.reason:
            attributes["reason"] = record.reason
        with hold.acting():
            names = name_pictures(trial)
            trial.set_constraint(INFEASIBLE, 0.0)
            if record.state == PRUNED:
                self._end(study, trial, hold, attributes, TrialState.PRUNED)
            else:
                self._end(study, trial, hold, attributes, TrialState.COMPLETE, record.recall)
        self.pictures.draw(names, record)
        self.watcher.trial_done(trial.number, record.state, record, record.reason)

    def _tell_infeasible(self, study: optuna.Study, trial: optuna.Trial, hold: Hold, reason: str) -> None:
        """Ends a trial that its own parameters made impossible, so that the sampler learns to avoid them."""
        with hold.acting():
            trial.set_constraint(INFEASIBLE, 1.0)
            self._end(study, trial, hold, {"reason": reason}, TrialState.PRUNED)
        self.watcher.trial_done(trial.number, INFEASIBLE, None, reason)

    def _tell_failure(self, study: optuna.Study, trial: optuna.Trial, hold: Hold, error: Exception) -> None:
        """Ends a trial that failed for a reason of ours; it does not count."""
        trace = "".join(traceback.format_exception(error))
        reason = f"{type(error).__name__}: {_first_line(error)}"
        _log.error("trial %d failed:\n%s", trial.number, trace)
        with hold.acting():
            self._end(study, trial, hold, {"reason": reason, "traceback": trace}, TrialState.FAIL)
        self.watcher.trial_done(trial.number, "failed", None, reason)

    def _end(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        hold: Hold,
        attributes: dict[str, Any],
        state: TrialState,
        value: float | None = None,
    ) -> None:
        """Ends a trial in Optuna's eyes, and its lease. Within `hold.acting`."""
        attributes = {**attributes, "worker": hold.worker, "generation": hold.generation}
        for name, content in attributes.items():
            trial.set_user_attr(name, content)
        hold.check()  # this process may have been stopped since it took the lock
        study.tell(trial, value, state)
        hold.end()


def _is_pruned(trial: optuna.Trial, epoch: int) -> bool:
    """Whether the pruner ends a trial with the epoch that was reported last; asked again, it says the same.

    Hyperband itself doesn't: it notes with the trial what it has judged, and lets it pass the next time. Within
    `hold.acting`.
    """
    if trial.user_attrs.get(PRUNED_IN) == epoch:
        return True
    if verdict := trial.should_prune():
        trial.set_user_attr(PRUNED_IN, epoch)
    return verdict


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
