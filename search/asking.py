"""How a new trial comes by its parameters: it begins under the study's lock, and draws them outside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.crew import Hold
from search.samplers import build_sampler
from search.space import Space

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
    """Begins trials of one study.

    Attributes:
        study: The study.
        space: What its trials vary.
        sampler: Name of the sampler.
        seed: Gives the sampler's seed for a trial.
        proposals: Parameters that are tried before the sampler is asked.
    """

    study: optuna.Study
    space: Space
    sampler: str
    seed: Callable[[int], int]
    proposals: tuple[Params, ...] = ()

    def begin(self) -> optuna.Trial:
        """A new trial, which has no parameters yet. Under the study's lock."""
        trials = self.study.get_trials(deepcopy=False)
        # One that waits was enqueued by a process that died before it took it.
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if self.proposals and (left := without_known(self.proposals, trials)):
                self.study.enqueue_trial(left[0])
            elif not trials:
                self.study.enqueue_trial(self.space.known_good)
        return self.study.ask()

    def draw(self, trial: optuna.Trial, hold: Hold, *, beside_others: bool) -> None:
        """Gives a trial the parameters that it lacks: all, or some if its process died meanwhile.

        Args:
            trial: The trial.
            hold: Says that it is this worker's.
            beside_others: Whether other workers run trials.

        Raises:
            FencedError: It has another owner by now.
        """
        space, begun = self.space.distributions, trial._get_latest_trial()
        if set(begun.params) == set(space):
            return
        seed = self.seed(trial.number)
        self.study.sampler = build_sampler(self.sampler, space, seed=seed, beside_others=beside_others)
        # In a study of thousands this takes a while, for which nobody else should have to wait.
        try:
            relative = trial.relative_params
        except UpdateFinishedTrialError:  # samplers note them with the trial, and another owner has ended it
            with hold.acting():
                raise
        not_drawn = {*relative, *begun.system_attrs.get("fixed_params", {})}
        with hold.acting():
            for name, distribution in space.items():
                if name in begun.params and name not in not_drawn and not distribution.single():
                    # Drawn again and dropped: else the next one would get this one's random number.
                    self.study.sampler.sample_independent(self.study, begun, name, distribution)
                trial._suggest(name, distribution)  # as `Study.ask` does


def without_known(proposals: tuple[Params, ...], trials: Sequence[FrozenTrial]) -> list[Params]:
    """The proposals that no trial has tried, is trying or waits to try."""
    # A trial that is being asked for has got its proposal and not all of its parameters.
    known = [trial.system_attrs.get("fixed_params", trial.params) for trial in trials if trial.state != TrialState.FAIL]
    return [params for params in proposals if params not in known]
