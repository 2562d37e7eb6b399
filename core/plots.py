"""The pictures that searches and reports both draw: learning curves and confusion matrices.

Figures are built without pyplot, so that nothing is remembered between calls and threads don't meet.
Shapes: C classes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from core.errors import one_line

# Okabe and Ito's palette, told apart with every common colour blindness: https://jfly.uni-koeln.de/color/
TRAIN_COLOUR = "#0072B2"
VAL_COLOUR = "#D55E00"
INK = "#1f2933"
FAINT = "#8a949e"

_MOST_CLASSES_TOLD = 40
_LARGEST = 1e15  # of a setting that is drawn as a number; no axis is made for more
_PANELS = (("loss", "Loss (nats)"), ("accuracy", "Accuracy"), ("recall", "Macro recall"))


def plot_curves(history: Sequence[Mapping[str, float]], *, columns: int = len(_PANELS)) -> Figure:
    """Draws loss, accuracy and macro recall over the epochs, training against validation.

    Tinted is the gap that marks overfitting: where training is better than validation. The dashed line marks the best
    epoch, the one whose validation recall is highest and whose weights are kept.

    Args:
        history: One row an epoch, with ``epoch`` (from 0) and ``train_…`` and ``val_…`` of loss, accuracy and recall.
        columns: Panels in a row: 3 side by side, 1 for a narrow screen.

    Returns:
        Three panels; empty ones with a remark if there are no epochs.
    """
    rows = -(-len(_PANELS) // columns)
    figure = Figure(figsize=(3.4 * columns if columns > 1 else 4.4, 2.7 * rows + 0.45))
    place_panels(figure, left=0.5, right=0.1, bottom=0.85 if columns > 1 else 1.0, top=0.3, wspace=0.5, hspace=0.85)
    axes = [figure.add_subplot(rows, columns, place) for place in range(1, len(_PANELS) + 1)]
    best_row = int(np.argmax([row["val_recall"] for row in history])) if history else 0
    for axis, (name, title) in zip(axes, _PANELS, strict=True):
        _style(axis, title)
        if history:
            _draw_curve(axis, history, name, best_row)
            best = history[best_row][f"val_{name}"]
            shown = f"{best:.3f}" if name == "loss" else f"{best:.1%}"
            axis.set_title(shown, loc="right", color=VAL_COLOUR, fontsize=10)
        else:
            axis.text(0.5, 0.5, "no epochs", ha="center", va="center", color=FAINT, transform=axis.transAxes)
    if history:
        handles, labels = axes[0].get_legend_handles_labels()
        per_row = len(labels) if columns > 1 else 2
        figure.legend(handles, labels, loc="lower center", ncols=per_row, frameon=False, fontsize=9)
    return figure


def plot_slices(
    slices: Mapping[str, Sequence[tuple[Any, float]]], importance: Mapping[str, float], *, columns: int = 4
) -> Figure:
    """Draws the validation recall of all trials of a search against each parameter, the most important one first.

    Args:
        slices: Pairs of value and recall for each parameter, the best trial first; it is circled.
        importance: Share of the recall's variance that a parameter explains; may lack some or all.
        columns: Panels in a row.
    """
    names = sorted((name for name in slices if slices[name]), key=lambda name: -importance.get(name, 0.0))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(2.55 * columns, 2.1 * rows + 0.3))
    place_panels(figure, left=0.45, right=0.1, bottom=0.3, top=0.3, wspace=0.5, hspace=0.6)
    for place, name in enumerate(names, 1):
        axis = figure.add_subplot(rows, columns, place)
        _style_slice(axis, name, importance.get(name))
        values, recalls = zip(*slices[name], strict=True)
        if not all(isinstance(value, int | float) and abs(value) < _LARGEST for value in values):
            # A dollar sign is not mathematics.
            values = tuple(one_line(str(value)).replace("$", r"\$") for value in values)
        elif min(values) > 0 and max(values) > max(20 * min(values), 5 * float(np.median(values))):
            axis.set_xscale("log")  # most of them crowd at the low end
            axis.minorticks_off()
        elif all(isinstance(value, int) for value in values):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axis.scatter(values, recalls, s=22, color=TRAIN_COLOUR, alpha=0.55, linewidth=0)
        axis.scatter(
            values[:1], recalls[:1], s=44, facecolor="none", edgecolor=VAL_COLOUR, linewidth=1.6, clip_on=False
        )
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def plot_confusion(confusion_CC: npt.NDArray[np.integer], classes: Sequence[str]) -> Figure:
    """Draws a confusion matrix: counts, and below each its share of the true class, which is also its colour.

    Of more than 40 classes the colours alone: 10,000 texts take half a minute, and nobody reads them.

    Args:
        confusion_CC: Counts (C, C); the row is the true class, the column the predicted one.
        classes: Name of each row and column.
    """
    totals_C1 = confusion_CC.sum(axis=1, keepdims=True)
    rates_CC = np.divide(confusion_CC, totals_C1, out=np.zeros(confusion_CC.shape), where=totals_C1 > 0)
    told = len(classes) <= _MOST_CLASSES_TOLD
    side = 1.4 + (0.53 if told else 0.2) * len(classes)  # inches: legible still when a phone shows it 360 pixels wide
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(rates_CC, cmap="Blues", vmin=0, vmax=1)
    for (truth, predicted), count in np.ndenumerate(confusion_CC) if told else ():
        rate = rates_CC[truth, predicted]
        colour = "white" if rate > 0.55 else INK if count else "#c3cad1"
        weight = "bold" if truth == predicted else "normal"
        text = _cell_text(int(count), float(rate))
        axis.text(predicted, truth, text, ha="center", va="center", color=colour, fontsize=10, fontweight=weight)
    _label_classes(axis, classes, totals_C1[:, 0])
    axis.set_xlabel("Predicted", color=INK, fontsize=10)
    axis.set_ylabel("True", color=INK, fontsize=10)
    return figure


def figure_png(figure: Figure, *, dpi: int = 144) -> bytes:
    """Renders a figure as PNG, `dpi` pixels an inch."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_svg(figure: Figure) -> bytes:
    """Renders a figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure)
    with rc_context({"svg.hashsalt": "dermatune"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _cell_text(count: int, rate: float) -> str:
    if not count:
        return "0"
    return f"{count:,}\n" + ("<1%" if rate < 0.005 else f"{rate:.0%}")


def _label_classes(axis: Axes, classes: Sequence[str], totals_C: npt.NDArray[np.integer]) -> None:
    places = np.arange(len(classes))
    classes = [one_line(name) for name in classes]  # SVG has no control characters
    totals = [f"{name}\nn = {total:,}" for name, total in zip(classes, totals_C, strict=True)]
    # A dollar sign in a class name is not mathematics.
    axis.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axis.set_yticks(places, totals, parse_math=False)
    axis.set_xticks(places[1:] - 0.5, minor=True)
    axis.set_yticks(places[1:] - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="both", length=0, labelsize=10, labelcolor=INK)
    axis.spines[:].set_visible(False)


def place_panels(
    figure: Figure, *, left: float, right: float, bottom: float, top: float, wspace: float, hspace: float
) -> None:
    """Fixes the margins in inches; matplotlib's own layouts draw everything twice to find out.

    The spaces between panels are inches only for panels of 2 inches, which is about what they are.
    """
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=wspace / 2,
        hspace=hspace / 2,
    )


def _style_slice(axis: Axes, name: str, share: float | None) -> None:
    axis.set_title(one_line(name), loc="left", color=INK, fontsize=9, fontweight="bold", parse_math=False)
    if share is not None:
        axis.set_title(f"{share:.0%}", loc="right", color=VAL_COLOUR, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(labelsize=7.5, color=FAINT, labelcolor=INK)
    axis.grid(axis="y", color="#e6e9ec", linewidth=0.8)


def _style(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold")
    axis.set_xlabel("Epoch", color=INK, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axis.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _draw_curve(axis: Axes, history: Sequence[Mapping[str, float]], name: str, best_row: int) -> None:
    epochs = [row["epoch"] + 1 for row in history]  # people count from 1
    train, val = ([row[f"{part}_{name}"] for row in history] for part in ("train", "val"))
    marker = "o" if len(history) <= 30 else None
    sign = -1 if name == "loss" else 1
    better = [sign * (t - v) >= 0 for t, v in zip(train, val, strict=True)]
    axis.fill_between(
        epochs, train, val, better, interpolate=True, color=VAL_COLOUR, alpha=0.12, linewidth=0, label="overfitting"
    )
    axis.plot(epochs, train, color=TRAIN_COLOUR, marker=marker, markersize=3.5, linewidth=1.6, label="training")
    axis.plot(epochs, val, color=VAL_COLOUR, marker=marker and "s", markersize=3.5, linewidth=1.6, label="validation")
    axis.axvline(epochs[best_row], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="best epoch", zorder=1)
    if name == "loss":
        axis.set_ylim(0, 1.08 * max(*train, *val))
    else:
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
