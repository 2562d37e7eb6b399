"""Table 2 of benchmarks.pruning: does a search reach a recall sooner if it runs cheap trials first?

Legend: T recorded trials, R orders.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.recording import Curve
from benchmarks.reporting import interval
from core.cli import Progress, write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

TARGETS = (80, 90, 95)  # percentiles of the recorded recalls
STARTUP_TRIALS = 10  # that a search draws at random
ORDERS = 100  # of each resample of the trials, whose mean time is compared


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
        "ratio": {"median": float(np.median(ratios)), **interval(ratios)},
        "resamples": len(pairs),
    }


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
