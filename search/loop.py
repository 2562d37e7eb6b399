"""Which trial is next, and when a search is over."""

import logging
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from core.errors import LostError
from search.asking import Asking
from search.crew import Crew, FencedError, Hold
from search.objective import INFEASIBLE, Objective, StoppedError

MAX_ALIKE_FAILURES = 3  # in a row
MAX_FAILED_SHARE = 1 / 5  # of the trials asked for
MAX_INFEASIBLE = 5  # in a row
PATIENCE_S = 60.0  # with a database or a URL that doesn't answer
_WAIT_S = 0.5  # between two looks whether there is something to do

_log = logging.getLogger(__name__)


class Turn(NamedTuple):
    """A trial that a worker is to run."""

    trial: optuna.Trial
    hold: Hold
    beside_others: bool  # whether other workers run trials


class SearchFailedError(RuntimeError):
    """So many trials fail that going on would waste the machine."""


class _Patience:
    """How long something elsewhere has not answered, however often it was asked."""

    def __init__(self) -> None:
        self._since: float | None = None

    def answered(self) -> None:
        """It answers: a later failure is another one."""
        self._since = None

    def is_over(self) -> bool:
        """Whether it has not answered for too long, now that it has failed again."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > PATIENCE_S


def run_trials(study: optuna.Study, objective: Objective, crew: Crew, asking: Asking, *, n_trials: int) -> str:
    """Runs trials until a study holds `n_trials` finished ones, over all restarts and workers.

    Args:
        study: Where trials are counted.
        objective: Runs one.
        crew: This worker, among the others.
        asking: Begins new trials.
        n_trials: Complete and pruned trials that the study is to hold.

    Returns:
        Why it stopped before that; empty if it did not.

    Raises:
        SearchFailedError: Too many trials fail.
        LostError: A database or a URL has not answered for a minute.
    """
    # Failures of earlier runs don't count against this one: their cause may have been mended.
    before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    # A database may answer while the URL of the trials doesn't: that a turn can be taken says nothing of its running.
    taking, running = _Patience(), _Patience()
    while True:
        turn, begun = None, time.monotonic()
        try:
            objective.watcher.check()
            with crew.acting():
                if count_finished(study) >= n_trials:
                    return ""
                turn = next_turn(study, crew, asking, n_trials=n_trials)
            taking.answered()
            if turn is None:  # others run the last ones; should one fail, another is needed
                time.sleep(_WAIT_S)
                continue
            begun = time.monotonic()
            run_turn(study, objective, asking, turn)
            running.answered()
            if trouble := explain_failures(ended_since(study, before), n_trials):
                raise SearchFailedError(trouble)
        except StoppedError as stop:
            return str(stop)
        except FencedError as fenced:
            _log.warning("%s; it goes on with another trial", fenced)
        except LostError as lost:
            if turn is not None and time.monotonic() - begun > PATIENCE_S:
                running.answered()  # or the trial would not have come so far
            if (taking if turn is None else running).is_over():
                raise
            _log.warning("waiting for it: %s", lost)
            time.sleep(_WAIT_S)


def run_turn(study: optuna.Study, objective: Objective, asking: Asking, turn: Turn) -> None:
    """Runs one trial. Whatever breaks it off gives it back.

    Raises:
        FencedError: The trial has another owner by now.
    """
    try:
        asking.draw(turn.trial, turn.hold, beside_others=turn.beside_others)
        objective.run(study, turn.trial, turn.hold)
    finally:
        turn.hold.give_back()


def count_finished(study: optuna.Study) -> int:
    """Complete and pruned trials: what `--trials` counts."""
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials(deepcopy=False))


def ended_since(study: optuna.Study, before: Collection[int]) -> list[FrozenTrial]:
    """The trials that have ended besides those of before, in the order in which they did."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in before]
    ended = [(trial.datetime_complete, trial.number, trial) for trial in trials if trial.datetime_complete is not None]
    return [trial for *_, trial in sorted(ended)]


def next_turn(study: optuna.Study, crew: Crew, asking: Asking, *, n_trials: int) -> Turn | None:
    """The trial that this worker runs next; None while those under way may be enough. Within `crew.acting`.

    A trial whose owner is dead or has given it back comes first, under its own number: the sampler is asked only once
    there is none, and so is not kept away from where dead trials were.
    """
    running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    left = [trial for trial in running if crew.is_free(trial.number)]
    others = len(running) - len(left)
    if count_finished(study) + others >= n_trials:
        return None
    if left:
        trial, epochs = optuna.Trial(study, left[0]._trial_id), len(left[0].intermediate_values)
    else:
        crew.check()
        trial, epochs = asking.begin(), 0
    return Turn(trial, crew.take(trial.number, epochs=epochs), others > 0)


def explain_failures(finished: Sequence[FrozenTrial], n_trials: int) -> str:
    """Why the search should stop; empty if it should go on.

    It should after 3 failures alike in a row, after more failures than a fifth of the trials asked for, and after 5
    trials in a row that their parameters made impossible: then it is not their parameters.

    Args:
        finished: The trials that ended in this run, in the order in which they did.
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
