"""Table 3 of benchmarks.pruning: does a smaller image rank the trials as the larger one does?

Legend: N trials that both sizes completed, R resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.order_replay import ORDERS, TARGETS, seconds_until
from benchmarks.recording import Curve, Recording
from benchmarks.reporting import interval
from core.cli import write
from core.errors import InputError, counted
from core.framing import recorded_framing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

LEAST_MATCHED = 3  # trials with which a rank correlation has a meaning
CHOSEN = (1, 3, 5)  # trials that a small size passes on


def compare_sizes(one: Recording, other: Recording, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Whether the smaller of two sizes ranks trials as the larger does: a row for rho, one for each k of `CHOSEN`.

    Only trials count that both recorded, with the same number and parameters, and that are complete in both.

    Raises:
        InputError: The sizes are equal, or the framings are not.
    """
    import numpy as np

    if one.image_size == other.image_size:
        raise InputError(f"`--other` must have another image size, but got --other of {other.image_size} pixels again.")
    if recorded_framing(one.provenance) != recorded_framing(other.provenance):
        raise InputError(
            "`--other` must be of networks that see photos as the others do, but one saw them whole and one their "
            "centre. Record one again with --framing."
        )
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
    rho = {"value": float(rhos_R[0]), **interval(defined_R)} if np.isfinite(rhos_R[0]) and len(defined_R) else None
    small_s, large_s = (np.array([cost[side] for cost in costs]) for side in (0, 1))
    return [
        sizes | {"rho": rho, "seconds": seconds},
        *(
            sizes | {"k": k, "regret": regret_of_choosing(small_N, large_N, k), "by_chance": chance_regret(large_N, k)}
            for k in CHOSEN
            if k < len(pairs)
        ),
        *(
            sizes | {"percentile": target, "recall": recall, "ratio": ratio}
            for target, recall, ratio in compare_times(small_N, large_N, small_s, large_s, rows)
        ),
    ]


def compare_times(
    small_N: "Floats", large_N: "Floats", small_s: "Floats", large_s: "Floats", rows_RN: "Ints"
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Whether a search at the small size reaches a recall at the large one sooner.

    It runs all trials small and then the best of them large, best first, for as long as it takes. A search at the large
    size runs them in random order.

    Args:
        small_N: Recalls at the small size.
        large_N: At the large one.
        small_s: Seconds of a trial (N,) at the small size.
        large_s: At the large one.
        rows_RN: Resamples of the trials.

    Yields:
        The percentile of the recalls at the large size that is reached, that recall, and the time over that of the
        search at the large size.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    for target in TARGETS:
        recall = float(np.percentile(large_N, target))
        ratios = []
        for rows_N in rows_RN:
            if large_N[rows_N].max() < recall:
                continue
            random_RN = rng.permuted(np.tile(rows_N, (ORDERS, 1)), axis=1)
            ranked_N = rows_N[(-small_N[rows_N]).argsort(kind="stable")]
            retrained_s = seconds_until(recall, ranked_N[None], large_N, large_s)[0]
            ratios.append(
                (small_s[rows_N].sum() + retrained_s) / seconds_until(recall, random_RN, large_N, large_s).mean()
            )
        yield target, recall, {"median": float(np.median(ratios)), **interval(np.array(ratios))}


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
    for row in (row for row in rows if "k" in row):
        write(
            f"regret of the best {row['k']} by {row['small']} pixels at {row['large']}: {row['regret']:.4f}, "
            f"of {row['k']} at random {row['by_chance']:.4f}"
        )
    for row in (row for row in rows if "percentile" in row):
        ratio = row["ratio"]
        write(
            f"time to a recall of {row['recall']:.3f} (percentile {row['percentile']}), all trials small and the best "
            f"again over all large: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    write()
