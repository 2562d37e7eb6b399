from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from search.loop import SearchFailedError, count_finished, explain_failures, run_trials, take_over
from search.objective import Objective, StoppedError


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
        object.__setattr__(self, "script", script)

    def run(self, study: optuna.Study, trial: optuna.Trial) -> None:
        step = self.script.pop(0)
        if step == "stop":
            raise StoppedError("it was asked to")
        if step == "complete":
            study.tell(trial, 0.5)
        elif step == "pruned":
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
    assert take_over(study) is None


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
    assert explain_failures(study, 50) == ""


def test_more_failures_than_a_fifth_stop_the_search(study: optuna.Study) -> None:
    add(study, "a", "complete", "b", "complete")
    assert explain_failures(study, 10) == ""
    add(study, "c")
    assert explain_failures(study, 10) == "3 of 5 trials failed, the last one with c"


def test_asking_goes_through_the_callers_function(study: optuna.Study) -> None:
    asked = []

    def ask() -> optuna.Trial:
        asked.append(1)
        return study.ask()

    asking: Callable[[], optuna.Trial] = ask
    run_trials(study, ScriptedObjective(["complete"] * 2), n_trials=2, ask=asking)
    assert len(asked) == 2
