import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from core.artifacts import StudiesFolder, StudyFolder
from core.errors import LostError
from search.asking import Asking
from search.crew import Crew, FencedError, Hold
from search.file_leases import FileLeases
from search.loop import (
    SearchFailedError,
    Turn,
    count_finished,
    explain_failures,
    next_turn,
    run_trials,
    run_turn,
)
from search.objective import INFEASIBLE, MAX_DEATHS, Objective, StoppedError
from search.samplers import STARTUP_TRIALS
from search.space import Space
from search.storage import open_storage, open_study
from tests.search.conftest import LR, RecordingWatcher


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
        for name, value in {"script": script, "watcher": RecordingWatcher()}.items():
            object.__setattr__(self, name, value)

    def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
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


def asking(study: optuna.Study, space: Space = LR) -> Asking:
    return Asking(study=study, space=space, sampler="random", seed=lambda number: number)


def numbers(study: optuna.Study, *states: TrialState) -> list[int]:
    return [trial.number for trial in study.trials if trial.state in states]


def test_complete_and_pruned_trials_count_over_all_restarts_and_failures_do_not(
    study: optuna.Study, crew: Crew
) -> None:
    add(study, "complete")
    script = ["pruned", "broken disk", "complete", "never"]
    assert run_trials(study, ScriptedObjective(script), crew, asking(study), n_trials=3) == ""
    assert count_finished(study) == 3
    assert script == ["never"]


def test_no_trial_is_asked_for_when_enough_are_finished(study: optuna.Study, crew: Crew) -> None:
    add(study, "complete", "pruned")

    assert run_trials(study, ScriptedObjective([]), crew, asking(study), n_trials=2) == ""
    assert len(study.trials) == 2


def test_a_trial_left_running_is_finished_before_another_is_asked_for(study: optuna.Study, crew: Crew) -> None:
    add(study, "complete")
    left = study.ask()
    assert run_trials(study, ScriptedObjective(["complete", "complete"]), crew, asking(study), n_trials=3) == ""
    assert left.number == 1
    assert numbers(study, TrialState.COMPLETE) == [0, 1, 2]


def test_a_stopped_search_leaves_its_trial_to_be_continued(study: optuna.Study, crew: Crew) -> None:
    assert (
        run_trials(study, ScriptedObjective(["complete", "stop"]), crew, asking(study), n_trials=3) == "it was asked to"
    )
    assert numbers(study, TrialState.RUNNING) == [1]
    run_trials(study, ScriptedObjective(["complete", "complete"]), crew, asking(study), n_trials=3)
    assert numbers(study, TrialState.COMPLETE) == [0, 1, 2]


def test_three_failures_alike_in_a_row_stop_the_search(study: optuna.Study, crew: Crew) -> None:
    script = ["broken disk"] * 5
    with pytest.raises(SearchFailedError, match=r"3 trials in a row failed alike \(broken disk\)"):
        run_trials(study, ScriptedObjective(script), crew, asking(study), n_trials=50)
    assert len(script) == 2


def test_failures_that_differ_or_are_apart_do_not_stop_it(study: optuna.Study, crew: Crew) -> None:
    add(study, "a", "a", "b", "complete", "a", "a")
    assert explain_failures(study.trials, 50) == ""


def test_more_failures_than_a_fifth_stop_the_search(study: optuna.Study, crew: Crew) -> None:
    add(study, "a", "complete", "b")
    assert explain_failures(study.trials, 10) == ""
    add(study, "complete", "c")
    assert explain_failures(study.trials, 10) == "3 of 5 trials failed, the last one with c"


def test_a_trial_that_succeeds_never_stops_the_search(study: optuna.Study, crew: Crew) -> None:
    add(study, "a", "b", "c", "complete")
    assert explain_failures(study.trials, 10) == ""


def test_failures_of_an_earlier_run_do_not_count_once_their_cause_is_mended(study: optuna.Study, crew: Crew) -> None:
    add(study, "broken disk", "broken disk", "broken disk")
    script = ["complete", "broken disk", "complete"]
    assert run_trials(study, ScriptedObjective(script), crew, asking(study), n_trials=2) == ""
    assert count_finished(study) == 2


def test_five_impossible_trials_in_a_row_stop_the_search(study: optuna.Study, crew: Crew) -> None:
    script = ["complete", *["impossible"] * 9]
    with pytest.raises(SearchFailedError, match=r"5 trials in a row were impossible \(out of memory\)"):
        run_trials(study, ScriptedObjective(script), crew, asking(study), n_trials=50)
    assert len(script) == 4


def test_a_trial_whose_process_died_while_asking_is_given_the_parameters_that_it_lacks(
    study: optuna.Study, crew: Crew
) -> None:
    rate = FloatDistribution(0, 0.5)
    space = Space(distributions={**LR.distributions, "drop_rate": rate}, known_good={"lr": 1e-3, "drop_rate": 0.2})
    half = study.ask(LR.distributions)
    turn = turn_of(study, crew, n_trials=9)
    assert turn is not None
    assert turn.trial.number == half.number
    asking(study, space).draw(turn.trial, turn.hold, beside_others=False)
    assert study.trials[0].params == {**half.params, "drop_rate": turn.trial.params["drop_rate"]}


def test_a_proposal_that_waits_is_not_proposed_again(study: optuna.Study, crew: Crew) -> None:
    asks = dataclasses.replace(asking(study), proposals=({"lr": 2e-3},))
    study.enqueue_trial({"lr": 2e-3})  # and its process died
    turn = turn_of(study, crew, n_trials=9)
    assert turn is not None
    asks.draw(turn.trial, turn.hold, beside_others=False)
    assert turn.trial.params == {"lr": 2e-3}
    assert len(study.trials) == 1


def test_an_owner_that_was_replaced_while_it_drew_writes_no_parameters(study: optuna.Study, crew: Crew) -> None:
    turn = turn_of(study, crew, n_trials=9)
    assert turn is not None
    with crew.leases.lock():
        crew.take(turn.trial.number)
    with pytest.raises(FencedError):
        asking(study).draw(turn.trial, turn.hold, beside_others=False)
    assert study.trials[0].params == {}


def test_an_owner_whose_trial_was_ended_while_it_drew_knows_that_it_was_replaced(
    study: optuna.Study, crew: Crew
) -> None:
    for place in range(STARTUP_TRIALS):  # from then on TPE notes for the others what it proposes
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        study.tell(trial, place / STARTUP_TRIALS)
    turn = turn_of(study, crew, n_trials=99)
    assert turn is not None
    with crew.leases.lock():
        crew.take(turn.trial.number)
    study.tell(turn.trial, 0.5)
    with pytest.raises(FencedError, match="was taken over while this worker stood still"):
        dataclasses.replace(asking(study), sampler="tpe").draw(turn.trial, turn.hold, beside_others=True)


class Others:
    """Further workers of a study, each with its own eyes on it."""

    def __init__(self, folder: StudyFolder, study: optuna.Study) -> None:
        self.folder, self.name = folder, study.study_name

    def open(self) -> tuple[optuna.Study, Crew]:
        study = open_study(open_storage(StudiesFolder(self.folder.root.parent)), self.name)
        return study, Crew(FileLeases(self.folder), device="cpu")


@pytest.fixture
def others(tmp_path: Path, study: optuna.Study) -> Others:
    return Others(StudiesFolder(tmp_path).study("tiny"), study)


def turn_of(study: optuna.Study, crew: Crew, *, n_trials: int) -> Turn | None:
    with crew.leases.lock():
        return next_turn(study, crew, asking(study), n_trials=n_trials)


def test_trials_of_live_workers_count_until_they_fail(study: optuna.Study, crew: Crew, others: Others) -> None:
    theirs, their_crew = others.open()
    with their_crew:
        turn = turn_of(theirs, their_crew, n_trials=1)
        assert turn is not None
        assert turn_of(study, crew, n_trials=1) is None
        theirs.tell(turn[0], state=TrialState.FAIL)
        mine = turn_of(study, crew, n_trials=1)
    assert mine is not None
    assert mine[0].number == 1


def test_a_turn_tells_whether_others_are_at_work(study: optuna.Study, crew: Crew, others: Others) -> None:
    theirs, their_crew = others.open()
    with their_crew:
        alone = turn_of(study, crew, n_trials=9)
        turn_of(theirs, their_crew, n_trials=9)
        beside = turn_of(study, crew, n_trials=9)
    assert alone is not None
    assert beside is not None
    assert [alone.beside_others, beside.beside_others] == [False, True]


def test_a_worker_that_has_left_loses_its_trial_at_once(study: optuna.Study, crew: Crew, others: Others) -> None:
    theirs, their_crew = others.open()
    with their_crew:
        left = turn_of(theirs, their_crew, n_trials=9)
    taken = turn_of(study, crew, n_trials=9)
    assert left is not None
    assert taken is not None
    assert taken[0].number == left[0].number
    assert (taken[1].generation, taken[1].deaths) == (2, 1)
    with pytest.raises(FencedError, match="trial 0 was taken over while this worker stood still"), left[1].acting():
        raise AssertionError("two owners")


def test_a_fenced_worker_goes_on_with_another_trial(
    study: optuna.Study, crew: Crew, others: Others, caplog: pytest.LogCaptureFixture
) -> None:
    class StolenFrom(ScriptedObjective):
        """Loses its first trial to another worker, which ends it."""

        def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
            if trial.number == 0:
                with their_crew.leases.lock():
                    their_crew.take(0)
                    study.tell(trial, 0.25)
                with hold.acting():
                    raise AssertionError("two owners")
            super().run(study, trial, hold)

    _, their_crew = others.open()
    with their_crew:
        assert run_trials(study, StolenFrom(["complete"]), crew, asking(study), n_trials=2) == ""
    assert "it goes on with another trial" in caplog.text
    assert [trial.value for trial in study.trials] == [0.25, 0.5]


def test_a_trial_that_kills_its_processes_ends_as_impossible(
    study: optuna.Study, objective: Objective, crew: Crew
) -> None:
    trial = study.ask({"lr": FloatDistribution(1e-3, 1e-3)})
    with crew.leases.lock():
        for _ in range(MAX_DEATHS + 1):  # each of them by an owner that never gave it back
            hold = crew.take(trial.number)
    run_turn(study, objective, asking(study), Turn(trial, hold, False))
    [ended] = study.trials
    assert (ended.state, ended.constraints) == (TrialState.PRUNED, {INFEASIBLE: 1.0})
    assert ended.user_attrs["reason"] == "5 processes in a row died while they ran it"


def test_deaths_with_an_epoch_between_them_are_no_reason_to_give_up(crew: Crew, study: optuna.Study) -> None:
    trial = study.ask()
    with crew.leases.lock():
        assert [crew.take(trial.number, epochs=epochs).deaths for epochs in (0, 0, 0, 1, 1)] == [0, 1, 2, 0, 1]
        crew.take(trial.number, epochs=1).give_back()
        assert crew.take(trial.number, epochs=1).deaths == 0


def test_eight_workers_that_race_for_the_last_trial_finish_exactly_as_many_as_asked_for(
    study: optuna.Study, others: Others
) -> None:
    def work() -> None:
        theirs, their_crew = others.open()
        with their_crew:
            script = ["complete"] * 20
            assert run_trials(theirs, ScriptedObjective(script), their_crew, asking(theirs), n_trials=20) == ""

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 20


def test_who_lost_the_studys_lock_begins_no_trial(study: optuna.Study, crew: Crew, others: Others) -> None:
    quick = FileLeases(others.folder, grace_s=0.2)
    with crew.acting():
        thief = threading.Thread(target=lambda: quick.lock().__enter__())
        thief.start()
        thief.join()
        with pytest.raises(FencedError):
            next_turn(study, crew, asking(study), n_trials=9)
    assert study.trials == []


def test_a_database_that_comes_back_is_waited_for(
    study: optuna.Study, crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(ScriptedObjective):
        def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
            if len(self.script) == 3:
                self.script.pop()
                raise LostError("The database must answer, but does not.")
            super().run(study, trial, hold)

    assert run_trials(study, Flaky(["complete"] * 3), crew, asking(study), n_trials=2) == ""
    assert "waiting for it: The database must answer" in caplog.text
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2

    monkeypatch.setattr("search.loop.PATIENCE_S", 0.4)
    with pytest.raises(LostError):
        run_trials(study, Lost([]), crew, asking(study), n_trials=3)


class Lost(ScriptedObjective):
    """Whose database is gone for good."""

    def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
        raise LostError("The database must answer, but does not.")


@pytest.mark.parametrize(("sampler", "finished"), [("tpe", 1), ("random", 1), ("gp", 11)])
def test_a_trial_whose_process_died_while_it_drew_gets_the_values_that_it_would_have_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, finished: int
) -> None:
    ranges = {name: FloatDistribution(0, 1) for name in "abcd"} | {"one": FloatDistribution(1, 1)}
    space = Space(distributions={"one": ranges["one"], **ranges}, known_good=dict.fromkeys("abcd", 0.5) | {"one": 1})

    def draw(folder: Path, dies_after: int = 0) -> dict[str, float]:
        study = open_study(open_storage(StudiesFolder(folder)), "tiny")
        asks = Asking(study=study, space=space, sampler=sampler, seed=lambda number: 100 + number)
        with Crew(FileLeases(StudiesFolder(folder).study("tiny")), device="cpu") as crew:

            def begin() -> Turn:
                with crew.acting():
                    turn = next_turn(study, crew, asks, n_trials=99)
                assert turn is not None
                return turn

            for _ in range(finished):
                turn = begin()
                asks.draw(turn.trial, turn.hold, beside_others=False)
                study.tell(turn.trial, turn.trial.params["a"])
                turn.hold.end()
            turn = begin()
            suggest, drawn = optuna.Trial._suggest, list[str]()

            def dying(trial: optuna.Trial, name: str, distribution: FloatDistribution) -> float:
                if len(drawn) == dies_after:
                    raise KeyboardInterrupt
                drawn.append(name)
                value: float = suggest(trial, name, distribution)
                return value

            if dies_after:
                monkeypatch.setattr(optuna.Trial, "_suggest", dying)
                with pytest.raises(KeyboardInterrupt):
                    asks.draw(turn.trial, turn.hold, beside_others=False)
                monkeypatch.undo()
                turn.hold.give_back()
                turn = begin()
                assert turn.trial.number == finished
            asks.draw(turn.trial, turn.hold, beside_others=False)
            return turn.trial.params

    assert draw(tmp_path / "disturbed", dies_after=3) == draw(tmp_path / "undisturbed")


class FlakyLeases(FileLeases):
    """Leases in a place that doesn't always answer."""

    away = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        if self.away:
            raise LostError("The database must answer, but does not.")
        with super().lock():
            yield


def test_a_trial_that_could_not_be_given_back_is_continued_by_the_same_worker(
    study: optuna.Study, others: Others
) -> None:
    leases = FlakyLeases(others.folder)
    generations, deaths = [], []

    class LosingOnce(ScriptedObjective):
        def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
            generations.append((trial.number, hold.generation))
            deaths.append(hold.deaths)
            if len(generations) == 1:
                leases.away = True  # still so when the trial is given back
                raise LostError("The database must answer, but does not.")
            super().run(study, trial, hold)

    class Returning(RecordingWatcher):
        """Between trials the place of the leases answers again."""

        checks = 0

        def check(self) -> None:
            leases.away = False
            self.checks += 1
            if self.checks > 20:
                raise StoppedError("it waits for nobody")

    objective = LosingOnce(["complete", "complete"])
    object.__setattr__(objective, "watcher", Returning())
    with Crew(leases, device="cpu") as crew:
        assert run_trials(study, objective, crew, asking(study), n_trials=2) == ""
    assert generations == [(0, 1), (0, 2), (1, 1)]
    assert deaths == [0, 0, 0]


def test_a_trial_that_this_worker_is_at_is_free_for_nobody(study: optuna.Study, crew: Crew) -> None:
    turns = [turn_of(study, crew, n_trials=9) for _ in range(2)]
    assert [turn.trial.number for turn in turns if turn is not None] == [0, 1]
    assert not crew.is_free(0)


@pytest.mark.parametrize("where", ["in a trial", "between trials"])
def test_patience_begins_anew_with_each_failure_that_the_place_came_back_from(
    study: optuna.Study, others: Others, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("search.loop.PATIENCE_S", 0.4)
    leases = FlakyLeases(others.folder)

    class Blinking(ScriptedObjective):
        """Works for longer than the patience, then breaks off, twice."""

        def run(self, study: optuna.Study, trial: optuna.Trial, hold: Hold) -> None:
            if len(self.script) > 1:
                time.sleep(0.5)
                leases.away = where == "between trials"
                self.script.pop()
                raise LostError("The database must answer, but does not.")
            super().run(study, trial, hold)

    class Returning(RecordingWatcher):
        """Whenever the place of the leases has been asked in vain, it answers the next time."""

        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks % 2:
                leases.away = False

    objective = Blinking(["complete"] * 3)
    object.__setattr__(objective, "watcher", Returning())
    with Crew(leases, device="cpu") as crew:
        assert run_trials(study, objective, crew, asking(study), n_trials=1) == ""


def test_a_place_that_never_answers_is_given_up(
    study: optuna.Study, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.loop.PATIENCE_S", 0.4)
    leases = FlakyLeases(others.folder)
    with Crew(leases, device="cpu") as crew:
        leases.away = True
        with pytest.raises(LostError):
            run_trials(study, ScriptedObjective([]), crew, asking(study), n_trials=1)
