"""A search in two steps: many trials on small images, then the best of them again on images of the full size."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from core.cli import write
from search.identity import start_or_continue
from search.loop import count_finished
from search.session import Session
from search.setup import Setup
from search.storage import only_runner, open_study
from search.summary import rank

Params = dict[str, Any]


def run_two_sizes(
    setup: Setup, storage: JournalStorage, *, n_trials: int, retrain: int, keep: int, deadline: float | None
) -> int:
    """Searches on small images, then trains the best trials on the full ones; returns the exit status.

    Each step is a study of its own, so that whatever was interrupted continues, and what is there is not done again.

    Args:
        setup: The study at the full size; its settings name the small one.
        storage: Of both studies.
        n_trials: Finished trials that the study on small images is to hold.
        retrain: How many of its best are trained again.
        keep: Best trials of the full size whose weights stay.
        deadline: When to stop, by `time.monotonic`; None for never.
    """
    small = setup.at_search_size()
    with only_runner(small.folder):
        study = open_study(storage, small.folder.name)
        start_or_continue(small, study)
        # Their weights serve nobody: what votes is trained at the full size.
        session = Session(small, study, n_trials=n_trials, keep=0, deadline=deadline, last=False)
        if (status := session.run()) or count_finished(study) < n_trials:
            return status
        best = rank(small.folder.read_trials())[:retrain]
    of_small = f"the best {len(best)} of {small.folder.name}"
    write(f"\n{of_small[0].upper()}{of_small[1:]} are trained again at {setup.arch.image_size} pixels.")
    proposals = [{param: record.config[param] for param in setup.space.distributions} for record in best]
    with only_runner(setup.folder):
        study = open_study(storage, setup.folder.name)
        start_or_continue(setup, study)
        missing, begun = without_known(proposals, study)
        return Session(
            setup,
            study,
            n_trials=count_finished(study) + begun + len(missing),
            keep=keep,
            deadline=deadline,
            proposals=missing,
            asked=f"training {of_small} again",
        ).run()


def without_known(proposals: Sequence[Params], study: optuna.Study) -> tuple[list[Params], int]:
    """The proposals that no trial of a study has tried, and the number of trials that have begun and not ended.

    Those go on before any other, also where they are of an earlier search and not of a proposal.
    """
    trials = study.get_trials(deepcopy=False)
    names = {name for params in proposals for name in params}
    known = [trial.params for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    begun = [trial.params for trial in trials if trial.state == TrialState.RUNNING and set(trial.params) == names]
    return [params for params in proposals if params not in known and params not in begun], len(begun)
