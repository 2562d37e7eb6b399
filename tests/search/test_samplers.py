import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState

from search.samplers import PRUNERS, SAMPLERS, build_pruner, build_sampler, warmup_epochs

RANGES = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "drop_rate": FloatDistribution(0, 0.5)}


def propose(study: optuna.Study, sampler: str, number: int) -> dict[str, float]:
    study.sampler = build_sampler(sampler, RANGES, seed=1000 + number)
    trial = study.ask(fixed_distributions=RANGES)
    study.tell(trial, -trial.params["lr"])
    return trial.params


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_restart_changes_no_proposal(sampler: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    undisturbed = optuna.create_study(direction="maximize")
    expected = [propose(undisturbed, sampler, number) for number in range(14)]
    optuna.create_study(storage=storage, study_name="restarted", direction="maximize")
    proposals = []
    for number in range(14):
        study = optuna.load_study(storage=storage, study_name="restarted")  # a new process would do this
        proposals.append(propose(study, sampler, number))
    assert proposals == expected
    assert len({params["lr"] for params in proposals}) == 14


@pytest.mark.parametrize(("sampler", "optunas"), [("tpe", TPESampler), ("gp", GPSampler)])
def test_being_told_the_space_changes_no_proposal(sampler: str, optunas: type[BaseSampler]) -> None:
    ranges = {**RANGES, "fixed": FloatDistribution(1, 1)}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(14):
        trial = study.ask(ranges)
        study.tell(trial, -trial.params["lr"])
    told = build_sampler(sampler, ranges, seed=5)
    found = optunas.infer_relative_search_space(told, study, study.trials[-1])
    assert list(found.items()) == list(told.infer_relative_search_space(study, study.trials[-1]).items())


def report(study: optuna.Study, curve: list[float]) -> optuna.Trial:
    trial = study.ask()
    for epoch, value in enumerate(curve):
        trial.report(value, epoch)
        trial.should_prune()  # Hyperband notes a trial's rungs as it is asked
    return trial


@pytest.mark.parametrize("pruner", ["percentile", "median", "hyperband"])
def test_hopeless_trials_are_pruned_after_the_warm_up_and_not_before(pruner: str) -> None:
    study = optuna.create_study(direction="maximize", pruner=build_pruner(pruner, epochs=10))
    for value in [0.7 + 0.01 * i for i in range(20)]:
        study.tell(report(study, [value] * 10), value)
    hopeless = [study.ask() for _ in range(6)]
    pruned_at = []
    for trial in hopeless:
        for epoch in range(10):
            trial.report(0.1, epoch)
            if trial.should_prune():
                pruned_at.append(epoch)
                break
        study.tell(trial, state=TrialState.PRUNED)
    assert pruned_at
    assert min(pruned_at) >= warmup_epochs(10) - 1


def test_no_trial_is_pruned_without_a_pruner() -> None:
    study = optuna.create_study(direction="maximize", pruner=build_pruner("none", epochs=4))
    for _ in range(8):
        study.tell(report(study, [0.9] * 4), 0.9)
    assert not report(study, [0.0] * 4).should_prune()


def test_the_warm_up_is_half_of_a_short_run_and_five_epochs_of_a_long_one() -> None:
    assert [warmup_epochs(epochs) for epochs in (1, 2, 5, 10, 50)] == [1, 1, 3, 3, 3]


def test_names_have_builders() -> None:
    for name in SAMPLERS:
        build_sampler(name, RANGES, seed=0)
    for name in PRUNERS:
        build_pruner(name, epochs=3)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_was_impossible_is_stayed_away_from(sampler: str) -> None:
    def propose_after(impossible: int) -> list[float]:
        study = optuna.create_study(direction="maximize")
        rng = random.Random(0)
        for number in range(12 + impossible):
            exponent = rng.uniform(-5, -2) if number < 12 else rng.uniform(-2, -1)
            study.enqueue_trial({"lr": 10**exponent, "drop_rate": rng.uniform(0, 0.5)})
            trial = study.ask(RANGES)
            trial.set_constraint("infeasible", float(number >= 12))
            if number < 12:
                study.tell(trial, exponent)
            else:
                study.tell(trial, state=TrialState.PRUNED)
        proposals = []
        for seed in range(4):
            study.sampler = build_sampler(sampler, RANGES, seed=seed)
            trial = study.ask(RANGES)
            proposals.append(trial.params["lr"])
            study.tell(trial, state=TrialState.FAIL)
        return proposals

    assert sum(lr > 1e-2 for lr in propose_after(0)) >= 2
    assert max(propose_after(12)) < 1.2e-2


def test_a_gaussian_process_learns_of_pruned_trials_as_of_complete_ones() -> None:
    def propose_after(pruned: bool) -> dict[str, float]:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        for number in range(14):
            trial = study.ask(RANGES)
            trial.set_constraint("infeasible", 0.0)
            for epoch, share in enumerate((0.5, 1.0, 0.9)):
                trial.report(share * trial.params["drop_rate"], epoch)
            if pruned and number >= 10:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, trial.params["drop_rate"])
        study.sampler = build_sampler("gp", RANGES, seed=5)
        return study.ask(RANGES).params

    assert propose_after(pruned=True) == propose_after(pruned=False)
