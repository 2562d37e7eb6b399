import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.metrics import macro_recall
from ensemble.build import main

TORCH = ["--source", "torch", "--device", "cpu"]


def build(studies: Any, *arguments: str) -> int:
    return main([str(studies.root), *arguments])


def read(studies: Any, name: str) -> Any:
    return json.loads((studies.root / "ensemble" / name).read_text())


@pytest.fixture
def two(studies: Any) -> Any:
    """Studies of two architectures."""
    studies.add("a")
    studies.add("b", arch="test_resnet")
    return studies


def test_build_writes_the_whole_folder(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(two, *TORCH) == 0
    folder = two.root / "ensemble"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ensemble.json",
        "members",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "report.md",
    ]
    assert [member["study"] for member in read(two, "ensemble.json")["members"]] == ["a", "b"]
    assert read(two, "ensemble.json")["split"]["test"] == two.manifest.fingerprint_of(two.split.test)
    output = capsys.readouterr().out
    assert "opening the test split, for the 1st time in this folder" in output
    assert f"report: {folder / 'report.html'}" in output


def test_predictions_of_the_test_split_give_the_reported_figures(two: Any) -> None:
    build(two, *TORCH)
    with (two.root / "ensemble" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    manifest, test = two.manifest, two.split.test
    assert [row["image"] for row in rows] == [manifest.paths[row] for row in test]
    assert [row["true_class"] for row in rows] == [manifest.classes[manifest.labels[row]] for row in test]
    probs_NC = np.array([[float(row[f"p_{name}"]) for name in manifest.classes] for row in rows])
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1)
    assert [row["predicted"] for row in rows] == [manifest.classes[c] for c in probs_NC.argmax(axis=1)]
    figures = read(two, "metrics.json")["test"]
    confusion_CC = np.zeros((3, 3), int)
    for row in rows:
        confusion_CC[manifest.classes.index(row["true_class"]), manifest.classes.index(row["predicted"])] += 1
    assert figures["ensemble"]["confusion"] == confusion_CC.tolist()
    assert figures["ensemble"]["macro_recall"] == pytest.approx(macro_recall(confusion_CC))
    assert (figures["images"], figures["opening"]) == (len(test), 1)
    assert [member["name"] for member in figures["members"]] == ["a #0", "b #0"]


def test_each_opening_is_counted_outside_the_folder_that_a_rebuild_replaces(
    two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build(two, *TORCH)
    build(two, *TORCH)
    assert "for the 2nd time" in capsys.readouterr().out
    assert read(two, "metrics.json")["test"]["opening"] == 2
    assert "opened 2 times" in (two.root / "ensemble" / "report.html").read_text()


def test_ensemble_is_final_before_the_test_split_is_opened(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def log(self: Any, fingerprint: str, command: str) -> int:
        seen.append((self.ensemble / "ensemble.json").read_text())
        assert not (self.ensemble / "metrics.json").exists()
        return 1

    monkeypatch.setattr("core.artifacts.StudiesFolder.log_test_opening", log)
    build(two, *TORCH)
    assert seen == [(two.root / "ensemble" / "ensemble.json").read_text()]


def test_no_test_needs_no_images_and_opens_nothing(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        path = two.root / name / "study.json"
        path.write_text(path.read_text().replace(str(two.manifest.root), "/nowhere"))
    assert build(two, "--no-test") == 0
    assert not (two.root / "test_openings.jsonl").exists()
    figures = read(two, "metrics.json")
    assert figures["test"] is None
    assert figures["validation"]["ensemble"]["macro_recall"] == 1.0
    assert figures["validation"]["optimistic"] is True
    assert "validation only" in (two.root / "ensemble" / "report.html").read_text()
    assert "macro recall on validation (optimistic): 100.0%" in capsys.readouterr().out


def test_data_that_moved_are_found_where_data_says(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(two.manifest.root, moved)
    for name in ("a", "b"):
        path = two.root / name / "study.json"
        path.write_text(path.read_text().replace(str(two.manifest.root), "/nowhere"))
    assert build(two, *TORCH) == 2
    assert "must exist, but /nowhere does not. Say with --data where it is now" in capsys.readouterr().err
    assert build(two, *TORCH, "--data", str(moved)) == 0


def test_changed_data_are_refused_before_anything_is_written(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(two.manifest.root, changed)
    shutil.copyfile(changed / "nv" / "nv00.png", changed / "mel" / "mel99.png")
    assert build(two, *TORCH, "--data", str(changed)) == 2
    assert "but they have changed (fingerprint" in capsys.readouterr().err
    assert not (two.root / "ensemble").exists()
    assert not (two.root / "test_openings.jsonl").exists()


def test_damaged_weights_leave_the_old_ensemble_in_place(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build(two, "--no-test")
    before = (two.root / "ensemble" / "ensemble.json").read_text()
    (two.root / "b" / "trial-0000" / "model.safetensors").write_bytes(b"no tensors")
    assert build(two, *TORCH) == 2
    assert "b/trial-0000/model.safetensors must be a safetensors file, but is damaged" in capsys.readouterr().err
    assert (two.root / "ensemble" / "ensemble.json").read_text() == before
    assert not (two.root / "test_openings.jsonl").exists()
    assert not [path for path in two.root.iterdir() if path.name.endswith(".tmp")]


def test_weights_of_another_model_are_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(*(two.root / name / "trial-0000" / "model.safetensors" for name in ("a", "b")))
    assert build(two, "--no-test") == 2
    assert "must hold the weights of test_resnet for 3 classes" in capsys.readouterr().err


def test_foreign_file_in_the_ensemble_folder_is_never_deleted(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build(two, "--no-test")
    (two.root / "ensemble" / "mine.csv").write_text("precious")
    assert build(two, "--no-test") == 2
    assert (
        "must hold only what ensemble.build wrote, because it is replaced, but it holds mine.csv"
        in capsys.readouterr().err
    )
    assert (two.root / "ensemble" / "mine.csv").read_text() == "precious"


def test_left_out_members_are_named(studies: Any, trial: Any, capsys: pytest.CaptureFixture[str]) -> None:
    studies.add("a")
    studies.add("b", [trial(0.3)], arch="test_resnet")
    assert build(studies, "--no-test") == 0
    assert "left out  b #0: not better than chance" in capsys.readouterr().out
    assert "not better than chance" in (studies.root / "ensemble" / "report.html").read_text()


def test_val_probs_of_another_shape_are_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(two.root / "a" / "trial-0000" / "val_probs.npy", np.zeros((3, 3), np.float32))
    assert build(two, "--no-test") == 2
    assert "val_probs.npy must be of shape (15, 3), but is of (3, 3)" in capsys.readouterr().err


def test_split_that_was_edited_is_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = two.root / "a" / "split.csv"
    path.write_text(path.read_text().replace(",test", ",train", 1))
    assert build(two, *TORCH) == 2
    assert "its test rows are not those that the study sealed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--no-test", "--data", "x"], "`--data` must not be given with --no-test"),
        (["--device", "tpu"], "`--device` must be one of"),
        (["--study", "c"], "`--study` must be one of a, b, but got --study c"),
        (["--archs", "vgg"], "`--archs` must be among"),
        (["--top-k", "2"], "`--top-k` must be at most 1"),
    ],
)
def test_wrong_input_ends_in_one_sentence_and_status_2(
    two: Any, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(two, *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_help_answers_without_importing_what_is_heavy() -> None:
    heavy = "torch sklearn matplotlib timm numpy".split()
    code = f"import sys, ensemble.build, ensemble.predict; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()}).returncode == 0


@pytest.mark.slow
def test_build_goes_through_every_source_alike(two: Any) -> None:
    """What `auto` chooses here and decoding each time must give the same figures."""
    build(two, "--device", "cpu")
    automatic = read(two, "metrics.json")["test"]["ensemble"]
    build(two, *TORCH)
    assert read(two, "metrics.json")["test"]["ensemble"] == automatic
