"""Which trial is next, and when a search is over."""

from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from search.objective import Objective, StoppedError

MAX_ALIKE_FAILURES = 3  # in a row
MAX_FAILED_SHARE = 1 / 5  # of the trials asked for


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
    while count_finished(study) < n_trials:
        try:
            objective.run(study, take_over(study) or ask())
        except StoppedError as stop:
            return str(stop)
        if trouble := explain_failures(study, n_trials):
            raise SearchFailedError(trouble)
    return ""


def count_finished(study: optuna.Study) -> int:
    """Complete and pruned trials: what `--trials` counts."""
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials(deepcopy=False))


def take_over(study: optuna.Study) -> optuna.Trial | None:
    """The first trial that an earlier process left running, under its own number; None if there is none."""
    left = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    return optuna.Trial(study, left[0]._trial_id) if left else None


def explain_failures(study: optuna.Study, n_trials: int) -> str:
    """Why the search should stop: 3 failures alike in a row, or more than a fifth in all; empty if it should go on."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    last = [str(trial.user_attrs.get("reason")) for trial in failed[-MAX_ALIKE_FAILURES:]]
    in_a_row = trials[-MAX_ALIKE_FAILURES:] == failed[-MAX_ALIKE_FAILURES:]
    if len(last) == MAX_ALIKE_FAILURES and in_a_row and len(set(last)) == 1:
        return f"{MAX_ALIKE_FAILURES} trials in a row failed alike ({last[0]})"
    if len(failed) > max(1, MAX_FAILED_SHARE * n_trials):
        return f"{len(failed)} of {len(trials)} trials failed, the last one with {last[-1]}"
    return ""
