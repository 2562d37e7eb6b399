import numpy as np
import pytest
from matplotlib.colors import to_rgba

from core.plots import TRAIN_COLOUR, VAL_COLOUR, figure_png, figure_svg, plot_confusion, plot_curves, plot_slices

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 2.0 / (epoch + 1),
        "val_loss": 2.2 / (epoch + 1),
        "train_accuracy": 0.5 + 0.1 * epoch,
        "val_accuracy": 0.5 + 0.05 * epoch,
        "train_recall": 0.4 + 0.1 * epoch,
        "val_recall": recall,
    }
    for epoch, recall in enumerate([0.3, 0.6, 0.5])
]


def test_curves_show_training_and_validation_of_all_three_figures() -> None:
    figure = plot_curves(HISTORY)
    for axis, name in zip(figure.axes, ["loss", "accuracy", "recall"], strict=True):
        by_colour = {line.get_color(): line for line in axis.lines}
        for part, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            assert list(by_colour[colour].get_ydata()) == [row[f"{part}_{name}"] for row in HISTORY]
            assert list(by_colour[colour].get_xdata()) == [1, 2, 3]


def test_curves_mark_the_epoch_of_the_best_validation_recall() -> None:
    figure = plot_curves(HISTORY)
    for axis, shown in zip(figure.axes, ["1.100", "55.0%", "60.0%"], strict=True):
        (marker,) = (line for line in axis.lines if line.get_label() == "best epoch")
        assert list(marker.get_xdata()) == [2, 2]
        assert axis.get_title(loc="right") == shown


def test_curves_tint_the_gap_only_where_training_is_better() -> None:
    histories = ([{**row, "train_recall": recall} for row in HISTORY] for recall in (0.9, 0.1))
    better, not_better = (plot_curves(history).axes[2].collections[0] for history in histories)
    assert len(better.get_paths()) == 1
    assert len(not_better.get_paths()) == 0
    assert to_rgba(better.get_facecolor()[0], alpha=1) == to_rgba(VAL_COLOUR)


def test_curves_without_epochs_say_so() -> None:
    assert [axis.texts[0].get_text() for axis in plot_curves([]).axes] == ["no epochs"] * 3


def test_curves_for_a_phone_are_above_each_other() -> None:
    wide, narrow = plot_curves(HISTORY), plot_curves(HISTORY, columns=1)
    assert len({axis.get_position().y0 for axis in wide.axes}) == 1
    assert len({axis.get_position().x0 for axis in narrow.axes}) == 1


def test_confusion_of_many_classes_shows_colours_alone() -> None:
    axis = plot_confusion(np.eye(60, dtype=int), [f"class {c}" for c in range(60)]).axes[0]
    assert not axis.texts
    assert len(axis.get_yticklabels()) == 60


def test_confusion_shows_counts_and_shares_of_the_true_class() -> None:
    axis = plot_confusion(np.array([[3, 1], [0, 1000]]), ["mel", "nv"]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["3\n75%", "1\n25%", "0", "1,000\n100%"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mel\nn = 4", "nv\nn = 1,000"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["mel", "nv"]


def test_confusion_of_a_class_without_images_is_empty_and_rare_mistakes_are_not_zero() -> None:
    axis = plot_confusion(np.array([[0, 0], [1, 999]]), ["mel", "nv"]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["0", "0", "1\n<1%", "999\n100%"]


def test_class_names_with_dollars_are_not_mathematics() -> None:
    figure = plot_confusion(np.eye(2, dtype=int), [r"$\frac$", "a_b"])
    assert figure_png(figure, dpi=40).startswith(b"\x89PNG")


def test_slices_put_the_most_important_parameter_first_and_leave_out_those_without_trials() -> None:
    slices = {"lr": [(1e-5, 0.6), (1e-4, 0.5), (1e-2, 0.4)], "drop_rate": [(0.1, 0.6), (0.2, 0.5)], "empty": []}
    axes = plot_slices(slices, {"drop_rate": 0.7, "lr": 0.3}).axes
    assert [axis.get_title(loc="left") for axis in axes] == ["drop_rate", "lr"]
    assert [axis.get_title(loc="right") for axis in axes] == ["70%", "30%"]


def test_slices_are_logarithmic_where_values_crowd_at_the_low_end() -> None:
    evenly = [(value, 0.5) for value in np.linspace(0.01, 1, 20)]
    crowded = [(value, 0.5) for value in np.geomspace(1e-5, 1, 20)]
    axes = plot_slices({"evenly": evenly, "crowded": crowded, "text": [("adamw", 0.5), ("sgd", 0.4)]}, {}).axes
    assert [axis.get_xscale() for axis in axes[:2]] == ["linear", "log"]
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["adamw", "sgd"]


def test_svg_of_the_same_figure_has_the_same_bytes() -> None:
    first, second = (figure_svg(plot_curves(HISTORY)) for _ in range(2))
    assert first == second
    assert b"<svg" in first


@pytest.mark.parametrize("dpi", [50, 100])
def test_png_has_the_figures_size_in_dots(dpi: int) -> None:
    png = figure_png(plot_curves(HISTORY), dpi=dpi)
    width = int.from_bytes(png[16:20], "big")  # of the PNG's header
    assert width == pytest.approx(10.2 * dpi, abs=1)
