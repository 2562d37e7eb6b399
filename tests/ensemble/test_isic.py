import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score

from core.errors import InputError
from core.files import write_csv
from core.metrics import confusion_matrix, macro_recall
from ensemble.decision import choose
from ensemble.isic import CLASSES, challenge_places, challenge_rows, read_list, take_listed, untie
from tests.fixtures.isic_scorer import WEIGHTLESS, ScoreError, score

OURS = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")  # as HAM10000 has them


def write_truth(path: Path, names: list[str], labels_N: np.ndarray) -> None:
    """The challenge's ground truth; labels are places in `OURS`."""
    rows = []
    for name, label in zip(names, labels_N, strict=True):
        rows.append({"image": name, **{code: float(code.lower() == OURS[label]) for code in CLASSES}})
    write_csv(path, rows)


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[list[str], np.ndarray, np.ndarray, Path]:
    """Names, labels, probabilities with ties among them, and the ground truth, which lists one more image."""
    rng = np.random.default_rng(0)
    names = [f"ISIC_{34524 + n:07}" for n in range(200)]
    labels_N = np.concatenate([np.arange(7), rng.integers(0, 7, 193)])
    probs_NC = rng.dirichlet(np.ones(7), 200)
    probs_NC[:5] = 1 / 7
    probs_NC[5:9] = [0, 0, 0, 0.5, 0.5, 0, 0]
    write_truth(tmp_path / "truth.csv", [*names, WEIGHTLESS], np.append(labels_N, 4))
    return names, labels_N, probs_NC, tmp_path / "truth.csv"


def test_scorer_finds_the_recall_that_we_report(drawn: Any, tmp_path: Path) -> None:
    names, labels_N, probs_NC, truth = drawn
    write_csv(tmp_path / "ours.csv", challenge_rows(names, probs_NC, OURS, read_list(truth)))
    recall, sensitivities = score(truth, tmp_path / "ours.csv")
    predictions_N = choose(probs_NC)
    assert recall == pytest.approx(macro_recall(confusion_matrix(labels_N, predictions_N, 7)), abs=1e-12)
    assert recall == pytest.approx(balanced_accuracy_score(labels_N, predictions_N), abs=1e-12)
    assert recall == pytest.approx(recall_score(labels_N, predictions_N, average="macro"), abs=1e-12)
    assert sensitivities["MEL"] == (probs_NC[labels_N == 4, 4] > 0.5).mean()  # which is not its recall


def test_ties_would_have_cost_recall(drawn: Any, tmp_path: Path) -> None:
    names, _, probs_NC, truth = drawn
    rows = challenge_rows(names, probs_NC, OURS, read_list(truth))
    tied = [row | dict.fromkeys(CLASSES, 1 / 7) for row in rows[:5]] + rows[5:]
    for name, told in (("ours", rows), ("tied", tied)):
        write_csv(tmp_path / f"{name}.csv", told)
    assert score(truth, tmp_path / "tied.csv")[0] < score(truth, tmp_path / "ours.csv")[0]


def test_scorer_refuses_what_lacks_the_image_that_is_missing(drawn: Any, tmp_path: Path) -> None:
    names, _, probs_NC, truth = drawn
    write_csv(tmp_path / "ours.csv", challenge_rows(names, probs_NC, OURS))
    with pytest.raises(ScoreError, match="rows that are missing"):
        score(truth, tmp_path / "ours.csv")


def test_official_scorer_agrees_with_its_twin(drawn: Any, tmp_path: Path) -> None:
    pytest.importorskip("isic_challenge_scoring", reason="isic-challenge-scoring isn't installed: it needs pandas < 3")
    from isic_challenge_scoring import load_csv, metrics

    names, _, probs_NC, truth = drawn
    write_csv(tmp_path / "ours.csv", challenge_rows(names, probs_NC, OURS, read_list(truth)))
    with truth.open() as truth_file, (tmp_path / "ours.csv").open() as ours_file:
        true_probabilities, weights = load_csv.parse_truth_csv(truth_file)
        told = load_csv.parse_csv(ours_file, true_probabilities.columns)
    load_csv.validate_rows(true_probabilities, told)
    load_csv.sort_rows(true_probabilities)
    load_csv.sort_rows(told)
    weights = weights.score_weight.reindex(true_probabilities.index)
    official = metrics.balanced_multiclass_accuracy(true_probabilities, told, weights)
    assert official == pytest.approx(score(truth, tmp_path / "ours.csv")[0], abs=1e-12)


def test_columns_are_the_challenges_in_its_order_at_full_precision(tmp_path: Path) -> None:
    probs_NC = np.array([[0.01, 0.02, 0.03, 0.04, 1 / 3, 1 - 0.1 - 1 / 3 - 0.007, 0.007]])
    write_csv(tmp_path / "ours.csv", challenge_rows(["ISIC_1"], probs_NC, OURS))
    with (tmp_path / "ours.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["image", *CLASSES]
    assert [float(row[name]) for name in CLASSES] == probs_NC[0][[4, 5, 1, 0, 2, 3, 6]].tolist()


def test_missing_image_has_a_row_without_a_tie() -> None:
    rows = challenge_rows(["b", "a"], np.full((2, 7), 1 / 7), OURS, ["a", "gone", "b"])
    assert [row["image"] for row in rows] == ["a", "gone", "b"]
    values = sorted(rows[1][name] for name in CLASSES)
    assert values[-1] > values[-2]
    assert values[0] == pytest.approx(1 / 7)


@given(st.integers(0, 1000))
def test_highest_leads_clearly_and_is_the_class_that_is_chosen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs_NC = rng.integers(0, 3, (30, 4)) + 1e-3
    probs_NC /= probs_NC.sum(axis=1, keepdims=True)
    untied_NC = untie(probs_NC)
    ranked_NC = np.sort(untied_NC, axis=1)
    assert (ranked_NC[:, -1] - ranked_NC[:, -2] >= 0.9e-9).all()
    assert choose(untied_NC).tolist() == choose(probs_NC).tolist()
    assert ((untied_NC >= 0) & (untied_NC <= 1)).all()
    np.testing.assert_allclose(untied_NC, probs_NC, atol=2e-9)


def test_other_classes_are_refused() -> None:
    assert challenge_places(OURS) == [4, 5, 1, 0, 2, 3, 6]
    assert challenge_places(CLASSES) == list(range(7))
    with pytest.raises(InputError, match="`--format isic` must be asked of an ensemble of the challenge's classes"):
        challenge_places(("mel", "nv"))


def test_images_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="Images must have a name each for `--format isic`, but a are there twice"):
        challenge_rows(["a", "a"], np.full((2, 7), 1 / 7), OURS)


def test_list_is_a_csv_with_a_column_image(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,x\nISIC_1.jpg,1\nISIC_2,1\n")
    assert read_list(tmp_path / "list.csv") == ["ISIC_1", "ISIC_2"]
    with pytest.raises(InputError, match=r"`--list` must be a CSV file, but got --list .*nowhere"):
        read_list(tmp_path / "nowhere")
    (tmp_path / "list.csv").write_text("name\nISIC_1\n")
    with pytest.raises(InputError, match="`--list` must be a CSV file with a column image and rows"):
        read_list(tmp_path / "list.csv")


def test_what_is_not_listed_is_left_out_and_what_is_missing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    files = [Path("x/a.jpg"), Path("x/b.jpg"), Path("y/a.png")]
    assert take_listed(files[:2], ["b", "c"]) == [files[1]]
    output = capsys.readouterr().out
    assert "1 of 2 listed images are not there, equal shares: c" in output
    assert "1 of 2 images are not listed and left out" in output
    assert take_listed(files[:2], []) == files[:2]
    with pytest.raises(InputError, match="`--list` must name some of the images, but none of 1 is there"):
        take_listed(files, ["c"])
    with pytest.raises(InputError, match="a are there twice"):
        take_listed(files, ["a"])
