"""What the runs of benchmarks.labels say: recall by share of labels, and what images without labels add to it.

Intervals are Student's over seeds, each of which draws split, labelled lesions and run.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import student_interval

BASE, SELF, SEMI = "first weights", "self-supervised", "semi-supervised"
ARMS = (BASE, SELF, SEMI)

Row = dict[str, Any]
_COLOURS = ("#1f2933", "#0072B2", "#D55E00")  # as `core.plots`, told apart with every common colour blindness


def compare(runs: Sequence[Mapping[str, Any]], shares: Sequence[float]) -> list[Row]:
    """A row for each share of labels and arm, gains being over the first weights alone with the same seed.

    Args:
        runs: What was recorded; those that failed have a reason and no recall.
        shares: Shares of the lesions that have labels.
    """
    recalls = {(run["seed"], run["share"], run["arm"]): run["recall"] for run in runs if not run["reason"]}
    rows: list[Row] = []
    for share in shares:
        for arm in ARMS:
            seeds = sorted(seed for seed, of, name in recalls if (of, name) == (share, arm))
            own = [recalls[seed, share, arm] for seed in seeds]
            paired = [seed for seed in seeds if (seed, share, BASE) in recalls and arm != BASE]
            gains = [recalls[seed, share, arm] - recalls[seed, share, BASE] for seed in paired]
            images = [run["train_images"] for run in runs if run["share"] == share and not run["reason"]]
            rows.append(
                {
                    "share": share,
                    "arm": arm,
                    "n": len(own),
                    "images": statistics.mean(images) if images else None,
                    "recall": statistics.mean(own) if own else None,
                    "interval": student_interval(own),
                    "gain": statistics.mean(gains) if gains else None,
                    "gain_interval": student_interval(gains),
                }
            )
    return rows


def verdict(row: Row) -> str:
    """What a gain's interval allows to say."""
    low, high = row["gain_interval"]
    if row["gain"] is None or low is None:
        return ""
    if low > 0:
        return "helps"
    return "harms" if high < 0 else "no difference shown"


def markdown(rows: Sequence[Row]) -> str:
    """The table for people, recalls in percent, gains in points."""
    lines = [
        "| labels | images | trained | n | macro recall, 95 % interval | gain, 95 % interval | says |",
        "|---:|---:|---|---:|---:|---:|---|",
    ]
    for row in rows:
        if row["recall"] is None:
            continue
        recall = f"{100 * row['recall']:.1f}{_between(row['interval'], '.1f')}"
        gain = "" if row["gain"] is None else f"{100 * row['gain']:+.1f}{_between(row['gain_interval'], '+.1f')}"
        lines.append(
            f"| {100 * row['share']:g} % | {row['images']:,.0f} | {row['arm']} | {row['n']} | {recall} | {gain} | "
            f"{verdict(row)} |"
        )
    return "\n".join(lines)


def _between(interval: tuple[float | None, float | None], form: str) -> str:
    low, high = interval
    return "" if low is None or high is None else f" ({100 * low:{form}} to {100 * high:{form}})"


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draws recall over the share of labels, a line for each arm, intervals as bars."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from core.files import written_aside
    from core.plots import figure_png

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, (arm, colour) in enumerate(zip(ARMS, _COLOURS, strict=True)):
        points = [row for row in rows if row["arm"] == arm and row["recall"] is not None]
        beside = 1.04 ** (number - 1)  # bars of one share would hide each other
        below, above = [], []
        for row in points:
            low, high = row["interval"]
            below.append(0.0 if low is None else 100 * (row["recall"] - low))
            above.append(0.0 if high is None else 100 * (high - row["recall"]))
        shares = [100 * row["share"] * beside for row in points]
        recalls = [100 * row["recall"] for row in points]
        axis.errorbar(shares, recalls, [below, above], label=arm, color=colour, marker="o", capsize=3)
    axis.set_xscale("log")
    axis.set_xticks([100 * share for share in sorted({row["share"] for row in rows})], minor=False)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g} %"))
    axis.minorticks_off()
    axis.set_xlabel("Lesions with labels")
    axis.set_ylabel("Macro recall on validation (%)")
    axis.legend(frameon=False)
    with written_aside(file) as aside:
        aside.write_bytes(figure_png(figure))
