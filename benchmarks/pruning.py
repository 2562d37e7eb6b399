"""What a search could save, replayed on recorded learning curves: python -m benchmarks.pruning.

Trains nothing. It reads trials that benchmarks.curves recorded to their last epoch and asks of them:

1. Pruners: which of Optuna's spends the fewest epochs and still keeps the best trials? Each is asked about the same
   searches, random draws of the recorded trials in random order, exactly as a search asks it.
2. Order: does a search reach a recall sooner if it runs cheap trials first?
3. Image sizes, with `--other`: does a smaller image rank the trials as the larger one does?

The searches share their trials, so that more of them make table 1 no surer than the number of recorded trials allows;
up to 30 trials, all are orders of the same ones. And they are random draws, whereas the later trials of a real search
are better than its first ones, which are what a pruner compares them with: it should prune fewer of them than here.

Legend: T recorded trials, N trials of a search, R searches or orders.
"""

import argparse
import itertools
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.reporting import add_out_argument, finish
from core.cli import Parser, Progress, natural_int, positive_int, progress, run, write
from core.errors import InputError, counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import optuna
    from optuna.pruners import BasePruner

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

CURVES = Path(__file__).parent / "curves" / "mobilenet-64.json"
# The rule of recommendation, stated before the curves were compared. 0.003 of recall is a tenth of the standard error
# of one validation recall (0.03 for recalls of 0.6 on the 1,504 images of HAM10000's validation part).
MOST_REGRET, MOST_LOST = 0.003, 0.05
TOP = 3  # trials that a pruner must not end
WARMUPS = range(7)  # epochs; one more is the least that a trial runs
STARTUPS = (3, 5, 10)  # trials
MIN_TRIALS = 3  # that must have reached an epoch, as search.samplers has it
TARGETS = (80, 90, 95)  # percentiles of the recorded recalls
STARTUP_TRIALS = 10  # that a search draws at random
ORDERS = 100  # of each resample of the trials, whose mean time is compared
LEAST_MATCHED = 3  # trials with which a rank correlation has a meaning
CHOSEN = (1, 3, 5)  # trials that a small size passes on


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A recorded trial, as far as a search without a pruner would have run it.

    Attributes:
        number: Its number in the file.
        params: Its parameters.
        recalls: Validation recall after each epoch.
        elapsed_s: Seconds from its start to the end of each epoch.
        complete: Whether it gave a model; else its loss became NaN.
    """

    number: int
    params: dict[str, Any]
    recalls: tuple[float, ...]
    elapsed_s: tuple[float, ...]
    complete: bool = True

    @property
    def final(self) -> float:
        """What the search has of it: its best recall, or nothing."""
        return max(self.recalls) if self.complete else 0.0

    def cost_s(self, epochs: int) -> float:
        """Seconds of its first epochs."""
        return self.elapsed_s[epochs - 1] if epochs else 0.0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The trials of a file.

    Attributes:
        curves: T of them.
        epochs: Of a trial that nothing ends.
        image_size: Pixels.
        provenance: What the file says of itself.
    """

    curves: list[Curve]
    epochs: int
    image_size: int
    provenance: dict[str, Any]


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


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument(
        "--curves",
        type=Path,
        default=CURVES,
        help="of benchmarks.curves (default: benchmarks/curves/mobilenet-64.json)",
    )
    parser.add_argument("--other", type=Path, metavar="FILE", help="the same trials at another image size")
    parser.add_argument("--trials", type=positive_int, default=30, help="of a search, at most (default: 30)")
    parser.add_argument("--replays", type=positive_int, default=100, help="searches for each pruner (default: 100)")
    parser.add_argument("--resamples", type=positive_int, default=500, help="of tables 2 and 3 (default: 500)")
    parser.add_argument(
        "--patience", type=natural_int, help="epochs without gain that end a trial (default: a search's)"
    )
    parser.add_argument("--seed", type=natural_int, default=0, help="default: 0")
    add_out_argument(parser, "pruning")
    return parser


def main(args: argparse.Namespace) -> int:
    """Makes the three tables."""
    from search.run import build_parser as search_parser

    patience = search_parser().get_default("patience") if args.patience is None else args.patience
    shipped = search_parser().get_default("pruner")
    recording = read_curves(args.curves, patience)
    other = read_curves(args.other, patience) if args.other else None
    n_trials = min(args.trials, len(recording.curves))
    write(
        f"{counted(len(recording.curves), 'recorded trial')} of {counted(recording.epochs, 'epoch')} at "
        f"{recording.image_size} pixels, patience {patience}; {counted(args.replays, 'replay')} of {n_trials} trials"
    )
    pruners = candidates(recording.epochs)
    options = add_options(pruners, recording.epochs)
    sizes = compare_sizes(recording, other, resamples=args.resamples, seed=args.seed) if other else []
    with progress("sorting trials", args.resamples) as bar:
        ordered = compare_orders(recording.curves, resamples=args.resamples, seed=args.seed, bar=bar)
    searches = draw_searches(recording.curves, n_trials, args.replays, args.seed)
    with progress("replaying searches", len(pruners) * len(searches)) as bar:
        pruned = compare_pruners(searches, pruners, epochs=recording.epochs, bar=bar)
    for row in pruned:
        row["option"] = options.get(row["pruner"])
        row["ships"] = row["option"] == shipped
    write_pruners(pruned)
    write_orders(ordered, args.resamples)
    write_sizes(sizes)
    setting = {
        "table": "setting",
        "recorded": len(recording.curves),
        "complete": sum(curve.complete for curve in recording.curves),
        "trials_of_a_search": n_trials,
        "patience": patience,
        **{name: getattr(args, name) for name in ("replays", "resamples", "seed")},
        "provenance": recording.provenance,
        "other_provenance": other.provenance if other else None,
    }
    ratio = next(row for row in pruned if row["ships"])["epochs"]
    about = f"epochs that a search spends with the shipped pruner over without, {len(recording.curves)} recorded trials"
    finish(args.out, rows=[setting, *pruned, *ordered, *sizes], ratio=ratio, about=about)
    return 0


def read_curves(file: Path, patience: int) -> Recording:
    """The trials that benchmarks.curves wrote.

    Args:
        file: Where.
        patience: Epochs without gain after which a search ends a trial; 0 never.

    Raises:
        InputError: The file is another one, or holds fewer than two trials.
    """
    from core.files import read_json

    if not file.is_file():
        raise InputError(f"Curves must be in a file that exists, but got {file}. Write one with benchmarks.curves.")
    content = read_json(file)
    try:
        fixed = content["provenance"]["fixed"]
        curves = [curve_of(trial, patience) for trial in content["trials"]]
        recording = Recording(
            curves=curves,
            epochs=fixed["epochs"],
            image_size=fixed["image_size"],
            provenance=content["provenance"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file} must be written by benchmarks.curves, but it lacks {error}. Write it anew."
        ) from error
    if not any(curve.complete for curve in curves):
        raise InputError(f"{file} must hold a complete trial, but it holds none. Record some with benchmarks.curves.")
    return recording


def curve_of(trial: Mapping[str, Any], patience: int) -> Curve:
    """A trial of a file, up to where patience ends it."""
    epochs = epochs_of_patience(trial["recall"], patience)
    return Curve(
        number=trial["number"],
        params=trial["params"],
        recalls=tuple(trial["recall"][:epochs]),
        elapsed_s=tuple(trial["elapsed_s"][:epochs]),
        complete=epochs is not None or not trial["reason"],
    )


def epochs_of_patience(recalls: Sequence[float], patience: int) -> int | None:
    """Epochs until patience ends a trial, by the trainer's rule; None if it doesn't.

    >>> epochs_of_patience([0.5, 0.6, 0.6, 0.55, 0.7], 2)
    4
    """
    best, best_epoch = -1.0, 0
    for epoch, recall in enumerate(recalls):
        if recall > best:
            best, best_epoch = recall, epoch
        if 0 < patience <= epoch - best_epoch:
            return epoch + 1
    return None


# Table 1: pruners ----------------------------------------------------------------------------------------------------


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


# Table 2: order ------------------------------------------------------------------------------------------------------


def compare_orders(curves: Sequence[Curve], *, resamples: int, seed: int, bar: Progress) -> list[dict[str, Any]]:
    """How long searches take to reach a recall in several orders; a row for each order and target.

    The trials are resampled with replacement, so that the intervals hold which trials happened to be recorded. In each
    resample the mean time of some random orders is compared with that of the same orders after sorting. A target is
    reached when the trial that reaches it ends.
    """
    import numpy as np

    finals_T = np.array([curve.final for curve in curves])
    costs_T = np.array([curve.cost_s(len(curve.recalls)) for curve in curves])
    depths_T = np.array([curve.params["unfreeze_depth"] for curve in curves], dtype=float)
    targets = np.percentile(finals_T[[curve.complete for curve in curves]], TARGETS)
    ways = {
        "random start-up trials, shallow before deep": (depths_T, STARTUP_TRIALS, STARTUP_TRIALS),
        "the shallowest trials as start-up": (depths_T, len(curves), STARTUP_TRIALS),
        "all by measured cost": (costs_T, len(curves), len(curves)),
    }
    rng = np.random.default_rng(seed)
    times: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in itertools.product(ways, TARGETS)}
    for _ in range(resamples):
        drawn_T = rng.integers(len(curves), size=len(curves))
        random_RT = rng.permuted(np.tile(drawn_T, (ORDERS, 1)), axis=1)
        sorted_RT = {name: cheap_first(random_RT, prices, among=a, count=c) for name, (prices, a, c) in ways.items()}
        for target, recall in zip(TARGETS, targets, strict=True):
            if finals_T[drawn_T].max() < recall:
                continue
            random_s = seconds_until(recall, random_RT, finals_T, costs_T).mean()
            for name, orders_RT in sorted_RT.items():
                sorted_s = seconds_until(recall, orders_RT, finals_T, costs_T).mean()
                times[name, target].append((sorted_s, random_s))
        bar.advance()
    recalls = dict(zip(TARGETS, targets.tolist(), strict=True))
    return [_order_row(name, target, recalls[target], pairs) for (name, target), pairs in times.items() if pairs]


def cheap_first(orders_RT: "Ints", prices_T: "Floats", *, among: int, count: int) -> "Ints":
    """Moves the `count` cheapest of the first `among` trials of each order to its front, cheapest first."""
    import numpy as np

    places_T = np.arange(orders_RT.shape[1])
    prices_RT = np.where(places_T < among, prices_T[orders_RT], np.inf)
    ranks_RT = prices_RT.argsort(1, kind="stable").argsort(1, kind="stable")
    keys_RT = np.where(ranks_RT < count, ranks_RT - len(places_T), places_T)
    return np.take_along_axis(orders_RT, keys_RT.argsort(1, kind="stable"), 1)


def seconds_until(recall: float, orders_RT: "Ints", finals_T: "Floats", costs_T: "Floats") -> "Floats":
    """Seconds (R,) until the end of the first trial of each order that reaches a recall, which one of them must."""
    first_R = (finals_T[orders_RT] >= recall).argmax(1)
    times: Floats = costs_T[orders_RT].cumsum(1)[range(len(first_R)), first_R]
    return times


def _order_row(name: str, target: int, recall: float, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    import numpy as np

    sorted_s, random_s = np.array(pairs).T
    ratios = sorted_s / random_s
    return {
        "table": "order",
        "order": name,
        "percentile": target,
        "recall": recall,
        "random_s": float(np.median(random_s)),
        "sorted_s": float(np.median(sorted_s)),
        "ratio": {"median": float(np.median(ratios)), **_interval(ratios)},
        "resamples": len(pairs),
    }


def _interval(values: "Floats") -> dict[str, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def write_orders(rows: Sequence[Mapping[str, Any]], resamples: int) -> None:
    """Table 2."""
    width = max(len(row["order"]) for row in rows)
    write(
        f"\n2. Order: time until a trial of the target recall has ended, unpruned; {resamples} resamples of the trials"
    )
    write(f"{'order':{width}}  percentile  recall   random  ordered   ratio (95 % interval)")
    for row in rows:
        ratio = row["ratio"]
        verdict = "sooner" if ratio["high"] < 1 else "later" if ratio["low"] > 1 else "no difference shown"
        write(
            f"{row['order']:{width}}  {row['percentile']:10}  {row['recall']:6.3f}  {row['random_s']:5.0f} s  "
            f"{row['sorted_s']:5.0f} s   {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}), {verdict}"
        )


# Table 3: image sizes ------------------------------------------------------------------------------------------------


def compare_sizes(one: Recording, other: Recording, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Whether the smaller of two sizes ranks trials as the larger does: a row for rho, one for each k of `CHOSEN`.

    Only trials count that both recorded, with the same number and parameters, and that are complete in both.

    Raises:
        InputError: The sizes are equal.
    """
    import numpy as np

    if one.image_size == other.image_size:
        raise InputError(f"`--other` must have another image size, but got --other of {other.image_size} pixels again.")
    small, large = sorted((one, other), key=lambda recording: recording.image_size)
    pairs = match(small.curves, large.curves)
    sizes = {"table": "sizes", "small": small.image_size, "large": large.image_size, "n": len(pairs)}
    if len(pairs) < LEAST_MATCHED:
        return [sizes]
    small_N = np.array([first.final for first, _ in pairs])
    large_N = np.array([second.final for _, second in pairs])
    costs = [[curve.cost_s(len(curve.recalls)) for curve in pair] for pair in pairs]
    seconds = sum(cost[0] for cost in costs) / sum(cost[1] for cost in costs)
    rows = np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))
    rhos_R = spearman(np.vstack([small_N, small_N[rows]]), np.vstack([large_N, large_N[rows]]))
    defined_R = rhos_R[1:][np.isfinite(rhos_R[1:])]  # a resample of one trial over and over has no ranks
    rho = {"value": float(rhos_R[0]), **_interval(defined_R)} if np.isfinite(rhos_R[0]) and len(defined_R) else None
    return [
        sizes | {"rho": rho, "seconds": seconds},
        *(
            sizes | {"k": k, "regret": regret_of_choosing(small_N, large_N, k), "by_chance": chance_regret(large_N, k)}
            for k in CHOSEN
            if k < len(pairs)
        ),
    ]


def match(first: Sequence[Curve], second: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """The trials that both lists completed."""
    others = {curve.number: curve for curve in second if curve.complete}
    pairs = [(curve, others[curve.number]) for curve in first if curve.complete and curve.number in others]
    return [(one, other) for one, other in pairs if one.params == other.params]


def spearman(first_RN: "Floats", second_RN: "Floats") -> "Floats":
    """Spearman's rank correlations (R,), one for each row; NaN where all values of a row are equal."""
    import numpy as np
    from scipy.stats import rankdata

    centred = [
        ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(first_RN, axis=1), rankdata(second_RN, axis=1))
    ]
    scale_R = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    scale_R[scale_R == 0] = np.nan
    correlations: Floats = (centred[0] * centred[1]).sum(1) / scale_R
    return correlations


def regret_of_choosing(small_N: "Floats", large_N: "Floats", k: int) -> float:
    """The best recall at the large size, less the best there of the k trials that are best at the small one."""
    chosen = (-small_N).argsort(kind="stable")[:k]
    return float(large_N.max() - large_N[chosen].max())


def chance_regret(recalls_N: "Floats", k: int) -> float:
    """The regret to expect of k trials chosen at random."""
    from math import comb

    # The r-th smallest is the best of k in comb(r - 1, k - 1) of all choices.
    ranked = sorted(recalls_N.tolist())
    best = sum(recall * comb(rank, k - 1) for rank, recall in enumerate(ranked)) / comb(len(ranked), k)
    return float(ranked[-1] - best)


def write_sizes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Table 3."""
    if not rows:
        write("\n3. Image sizes: no second size has been recorded (--other)\n")
        return
    head = rows[0]
    write(f"\n3. Image sizes: {head['small']} and {head['large']} pixels, {counted(head['n'], 'trial')} in common")
    if head["n"] < LEAST_MATCHED:
        write(f"fewer than {LEAST_MATCHED}: there is nothing to compare\n")
        return
    if rho := head["rho"]:
        write(f"Spearman's rho of the best recalls: {rho['value']:.2f} ({rho['low']:.2f} to {rho['high']:.2f})")
    write(f"seconds of a trial, small over large: {head['seconds']:.2f}")
    for row in rows[1:]:
        write(
            f"regret of the best {row['k']} by {row['small']} pixels at {row['large']}: {row['regret']:.4f}, "
            f"of {row['k']} at random {row['by_chance']:.4f}"
        )
    write()


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
