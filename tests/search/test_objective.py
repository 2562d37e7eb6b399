import dataclasses
import errno

import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from core.errors import InputError
from core.trainer import Trainer
from search.crew import Crew, FencedError, TakenOverError
from search.objective import Objective, StoppedError
from search.samplers import build_pruner
from tests.search.conftest import RecordingWatcher, go_on, run_trial


def ask(study: optuna.Study, lr: float = 1e-3) -> optuna.Trial:
    return study.ask({"lr": FloatDistribution(lr, lr)})


class PruneFrom(optuna.pruners.BasePruner):
    """Prunes from an epoch on."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        assert trial.last_step is not None
        return trial.last_step >= self.epoch


def test_a_complete_trial_is_judged_by_its_best_epoch_and_kept_whole(
    study: optuna.Study, objective: Objective, crew: Crew
) -> None:
    run_trial(objective, study, crew, ask(study))
    [trial], [record] = study.trials, objective.folder.read_trials()
    history = record.history()
    assert trial.state == TrialState.COMPLETE
    assert trial.value == record.recall == max(row["val_recall"] for row in history)
    assert trial.intermediate_values == {0: history[0]["val_recall"], 1: history[1]["val_recall"]}
    assert record.recall_interval[0] <= record.recall <= record.recall_interval[1]
    assert record.has_model
    assert record.val_probs().shape == (24, 2)


def test_a_pruned_trial_is_kept_without_weights(study: optuna.Study, objective: Objective, crew: Crew) -> None:
    study.pruner = PruneFrom(0)
    run_trial(objective, study, crew, ask(study))
    [record] = objective.folder.read_trials()
    assert study.trials[0].state == TrialState.PRUNED
    assert (record.state, record.has_model, len(record.history())) == ("pruned", False, 1)


def test_a_verdict_is_honoured_though_the_trial_could_not_be_kept(
    study: optuna.Study, objective: Objective, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.pruner = build_pruner("hyperband", epochs=4)
    longer = dataclasses.replace(objective, fixed=objective.fixed | {"epochs": 4})
    for _ in range(6):  # so good that another is ended where it is first judged, in its third epoch
        rival = study.ask()
        for epoch in range(4):
            rival.report(1.0, epoch)
            rival.should_prune()
        study.tell(rival, 1.0)
    trial = ask(study)

    def fill_disk(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "_keep", fill_disk)
        with pytest.raises(OSError, match="No space left"):
            run_trial(longer, study, crew, trial)
    assert study.trials[trial.number].state == TrialState.RUNNING
    go_on(longer, study, crew)
    [record] = objective.folder.read_trials()
    assert study.trials[trial.number].state == TrialState.PRUNED
    assert (record.state, len(record.history())) == ("pruned", 3)


def test_a_trial_that_reached_its_last_epoch_is_complete_whatever_the_pruner_says(
    study: optuna.Study, objective: Objective, crew: Crew
) -> None:
    study.pruner = PruneFrom(1)
    run_trial(objective, study, crew, ask(study))
    assert study.trials[0].state == TrialState.COMPLETE


def test_a_loss_that_is_not_finite_teaches_the_sampler(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher
) -> None:
    wild = dataclasses.replace(objective, fixed=objective.fixed | {"optimizer": "sgd"})
    run_trial(wild, study, crew, ask(study, lr=1e30))
    [trial] = study.trials
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"infeasible": 1.0}
    assert trial.user_attrs["reason"].startswith("the loss was not finite in epoch 0, step")
    assert watcher.done[0][1] == "infeasible"


class FailingTrainer(Trainer):
    """Shares the state of a trainer and fails in `train`."""

    def __init__(self, trainer: Trainer, error: BaseException) -> None:
        self.__dict__ = dict(trainer.__dict__)
        self.error = error

    def train(self, *args: object, **kwargs: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 20 GiB"),
        MemoryError("no room"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 20 GB)"),
    ],
)
def test_running_out_of_memory_teaches_the_sampler(
    study: optuna.Study, objective: Objective, crew: Crew, error: BaseException
) -> None:
    failing = dataclasses.replace(objective, trainer=FailingTrainer(objective.trainer, error))
    run_trial(failing, study, crew, ask(study))
    [trial] = study.trials
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"infeasible": 1.0})
    assert trial.user_attrs["reason"] == f"out of memory: {error}"


def test_a_failure_is_stored_with_type_text_and_traceback(
    study: optuna.Study, objective: Objective, crew: Crew
) -> None:
    failing = dataclasses.replace(objective, trainer=FailingTrainer(objective.trainer, RuntimeError("disk on fire")))
    run_trial(failing, study, crew, ask(study))
    [trial] = study.trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "RuntimeError: disk on fire"
    assert "raise self.error" in trial.user_attrs["traceback"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), InputError("an image is gone")])
def test_what_the_user_can_mend_breaks_the_trial_off_and_loses_nothing(
    study: optuna.Study, objective: Objective, crew: Crew, error: Exception
) -> None:
    checkpoint = objective.folder.checkpoint_file(0, 1)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text("earlier epochs")
    failing = dataclasses.replace(objective, trainer=FailingTrainer(objective.trainer, error))
    with pytest.raises(type(error), match=r"No space left|an image is gone"):
        run_trial(failing, study, crew, ask(study))
    assert study.trials[0].state == TrialState.RUNNING
    assert checkpoint.read_text() == "earlier epochs"


def test_a_damaged_checkpoint_costs_its_trial_only_the_epochs_in_it(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher
) -> None:
    checkpoint = objective.folder.checkpoint_file(0, 1)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text("no tensors")
    run_trial(objective, study, crew, ask(study))
    assert study.trials[0].state == TrialState.COMPLETE
    assert watcher.epochs == [(0, 0), (0, 1)]


def test_only_the_best_keep_their_weights(study: optuna.Study, objective: Objective, crew: Crew) -> None:
    for lr in (1e-5, 1e-3, 3e-3):
        run_trial(objective, study, crew, ask(study, lr))
    records = objective.folder.read_trials()
    kept = {record.number for record in records if record.has_model}
    best = sorted(records, key=lambda record: (-record.recall, record.number))[:2]
    assert kept == {record.number for record in best}


def test_a_stopped_trial_continues_under_its_number_with_the_same_history(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher
) -> None:
    def stop_in_second_epoch() -> None:
        if (0, 0) in watcher.epochs:
            raise StoppedError("it was asked to")

    watcher.on_step = stop_in_second_epoch
    with pytest.raises(StoppedError, match="it was asked to"):
        run_trial(objective, study, crew, ask(study))
    assert study.trials[0].state == TrialState.RUNNING
    watcher.on_step = lambda: None
    go_on(objective, study, crew)
    assert watcher.epochs == [(0, 0), (0, 1)]
    [record] = objective.folder.read_trials()
    assert record.number == 0
    assert not list(objective.folder.running.glob("*.safetensors"))
    assert len(record.history()) == 2


def test_a_trial_goes_on_from_its_checkpoint_after_the_studys_lock_was_lost(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # When the second epoch is reported, the lock is another's; the lease is unchanged.
        patch.setattr(crew.leases, "holds_lock", lambda: watcher.epochs == [])
        with pytest.raises(FencedError, match="the study's lock was taken"):
            run_trial(objective, study, crew, ask(study))
    go_on(objective, study, crew)
    assert watcher.epochs == [(0, 0), (0, 1)]
    assert not list(objective.folder.running.glob("*.safetensors"))


def test_a_trial_that_was_taken_over_leaves_no_checkpoint_that_nobody_reads(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher
) -> None:
    def lose_in_second_epoch() -> None:
        if watcher.epochs == [(0, 0)]:
            watcher.epochs.append((-1, -1))
            with crew.leases.lock():
                crew.take(0)

    watcher.on_step = lose_in_second_epoch
    with pytest.raises(TakenOverError, match="trial 0 was taken over"):
        run_trial(objective, study, crew, ask(study))
    assert not list(objective.folder.running.glob("*.safetensors"))


def test_a_trial_that_was_kept_but_never_told_is_told_without_training(
    study: optuna.Study, objective: Objective, crew: Crew, watcher: RecordingWatcher
) -> None:
    trial = ask(study)
    with crew.leases.lock():
        hold = crew.take(trial.number)
    record = objective._keep(trial, hold, objective._train(study, trial, hold))
    hold.give_back()
    watcher.epochs.clear()
    go_on(objective, study, crew)
    assert watcher.epochs == []
    assert study.trials[0].value == record.recall
    assert len(get_all_artifact_meta(study.trials[0], storage=study._storage)) == 2


def test_a_trial_that_runs_out_of_memory_where_parts_give_the_same_completes_as_it_was_asked_for(
    study: optuna.Study,
    objective: Objective,
    crew: Crew,
    watcher: RecordingWatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = objective.trainer.model
    monkeypatch.setattr(objective.trainer, "checkpoint_share", 0.0)  # so that the first epoch is done again

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if watcher.epochs and torch.is_grad_enabled() and len(inputs[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.backbone.get_submodule(model.head_name).register_forward_pre_hook(refuse)
    shallow = dataclasses.replace(objective, fixed=objective.fixed | {"unfreeze_depth": 0})
    run_trial(shallow, study, crew, ask(study))
    handle.remove()
    [trial], [record] = study.trials, objective.folder.read_trials()
    assert (trial.state, trial.constraints) == (TrialState.COMPLETE, {"infeasible": 0.0})
    assert watcher.epochs == [(0, 0), (0, 0), (0, 1)]
    assert record.config == shallow.config_of(trial).to_dict()
    assert "batches of 64 are more than memory has room for: they are computed 8 images at a time" in caplog.text
