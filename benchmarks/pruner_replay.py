"""Table 1 of benchmarks.pruning: which pruner spends the fewest epochs and still keeps the best trials.

Legend: N trials of a search, R searches.
"""

import itertools
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.recording import Curve
from core.cli import Progress, write
from core.errors import counted

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner

# The rule of recommendation, stated before the curves were compared. 0.003 of recall is a tenth of the standard error
# of one validation recall (0.03 for recalls of 0.6 on the 1,504 images of HAM10000's validation part).
MOST_REGRET, MOST_LOST = 0.003, 0.05
TOP = 3  # trials that a pruner must not end
WARMUPS = range(7)  # epochs; one more is the least that a trial runs
STARTUPS = (3, 5, 10)  # trials
MIN_TRIALS = 3  # that must have reached an epoch, as search.samplers has it


class Fate(NamedTuple):
    """How a trial ended in a replay."""

    epochs: int
    kept: bool  # neither pruned nor broken


class Outcome(NamedTuple):
    """How a replayed search ended."""

    epochs: int
    elapsed_s: float
    regret: float  # the best recall there was, less the best that was kept
    lost_top: bool  # whether any of the three best was pruned


def candidates(epochs: int) -> "dict[str, Callable[[], BasePruner]]":
    """The pruners that are compared, each a builder, as some remember the search that they have seen.

    WilcoxonPruner is not among them: it pairs the steps of two trials as problem instances, which epochs are not, and
    takes 25 times as long as all others.
    """
    from optuna.pruners import HyperbandPruner, NopPruner, PatientPruner, PercentilePruner, SuccessiveHalvingPruner

    # A trial isn't asked about after its last epoch.
    warmups = [warmup for warmup in WARMUPS if warmup < epochs - 1]
    builders: dict[str, Callable[[], BasePruner]] = {"none": NopPruner}
    for warmup, startup in itertools.product(warmups, STARTUPS):
        builders[f"median, warm-up {warmup}, start-up {startup}"] = _percentile(50, startup, warmup, MIN_TRIALS)
    for least in (1, 5):
        for warmup in warmups[1::2]:
            builders[f"median, warm-up {warmup}, start-up 5, at least {least}"] = _percentile(50, 5, warmup, least)
    for best, warmup in itertools.product((25, 75, 90), warmups):
        builders[f"best {best} %, warm-up {warmup}, start-up 5"] = _percentile(best, 5, warmup, MIN_TRIALS)
    for least, factor in itertools.product((1, 2, 4), (2, 3)):
        builders[f"halving, from epoch {least + 1}, factor {factor}"] = _builder(
            SuccessiveHalvingPruner, min_resource=least, reduction_factor=factor
        )
    for least in (1, 2, 5):
        if least <= epochs:
            builders[f"hyperband, from epoch {least + 1}, factor 3"] = _builder(
                HyperbandPruner, min_resource=least, max_resource=epochs, reduction_factor=3
            )
    for patience, best in itertools.product((1, 2), (50, 25)):
        builders[f"best {best} % once {patience + 1} epochs gain nothing, start-up 5"] = _builder(
            PatientPruner, PercentilePruner(best, 5, 0, n_min_trials=MIN_TRIALS), patience=patience
        )
    return builders


def _percentile(best: float, startup: int, warmup: int, least: int) -> "Callable[[], BasePruner]":
    from optuna.pruners import MedianPruner, PercentilePruner

    if best == 50:
        return _builder(MedianPruner, startup, warmup, n_min_trials=least)
    return _builder(PercentilePruner, float(best), startup, warmup, n_min_trials=least)


def _builder(kind: "Callable[..., BasePruner]", *args: Any, **kwargs: Any) -> "Callable[[], BasePruner]":
    def build() -> "BasePruner":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are called experimental
            return kind(*args, **kwargs)

    return build


def add_options(builders: "dict[str, Callable[[], BasePruner]]", epochs: int) -> dict[str, str]:
    """What the search's option `--pruner` calls the candidates; what it offers besides them becomes one."""
    from search.samplers import PRUNERS, build_pruner

    options = {}
    for option in PRUNERS:
        build = partial(build_pruner, option, epochs=epochs)
        name = next((name for name, other in builders.items() if _are_alike(build(), other())), f"--pruner {option}")
        builders.setdefault(name, build)
        options[name] = option
    return options


def _are_alike(one: "BasePruner", other: "BasePruner") -> bool:
    return type(one) is type(other) and vars(one) == vars(other)


def draw_searches(curves: Sequence[Curve], n_trials: int, replays: int, seed: int) -> list[list[Curve]]:
    """R searches of N trials each, drawn without replacement and in random order."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [[curves[row] for row in rng.permutation(len(curves))[:n_trials]] for _ in range(replays)]


def compare_pruners(
    searches: Sequence[Sequence[Curve]],
    builders: "Mapping[str, Callable[[], BasePruner]]",
    *,
    epochs: int,
    bar: Progress,
) -> list[dict[str, Any]]:
    """A row for each pruner, cheapest first.

    Args:
        searches: What each of them is asked about.
        builders: Build them, by name; one is "none".
        epochs: Of a trial that nothing ends.
        bar: Counts searches.
    """
    outcomes: dict[str, list[Outcome]] = {name: [] for name in builders}
    for number, search in enumerate(searches):
        for name, build in builders.items():
            outcomes[name].append(score(search, replay(search, build(), epochs=epochs, name=f"search {number}")))
            bar.advance()
    rows = [_pruner_row(name, found, outcomes["none"]) for name, found in outcomes.items()]
    rows.sort(key=lambda row: (row["epochs"], row["regret"]["mean"]))
    best = recommend(rows)
    for row, is_front in zip(rows, pareto_front([(row["epochs"], row["regret"]["mean"]) for row in rows]), strict=True):
        row |= {"front": is_front, "recommended": row["pruner"] == best}
    return rows


def replay(curves: Sequence[Curve], pruner: "BasePruner", *, epochs: int, name: str) -> list[Fate]:
    """Runs a search that draws its trials in this order, and asks the pruner what search.objective would.

    Args:
        curves: N trials.
        pruner: A new one.
        epochs: Of a trial that nothing ends.
        name: Of the study; Hyperband draws a trial's bracket from it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=0)  # never used, but quicker to build than the default
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=sampler, study_name=name)
    return [_run_trial(study, curve, last=epochs - 1) for curve in curves]


def _run_trial(study: "optuna.Study", curve: Curve, *, last: int) -> Fate:
    from optuna.trial import TrialState

    trial = study.ask()
    for epoch, recall in enumerate(curve.recalls):
        trial.report(recall, epoch)
        if epoch < last and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return Fate(epoch + 1, kept=False)
    if curve.complete:
        study.tell(trial, curve.final)
    else:
        study.tell(trial, state=TrialState.PRUNED)
    return Fate(len(curve.recalls), kept=curve.complete)


def score(curves: Sequence[Curve], fates: Sequence[Fate]) -> Outcome:
    """What a search spent and lost."""
    ended = list(zip(curves, fates, strict=True))
    kept = max((curve.final for curve, fate in ended if fate.kept), default=0.0)
    top = sorted((pair for pair in ended if pair[0].complete), key=lambda pair: -pair[0].final)[:TOP]
    return Outcome(
        epochs=sum(fate.epochs for fate in fates),
        elapsed_s=sum(curve.cost_s(fate.epochs) for curve, fate in ended),
        regret=max(curve.final for curve in curves) - kept,
        lost_top=not all(fate.kept for _, fate in top),
    )


def _pruner_row(name: str, outcomes: Sequence[Outcome], unpruned: Sequence[Outcome]) -> dict[str, Any]:
    import numpy as np

    regrets = [outcome.regret for outcome in outcomes]
    return {
        "table": "pruners",
        "pruner": name,
        "replays": len(outcomes),
        "epochs": sum(o.epochs for o in outcomes) / sum(o.epochs for o in unpruned),
        "seconds": sum(o.elapsed_s for o in outcomes) / sum(o.elapsed_s for o in unpruned),
        "regret": {
            "mean": statistics.fmean(regrets),
            "median": statistics.median(regrets),
            "p90": float(np.quantile(regrets, 0.9)),
        },
        "lost_top": statistics.fmean(outcome.lost_top for outcome in outcomes),
    }


def recommend(rows: Sequence[Mapping[str, Any]]) -> str:
    """The pruner with the fewest epochs of those that lose little; of equals, the first."""
    none = next(row for row in rows if row["pruner"] == "none")["regret"]["mean"]
    careful = [
        row for row in rows if row["regret"]["mean"] <= none + MOST_REGRET and row["lost_top"] <= MOST_LOST
    ]  # never empty: "none" loses nothing
    return str(min(careful, key=lambda row: row["epochs"])["pruner"])


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of several points no other one beats in one cost without being worse in the other.

    >>> pareto_front([(1, 3), (2, 2), (2, 3), (3, 1)])
    [True, True, False, True]
    """
    return [not any(other != cost and other[0] <= cost[0] and other[1] <= cost[1] for other in costs) for cost in costs]


def write_pruners(rows: Sequence[Mapping[str, Any]]) -> None:
    """Table 1."""
    width = max(len(row["pruner"]) for row in rows)
    write(
        "\n1. Pruners: shares of what is spent without one, regret in recall, chance that a true top-3 trial is pruned"
    )
    write("   * no other has both fewer epochs and less mean regret; S ships; R recommended by the rule below")
    write(f"{'':5}{'pruner':{width}}  epochs  seconds  regret: mean  median    90 %  lost a top-3")
    for row in rows:
        marks = "".join(sign for sign, name in (("*", "front"), ("S", "ships"), ("R", "recommended")) if row[name])
        regret = row["regret"]
        write(
            f"{marks:5}{row['pruner']:{width}}  {row['epochs']:6.3f}  {row['seconds']:7.3f}  {regret['mean']:12.4f}"
            f"  {regret['median']:6.4f}  {regret['p90']:6.4f}  {row['lost_top']:12.2f}"
            + (f"  --pruner {row['option']}" if row["option"] else "")
        )
    best = next(row for row in rows if row["recommended"])
    write(
        f"rule: the fewest epochs with a mean regret of at most {MOST_REGRET} above none's and a true top-3 trial\n"
        f"      pruned in at most {MOST_LOST:.0%} of {counted(best['replays'], 'replay')}: {best['pruner']}"
    )
