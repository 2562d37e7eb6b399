"""What the runs of benchmarks.ablation say of each change: paired gains, their interval, and what it costs.

The interval is Student's, over seeds. A seed draws the split of train and validation, by lesion, and the run, so that
the differences between seeds hold both kinds of noise: who is in the validation part, and how training went. A
bootstrap over lesions would hold the first only. With three seeds it is wide; more of them make it narrower.

Legend: S seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ablation_changes import BASE
from benchmarks.reporting import student_interval

Row = dict[str, Any]


def compare(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Row]:
    """A row for the base, and one for each change, against the base of the same seeds.

    Args:
        runs: What was recorded.
        names: The changes.
    """
    whole = {(run["seed"], run["name"]): run for run in runs if not run["reason"]}
    bases = [run for (_, name), run in whole.items() if name == BASE]
    rows = [{"name": BASE, "values": {}, "n": len(bases), **_means(bases)}]
    for name in names:
        tried = [run for run in runs if run["name"] == name]
        pairs = [(whole[seed, name], whole[seed, BASE]) for seed, of in whole if of == name and (seed, BASE) in whole]
        if not tried:
            continue
        row: Row = {
            "name": name,
            "values": tried[0]["values"],
            "n": len(pairs),
            "failed": sum(bool(run["reason"]) for run in tried),
        }
        if pairs:
            gains_S = [change["recall"] - base["recall"] for change, base in pairs]
            last_gains_S = [change["recalls"][-1] - base["recalls"][-1] for change, base in pairs]
            low, high = student_interval(gains_S)
            row |= {
                **_means([change for change, _ in pairs]),
                "gain": statistics.mean(gains_S),
                "gains": gains_S,
                "last_gains": last_gains_S,
                "low": low,
                "high": high,
                "cost": statistics.median(change["seconds"] / base["seconds"] for change, base in pairs),
            }
        rows.append(row)
    return rows


def best_change(rows: Sequence[Row]) -> Row | None:
    """The change with the largest gain."""
    return max((row for row in rows if "gain" in row), key=lambda row: float(row["gain"]), default=None)


def markdown(rows: Sequence[Row]) -> str:
    """The table for people: gains in points of macro recall, the surest first."""
    base, *changes = rows
    lines = [
        "| change | sets | recall | gain, points | better in | gain at the last epoch | seconds |",
        "|---|---|---:|---:|---:|---:|---:|",
        f"| {BASE} | | {base['recall']:.3f} | | | | 1 |",
    ]
    for row in sorted(changes, key=lambda row: -float(row.get("gain", -1))):
        values = ", ".join(f"{name}={value}" for name, value in row["values"].items())
        if "gain" not in row:
            lines.append(f"| {row['name']} | {values} | | | 0 of {row['failed']}, all failed | | |")
            continue
        better = sum(gain > 0 for gain in row["gains"])
        failed = f", {row['failed']} failed" if row["failed"] else ""
        lines.append(
            f"| {row['name']} | {values} | {row['recall']:.3f} | {_points(row['gains'])} | "
            f"{better} of {row['n']}{failed} | {_points(row['last_gains'])} | {row['cost']:.2f} × |"
        )
    return "\n".join(lines)


def _points(gains_S: Sequence[float]) -> str:
    """Mean and interval, in points of recall."""
    low, high = student_interval(gains_S)
    between = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{100 * statistics.mean(gains_S):+.1f}{between}"


def _means(runs: Sequence[Mapping[str, Any]]) -> Row:
    return {
        name: statistics.mean(run[name] for run in runs) if runs else math.nan
        for name in ("recall", "recall_argmax", "accuracy", "loss", "seconds")
    }
