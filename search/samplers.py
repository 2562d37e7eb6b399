"""Which values are tried next, and which trials are ended early."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("percentile", "median", "hyperband", "none")

STARTUP_TRIALS = 10  # trials drawn at random before TPE or a Gaussian process has anything to model
PRUNER_STARTUP_TRIALS = 5  # complete trials before any is pruned
MAX_WARMUP_EPOCHS = 3


class _KnowsItsSpace(BaseSampler):
    """Is told what Optuna would find out, anew for each sampler, by comparing the ranges of all trials of a study."""

    space: Mapping[str, BaseDistribution]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        # Sorted, and without those that leave no choice, as Optuna has them.
        return {name: each for name, each in sorted(self.space.items()) if not each.single()}


class _TPE(_KnowsItsSpace, TPESampler):
    pass


class _GP(_KnowsItsSpace, GPSampler):
    """Learns of pruned trials too, which Optuna's own doesn't see: it would go back to what is impossible."""

    _asking = -1

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._asking = trial.number
        return super().sample_relative(study, trial, search_space)

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        pruned = study._get_trials(deepcopy=False, states=(TrialState.PRUNED,))  # of every bracket, as the others are
        # A process that died has left its proposal with the trial, which must not keep the next one away from there.
        others = [trial for trial in running_trials if trial.number != self._asking]
        seen = [*completed_trials, *_as_complete(pruned, completed_trials)]
        return super()._sample_relative_impl(study, seen, others, search_space)


def _as_complete(pruned: Sequence[FrozenTrial], complete: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Copies of pruned trials, with the value of their best epoch, as complete ones have it.

    What was impossible, whatever it has reported, is as bad as the worst.
    """
    values = [max(filter(math.isfinite, trial.intermediate_values.values()), default=math.inf) for trial in pruned]
    worst = min([*values, *(trial.values[0] for trial in complete)])
    copies = [copy.copy(trial) for trial in pruned]
    for each, value in zip(copies, values, strict=True):
        impossible = value == math.inf or any(violation > 0 for violation in each.constraints.values())
        each.state, each.values = TrialState.COMPLETE, [worst if impossible else value]
    return copies


def build_sampler(
    name: str, space: Mapping[str, BaseDistribution], *, seed: int, beside_others: bool = False
) -> BaseSampler:
    """A sampler for one trial.

    Args:
        name: One of `SAMPLERS`.
        space: Range of each parameter, the same in all trials of the study.
        seed: Of this trial.
        beside_others: Whether other workers run trials meanwhile, near which another would tell nothing new. All of
            them are alive: trials of dead workers are taken over before anybody asks for a new one.

    It draws from a generator of its own, which a restart would rewind. Seeding it anew for each trial makes a search
    that was interrupted propose what an undisturbed one would have proposed. Every argument that decides what it
    proposes is explicit, since defaults change between versions.
    """
    match name:
        case "tpe":
            sampler: _KnowsItsSpace = _TPE(
                n_startup_trials=STARTUP_TRIALS,
                n_ei_candidates=24,
                multivariate=True,  # learning rate and depth hang together
                group=False,
                constant_liar=beside_others,  # takes them for bad ones; Optuna 5 always does
                seed=seed,
            )
        case "gp":
            sampler = _GP(n_startup_trials=STARTUP_TRIALS, deterministic_objective=False, seed=seed)
        case "random":
            return RandomSampler(seed=seed)
        case _:
            raise AssertionError(f"unknown sampler {name}")
    sampler.space = space
    return sampler


def warmup_epochs(epochs: int) -> int:
    """Epochs that no trial is judged by: half of them, at most three.

    Early recalls are noisy, and later ones save nothing: in replays of 60 recorded trials of ten epochs this ended the
    fewest of the best (docs/decisions/0014).
    """
    return min(MAX_WARMUP_EPOCHS, (epochs + 1) // 2)


def build_pruner(name: str, *, epochs: int) -> BasePruner:
    """A pruner that looks at the validation recall after each epoch, once the warm-up is over."""
    warmup = warmup_epochs(epochs)
    match name:
        case "percentile":  # ends a trial that is in the worst quarter
            return PercentilePruner(75.0, n_startup_trials=PRUNER_STARTUP_TRIALS, n_warmup_steps=warmup, n_min_trials=3)
        case "median":
            return MedianPruner(n_startup_trials=PRUNER_STARTUP_TRIALS, n_warmup_steps=warmup, n_min_trials=3)
        case "hyperband":
            return HyperbandPruner(min_resource=max(1, warmup), max_resource=epochs, reduction_factor=3)
        case "none":
            return NopPruner()
    raise AssertionError(f"unknown pruner {name}")
