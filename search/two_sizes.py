"""A search in two steps: many trials on small images, then the best of them again on images of the full size."""

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from core.cli import stop_asked, write
from search.asking import without_known
from search.loop import count_finished
from search.session import EXIT_FAILED, Session
from search.setup import Setup
from search.summary import rank
from search.worker import Goal, begin


def run_two_sizes(
    setup: Setup, storage: BaseStorage, goal: Goal, *, retrain: int, deadline: float | None, last: bool = True
) -> int:
    """Searches on small images, then trains the best trials on the full ones; returns the exit status.

    Each step is a study of its own, so that whatever was interrupted continues, and what is there is not done again.

    Args:
        setup: The study at the full size; its settings name the small one.
        storage: Of both studies.
        goal: Of the study on small images; `keep` is that of the other.
        retrain: How many of its best are trained again.
        deadline: When to stop, by `time.monotonic`; None for never.
        last: Whether the search ends with it; see `Session`.
    """
    small = setup.at_search_size()
    study = begin(small, storage)
    # Their weights serve nobody: what votes is trained at the full size.
    of_small = Goal(n_trials=goal.n_trials, keep=0)
    session = Session(small, storage, study, of_small, deadline=deadline, last=False)
    if (status := session.run()) or count_finished(study) < goal.n_trials or stop_asked():
        return status
    best = rank(small.folder.read_trials())[:retrain]
    if not best:
        write(
            f"\nNo trial of {small.folder.name} is complete, so that none can be trained again at "
            f"{setup.arch.image_size} pixels. Raise --trials."
        )
        return EXIT_FAILED
    words = f"the best {len(best)} of {small.folder.name}"
    write(f"\n{words[0].upper()}{words[1:]} are trained again at {setup.arch.image_size} pixels.")
    proposals = tuple({param: record.config[param] for param in setup.space.distributions} for record in best)
    study = begin(setup, storage)
    # Trials of an earlier search that have begun go on before any other.
    trials = study.get_trials(deepcopy=False)
    there = sum(trial.state != TrialState.FAIL for trial in trials)
    of_full = Goal(n_trials=there + len(without_known(proposals, trials)), keep=goal.keep, proposals=proposals)
    return Session(setup, storage, study, of_full, deadline=deadline, asked=f"training {words} again", last=last).run()
