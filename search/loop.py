"""Which trial is next, and when a search is over."""

from collections.abc import Callable, Collection, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.objective import INFEASIBLE, Objective, StoppedError

MAX_ALIKE_FAILURES = 3  # in a row
MAX_FAILED_SHARE = 1 / 5  # of the trials asked for
MAX_INFEASIBLE = 5  # in a row


class SearchFailedError(RuntimeError):
    """So many trials fail that going on would waste the machine."""


def run_trials(study: optuna.Study, objective: Objective, *, n_trials: int, ask: Callable[[], optuna.Trial]) -> str:
    """Runs trials until `n_trials` are finished over all restarts. Only for the holder of the study's lock.

    Args:
        study: Where trials are counted.
        objective: Runs one.
        n_trials: Complete and pruned trials that the study is to hold.
        ask: Gives a new trial with its parameters.

    Returns:
        Why it stopped before that; empty if it did not.

    Raises:
        SearchFailedError: Too many trials fail.
    """
    # Failures of earlier runs don't count against this one: their cause may have been mended.
    before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    while count_finished(study) < n_trials:
        try:
            objective.watcher.check()
            objective.run(study, take_over(study, objective.names) or ask())
        except StoppedError as stop:
            return str(stop)
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if trouble := explain_failures([trial for trial in finished if trial.number not in before], n_trials):
            raise SearchFailedError(trouble)
    return ""


def count_finished(study: optuna.Study) -> int:
    """Complete and pruned trials: what `--trials` counts."""
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials(deepcopy=False))


def take_over(study: optuna.Study, names: Collection[str]) -> optuna.Trial | None:
    """The first trial that an earlier process left running, under its own number; None if there is none.

    Args:
        study: The study.
        names: The parameters that every trial has. A process that died while it asked for a trial may have left it
            without some of them; such a trial has not begun, and ends as failed.
    """
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.RUNNING:
            continue
        left = optuna.Trial(study, trial._trial_id)
        if set(trial.params) == set(names):
            return left
        left.set_user_attr("reason", "its process died while it asked for parameters")
        study.tell(left, state=TrialState.FAIL)
    return None


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
