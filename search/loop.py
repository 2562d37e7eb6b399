"""Which trial is next, and when a search is over."""

import logging
import time
from collections.abc import Callable, Collection, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.crew import Crew, FencedError, Hold
from search.objective import INFEASIBLE, Objective, StoppedError

MAX_ALIKE_FAILURES = 3  # in a row
MAX_FAILED_SHARE = 1 / 5  # of the trials asked for
MAX_INFEASIBLE = 5  # in a row
MAX_DEATHS = 5  # of processes in a row that ran one trial, without an epoch between them
_WAIT_S = 0.5  # between two looks whether there is something to do

_log = logging.getLogger(__name__)


class SearchFailedError(RuntimeError):
    """So many trials fail that going on would waste the machine."""


def run_trials(
    study: optuna.Study, objective: Objective, crew: Crew, *, n_trials: int, ask: Callable[[bool], optuna.Trial]
) -> str:
    """Runs trials until a study holds `n_trials` finished ones, over all restarts and workers.

    Args:
        study: Where trials are counted.
        objective: Runs one.
        crew: This worker, among the others.
        n_trials: Complete and pruned trials that the study is to hold.
        ask: Gives a new trial with its parameters; is told whether others are running. Called under the study's lock.

    Returns:
        Why it stopped before that; empty if it did not.

    Raises:
        SearchFailedError: Too many trials fail.
    """
    # Failures of earlier runs don't count against this one: their cause may have been mended.
    before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    while True:
        try:
            objective.watcher.check()
            with crew.leases.lock():
                if count_finished(study) >= n_trials:
                    return ""
                turn = next_turn(study, crew, n_trials=n_trials, names=objective.names, ask=ask)
            if turn is None:  # others run the last ones; should one fail, another is needed
                time.sleep(_WAIT_S)
                continue
            run_turn(study, objective, *turn)
        except StoppedError as stop:
            return str(stop)
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if trouble := explain_failures([trial for trial in finished if trial.number not in before], n_trials):
            raise SearchFailedError(trouble)


def run_turn(study: optuna.Study, objective: Objective, trial: optuna.Trial, hold: Hold) -> None:
    """Runs one trial, unless it has killed its processes time and again. Whatever breaks it off gives it back."""
    try:
        if hold.deaths >= MAX_DEATHS:
            reason = f"{MAX_DEATHS} processes in a row died while they ran it"
            objective.tell_infeasible(study, trial, hold, reason)
        else:
            objective.run(study, trial, hold)
    except FencedError as fenced:
        _log.warning("%s; it goes on elsewhere, and this worker with another", fenced)
    finally:
        hold.give_back()


def count_finished(study: optuna.Study) -> int:
    """Complete and pruned trials: what `--trials` counts."""
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials(deepcopy=False))


def next_turn(
    study: optuna.Study,
    crew: Crew,
    *,
    n_trials: int,
    names: Collection[str],
    ask: Callable[[bool], optuna.Trial],
) -> tuple[optuna.Trial, Hold] | None:
    """The trial that this worker runs next; None while those under way may be enough. Under the study's lock.

    A trial whose owner is dead or has given it back comes first, under its own number: the sampler is asked only once
    there is none, and so is not kept away from where dead trials were.
    """
    running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    left = [trial for trial in running if crew.is_free(trial.number)]
    others = len(running) - len(left)
    if count_finished(study) + others >= n_trials:
        return None
    for frozen in left:
        trial = optuna.Trial(study, frozen._trial_id)
        if set(frozen.params) == set(names):
            return trial, crew.take(frozen.number, epochs=len(frozen.intermediate_values))
        # A process died while it asked, so the trial has not begun.
        trial.set_user_attr("reason", "its process died while it asked for parameters")
        study.tell(trial, state=TrialState.FAIL)
    trial = ask(others > 0)
    return trial, crew.take(trial.number)


def explain_failures(finished: Sequence[FrozenTrial], n_trials: int) -> str:
    """Why the search should stop; empty if it should go on.

    It should after 3 failures alike in a row, after more failures than a fifth of the trials asked for, and after 5
    trials in a row that their parameters made impossible: then it is not their parameters.

    Args:
        finished: The trials that ended in this run, in order.
        n_trials: Trials asked for.
    """
    failed = [trial for trial in finished if trial.state == TrialState.FAIL]
    if failed and finished[-1] is failed[-1]:
        last = [str(trial.user_attrs.get("reason")) for trial in failed[-MAX_ALIKE_FAILURES:]]
        in_a_row = (
            len(finished) >= MAX_ALIKE_FAILURES and finished[-MAX_ALIKE_FAILURES:] == failed[-MAX_ALIKE_FAILURES:]
        )
        if in_a_row and len(set(last)) == 1:
            return f"{MAX_ALIKE_FAILURES} trials in a row failed alike ({last[0]})"
        if len(failed) > max(1, MAX_FAILED_SHARE * n_trials):
            return f"{len(failed)} of {len(finished)} trials failed, the last one with {last[-1]}"
    last_few = finished[-MAX_INFEASIBLE:]
    if len(last_few) == MAX_INFEASIBLE and all(trial.constraints.get(INFEASIBLE, 0) > 0 for trial in last_few):
        return f"{MAX_INFEASIBLE} trials in a row were impossible ({last_few[-1].user_attrs.get('reason')})"
    return ""
