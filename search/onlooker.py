"""What a search with several workers shows: how their trials come along, as the study itself tells it."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from core.cli import write
from search.console import EndOf, WithBars, describe_end, describe_params
from search.crew import Crew
from search.loop import count_finished
from search.objective import COMPLETE, INFEASIBLE, PRUNED
from search.pictures import Pictures
from search.setup import Setup
from search.worker import Goal


class Onlooker(WithBars):
    """Looks at a study now and then, and shows what is new. Draws the pictures that its workers leave to it.

    Args:
        setup: What the study is.
        study: The same in Optuna.
        crew: This process, which the workers end with.
        goal: When the study is finished.
        pictures: Draws.
        best: The best recall so far.

    Attributes:
        why: Why it has ended the workers; empty if it has not.
    """

    def __init__(
        self, setup: Setup, study: optuna.Study, crew: Crew, goal: Goal, pictures: Pictures, *, best: float | None
    ) -> None:
        self._setup, self._study, self._crew, self._pictures, self._best = setup, study, crew, pictures, best
        self._names = list(setup.space.distributions)
        trials = study.get_trials(deepcopy=False)
        self._over = {trial.number for trial in trials if trial.state.is_finished()}
        self._generations: dict[int, int] = {}  # of the owner that a trial was shown with
        self._epochs = {trial.number: len(trial.intermediate_values) for trial in trials}
        super().__init__()
        self._bar = self._bars.add_task("trials", total=goal.n_trials, completed=count_finished(study))
        self.why = ""

    def look(self) -> None:
        """Shows what has happened since the last look."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.number in self._over:
                continue
            self._show_start(trial)
            self._show_epochs(trial)
            if trial.state.is_finished():
                self._over.add(trial.number)
                self._show_end(trial)
        self._bars.update(self._bar, completed=count_finished(self._study))
        self._pictures.draw_owed(self._study, self._setup.folder)

    def end_workers(self, why: str) -> None:
        """Lets the workers stop after their present step."""
        self.why = self.why or why
        self._crew.leave()

    def _show_start(self, trial: FrozenTrial) -> None:
        generation, worker = self._owner(trial)
        if not trial.params.keys() >= set(self._names):  # was being asked for when we looked
            return
        if generation <= self._generations.get(trial.number, 0):
            return
        self._generations[trial.number] = generation
        again = " continued" if generation > 1 else ""
        write(f"trial {trial.number}{again} on {worker}: {describe_params(trial.params, self._names)}")

    def _owner(self, trial: FrozenTrial) -> tuple[int, str]:
        """The generation of a trial's owner, 0 without one, and its worker."""
        if trial.state.is_finished():
            return trial.user_attrs.get("generation", 0), trial.user_attrs.get("worker", "")
        lease = self._crew.leases.read(trial.number)
        worker = None if lease is None else self._crew.leases.read_workers().get(lease.worker)
        return (0, "") if lease is None or worker is None else (lease.generation, worker.name)

    def _show_epochs(self, trial: FrozenTrial) -> None:
        shown = self._epochs.get(trial.number, 0)
        recalls = sorted(trial.intermediate_values.items())
        for epoch, recall in recalls[shown:]:
            write(f"trial {trial.number}  {epoch + 1:>2}/{self._setup.settings.epochs:<2}  recall {recall:.3f}")
        self._epochs[trial.number] = len(recalls)

    def _show_end(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        end, state = None, "failed" if trial.state == TrialState.FAIL else COMPLETE
        if trial.state == TrialState.PRUNED:
            state = INFEASIBLE if trial.constraints.get(INFEASIBLE, 0) > 0 else PRUNED
        if "recall_interval" in attributes:
            low, high = attributes["recall_interval"]
            epoch = attributes["best_epoch"]
            end = EndOf(trial.intermediate_values[epoch], (low, high), epoch)
        write(describe_end(trial.number, state, attributes.get("reason", ""), end, best=self._best))
        if end is not None and state == COMPLETE:
            self._best = max(end.recall, self._best or 0.0)
