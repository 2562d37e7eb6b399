"""The pictures that only a report has: how a class is told from the rest, and how far probabilities can be believed."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from core.metrics import ConfidenceBin, wilson_interval
from core.plots import FAINT, INK, TRAIN_COLOUR, VAL_COLOUR, place_panels
from ensemble.watching import Place, Watched

_TICKS = (0, 0.25, 0.5, 0.75, 1)
_DASHED = (0, (4, 3))


def plot_watched(watched: Watched, *, columns: int = 2) -> Figure:
    """Draws the ROC curve and the precision-recall curve of one class, with the places of both ways of deciding.

    Args:
        watched: The class.
        columns: Panels in a row: 2 side by side, 1 for a narrow screen.
    """
    rows = 2 // columns
    figure = Figure(figsize=(3.9 * columns, 3.7 * rows + 0.5))
    place_panels(figure, left=0.65, right=0.2, bottom=1.0, top=0.35, wspace=0.9, hspace=0.9)
    roc, precision_recall = (figure.add_subplot(rows, columns, place) for place in (1, 2))
    _square(roc, "ROC", f"AUC {watched.auroc:.3f}", "1 - specificity", "Sensitivity")
    _square(
        precision_recall, "Precision-recall", f"AP {watched.average_precision:.3f}", "Sensitivity (recall)", "Precision"
    )
    roc.plot((0, 1), (0, 1), color=FAINT, linestyle=_DASHED, linewidth=1, label="chance")
    precision_recall.axhline(watched.prevalence, color=FAINT, linestyle=_DASHED, linewidth=1)
    roc.plot(watched.roc.x, watched.roc.y, color=TRAIN_COLOUR, linewidth=1.8, label="ensemble")
    # A precision holds up to the next image that is taken for the class.
    precision_recall.step(
        watched.precision_recall.x, watched.precision_recall.y, where="pre", color=TRAIN_COLOUR, linewidth=1.8
    )
    _mark(roc, precision_recall, watched.chosen, "o", INK, "one class chosen")
    if watched.flagged is not None:
        _mark(roc, precision_recall, watched.flagged, "D", VAL_COLOUR, "flagged")
    handles, labels = roc.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4 // rows, frameon=False, fontsize=9)
    return figure


def _mark(roc: Axes, precision_recall: Axes, place: Place, marker: str, colour: str, label: str) -> None:
    points = [(roc, 1 - place.specificity, place.sensitivity)]
    if place.precision is not None:
        points.append((precision_recall, place.sensitivity, place.precision))
    for axis, x, y in points:
        axis.scatter(
            [x], [y], label=label, marker=marker, s=46, color=colour, edgecolor="white", zorder=3, clip_on=False
        )


def plot_reliability(bins: Sequence[ConfidenceBin]) -> Figure:
    """Draws how often the ensemble is right against how sure it is, and below how many images there are of each.

    Args:
        bins: Images about which it is about equally sure.
    """
    figure = Figure(figsize=(4.4, 5.0))
    place_panels(figure, left=0.65, right=0.2, bottom=0.55, top=0.35, wspace=0, hspace=0.35)
    right, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _square(right, "How sure, how right", "", "", "Share that is right")
    right.plot((0, 1), (0, 1), color=FAINT, linestyle=_DASHED, linewidth=1)
    sure, found, numbers = ([getattr(each, name) for each in bins] for name in ("confidence", "accuracy", "size"))
    for each in bins:
        low, high = wilson_interval(each.accuracy, each.size)
        right.plot((each.confidence, each.confidence), (low, high), color=TRAIN_COLOUR, alpha=0.45, linewidth=2)
    right.plot(sure, found, color=TRAIN_COLOUR, marker="o", markersize=4.5, linewidth=1.2)
    counts.bar(sure, numbers, width=0.035, color=TRAIN_COLOUR, alpha=0.55)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, min_n_ticks=1))
    counts.set_ylabel("Images", color=INK, fontsize=9)
    counts.set_xlabel("Probability of the chosen class", color=INK, fontsize=9)
    _bare(counts)
    return figure


def _square(axis: Axes, title: str, remark: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold")
    axis.set_title(remark, loc="right", color=TRAIN_COLOUR, fontsize=10)
    axis.set_xlabel(x, color=INK, fontsize=9)
    axis.set_ylabel(y, color=INK, fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xticks(_TICKS)
    axis.set_yticks(_TICKS)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axis.grid(color="#e6e9ec", linewidth=0.8)
    axis.set_axisbelow(True)
