from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from search.loop import SearchFailedError, count_finished, explain_failures, run_trials, take_over
from search.objective import INFEASIBLE, Objective, StoppedError
from tests.search.conftest import RecordingWatcher


def add(study: optuna.Study, *states: str) -> None:
    """Adds finished trials: ``complete``, ``pruned``, or the reason of a failure."""
    for state in states:
        trial = study.ask()
        if state == "complete":
            study.tell(trial, 0.5)
        elif state == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("reason", state)
            study.tell(trial, state=TrialState.FAIL)


class ScriptedObjective(Objective):
    """Ends each trial as the script says."""

    def __init__(self, script: list[str]) -> None:
        for name, value in {"script": script, "names": (), "watcher": RecordingWatcher()}.items():
            object.__setattr__(self, name, value)

    def run(self, study: optuna.Study, trial: optuna.Trial) -> None:
        step = self.script.pop(0)
        if step == "stop":
            raise StoppedError("it was asked to")
        if step == "complete":
            study.tell(trial, 0.5)
        elif step == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        elif step == "impossible":
            trial.set_constraint(INFEASIBLE, 1.0)
            trial.set_user_attr("reason", "out of memory")
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("reason", step)
            study.tell(trial, state=TrialState.FAIL)


def numbers(study: optuna.Study, *states: TrialState) -> list[int]:
    return [trial.number for trial in study.trials if trial.state in states]


def test_complete_and_pruned_trials_count_over_all_restarts_and_failures_do_not(study: optuna.Study) -> None:
    add(study, "complete")
    script = ["pruned", "broken disk", "complete", "never"]
    assert run_trials(study, ScriptedObjective(script), n_trials=3, ask=study.ask) == ""
    assert count_finished(study) == 3
    assert script == ["never"]


def test_no_trial_is_asked_for_when_enough_are_finished(study: optuna.Study) -> None:
    add(study, "complete", "pruned")

    def ask() -> optuna.Trial:
        raise AssertionError("asked")

    assert run_trials(study, ScriptedObjective([]), n_trials=2, ask=ask) == ""


def test_a_trial_left_running_is_finished_before_another_is_asked_for(study: optuna.Study) -> None:
    add(study, "complete")
    left = study.ask()
    assert run_trials(study, ScriptedObjective(["complete", "complete"]), n_trials=3, ask=study.ask) == ""
    assert left.number == 1
    assert numbers(study, TrialState.COMPLETE) == [0, 1, 2]
    assert take_over(study, ()) is None


def test_a_stopped_search_leaves_its_trial_to_be_continued(study: optuna.Study) -> None:
    assert run_trials(study, ScriptedObjective(["complete", "stop"]), n_trials=3, ask=study.ask) == "it was asked to"
    assert numbers(study, TrialState.RUNNING) == [1]
    run_trials(study, ScriptedObjective(["complete", "complete"]), n_trials=3, ask=study.ask)
    assert numbers(study, TrialState.COMPLETE) == [0, 1, 2]


def test_three_failures_alike_in_a_row_stop_the_search(study: optuna.Study) -> None:
    script = ["broken disk"] * 5
    with pytest.raises(SearchFailedError, match=r"3 trials in a row failed alike \(broken disk\)"):
        run_trials(study, ScriptedObjective(script), n_trials=50, ask=study.ask)
    assert len(script) == 2


def test_failures_that_differ_or_are_apart_do_not_stop_it(study: optuna.Study) -> None:
    add(study, "a", "a", "b", "complete", "a", "a")
    assert explain_failures(study.trials, 50) == ""


def test_more_failures_than_a_fifth_stop_the_search(study: optuna.Study) -> None:
    add(study, "a", "complete", "b")
    assert explain_failures(study.trials, 10) == ""
    add(study, "complete", "c")
    assert explain_failures(study.trials, 10) == "3 of 5 trials failed, the last one with c"


def test_a_trial_that_succeeds_never_stops_the_search(study: optuna.Study) -> None:
    add(study, "a", "b", "c", "complete")
    assert explain_failures(study.trials, 10) == ""


def test_failures_of_an_earlier_run_do_not_count_once_their_cause_is_mended(study: optuna.Study) -> None:
    add(study, "broken disk", "broken disk", "broken disk")
    script = ["complete", "broken disk", "complete"]
    assert run_trials(study, ScriptedObjective(script), n_trials=2, ask=study.ask) == ""
    assert count_finished(study) == 2


def test_five_impossible_trials_in_a_row_stop_the_search(study: optuna.Study) -> None:
    script = ["complete", *["impossible"] * 9]
    with pytest.raises(SearchFailedError, match=r"5 trials in a row were impossible \(out of memory\)"):
        run_trials(study, ScriptedObjective(script), n_trials=50, ask=study.ask)
    assert len(script) == 4


def test_a_trial_whose_process_died_while_asking_is_not_run_with_half_its_parameters(study: optuna.Study) -> None:
    half = study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
    assert take_over(study, ("lr", "drop_rate")) is None
    assert study.trials[half.number].state == TrialState.FAIL
    assert study.trials[half.number].user_attrs["reason"] == "its process died while it asked for parameters"


def test_asking_goes_through_the_callers_function(study: optuna.Study) -> None:
    asked = []

    def ask() -> optuna.Trial:
        asked.append(1)
        return study.ask()

    asking: Callable[[], optuna.Trial] = ask
    run_trials(study, ScriptedObjective(["complete"] * 2), n_trials=2, ask=asking)
    assert len(asked) == 2
