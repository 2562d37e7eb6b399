import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.cli import command_line
from core.datasets import load_manifest
from core.errors import InputError
from core.files import read_tensors, write_csv, write_tensors
from core.metrics import macro_recall
from core.mirror import open_studies
from core.splits import split_manifest
from ensemble import predict
from ensemble.build import main
from ensemble.folder import check_replaceable
from ensemble.inference import ImageSet, load_ensemble
from ensemble.parts import find_test
from ensemble.studies import read_studies

pytestmark = pytest.mark.usefixtures("blank_pictures")

TORCH = ["--source", "torch", "--device", "cpu"]
PRIORS = {"a": (0.2, 0.7, 0.1), "b": (0.5, 0.2, 0.3)}


def build(studies: Any, *arguments: str) -> int:
    return main([str(studies.root), *arguments])


def read(studies: Any, name: str) -> Any:
    return json.loads((studies.root / "ensemble" / name).read_text())


@pytest.fixture
def two(studies: Any, trial: Any) -> Any:
    """Studies of two architectures, whose trials learned different class frequencies and see photos differently."""
    studies.add("a", [trial(0.9, prior=PRIORS["a"])])
    studies.add("b", [trial(0.9, prior=PRIORS["b"])], arch="test_resnet", framing="centre")
    return studies


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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


def test_test_figures_are_those_of_a_computation_by_hand(two: Any) -> None:
    build(two, *TORCH)
    manifest, test = two.manifest, two.split.test
    files, labels = [manifest.file(row) for row in test], manifest.labels[test]
    members = load_ensemble(two.root / "ensemble", device="cpu").estimators_
    corrected_MNC = []
    for member, prior_C in zip(members, PRIORS.values(), strict=True):
        ratio_NC = member.predict_proba(files).astype(float) / np.array(prior_C)
        corrected_MNC.append(ratio_NC / ratio_NC.sum(axis=1, keepdims=True))
    figures, rule = read(two, "metrics.json")["test"], read(two, "ensemble.json")["decision"]
    assert rule["tau"] == 1  # all validation images are recognised with each
    powers_NC = (sum(corrected_MNC) / 2) ** (1 / rule["temperature"])
    voted_NC = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    for probs_NC, told in zip([voted_NC, *corrected_MNC], [figures["ensemble"], *figures["members"]], strict=True):
        found = [(probs_NC.argmax(axis=1) == labels)[labels == c].mean() for c in range(3)]
        assert told["macro_recall"] == pytest.approx(np.mean(found)), told["name"]
        nll = -np.log(probs_NC[np.arange(len(labels)), labels]).mean()
        assert told["negative_log_likelihood"] == pytest.approx(nll, rel=1e-5), told["name"]


def test_predictions_are_what_the_ensemble_says_of_the_test_images(two: Any) -> None:
    build(two, *TORCH)
    folder = two.root / "ensemble"
    with (folder / "predictions.csv").open() as file:
        told_NC = [[float(row[f"p_{name}"]) for name in two.manifest.classes] for row in csv.DictReader(file)]
    probs_NC = load_ensemble(folder, device="cpu").predict_proba([two.manifest.file(row) for row in two.split.test])
    np.testing.assert_allclose(told_NC, probs_NC, rtol=1e-5)
    assert np.ptp(probs_NC, axis=0).max() > 1e-3  # or their order could not be told


def test_each_member_keeps_the_prior_that_it_learned(two: Any) -> None:
    build(two, "--no-test")
    members = read(two, "ensemble.json")["members"]
    assert {member["study"]: tuple(member["prior"]) for member in members} == PRIORS


def test_each_opening_is_counted_outside_the_folder_that_a_rebuild_replaces(
    two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build(two, *TORCH)
    build(two, *TORCH)
    assert "for the 2nd time" in capsys.readouterr().out
    assert read(two, "metrics.json")["test"]["opening"] == 2
    assert "opened 2 times" in (two.root / "ensemble" / "report.html").read_text()


def test_a_label_that_is_corrected_does_not_seal_the_test_split_again(
    studies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.add("a")
    assert build(studies, *TORCH) == 0
    corrected = tmp_path / "corrected"
    shutil.copytree(studies.manifest.roots[0], corrected)
    image = next(path for row in studies.split.test if (path := studies.manifest.paths[row]).startswith("nv/"))
    (corrected / image).rename(corrected / "mel" / "corrected.png")
    manifest = load_manifest(corrected)
    split = split_manifest(manifest, seed=0)
    assert manifest.fingerprint_of(split.test) != studies.manifest.fingerprint_of(studies.split.test)
    type(studies)(studies.root, manifest, split).add("b")
    capsys.readouterr()
    assert build(studies, *TORCH, "--study", "b") == 0
    assert "opening the test split, for the 2nd time in this folder" in capsys.readouterr().out
    assert read(studies, "metrics.json")["test"]["opening"] == 2


def test_ensemble_is_final_before_the_test_split_is_opened(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def log(self: Any, fingerprint: str, image_hashes: tuple[str, ...], command: str) -> int:
        seen.append((self.ensemble / "ensemble.json").read_text())
        assert not (self.ensemble / "metrics.json").exists()
        return 1

    monkeypatch.setattr("core.artifacts.StudiesFolder.log_test_opening", log)
    build(two, *TORCH)
    assert seen == [(two.root / "ensemble" / "ensemble.json").read_text()]


def test_no_test_needs_no_images_and_opens_nothing(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        path = two.root / name / "study.json"
        path.write_text(path.read_text().replace(str(two.manifest.roots[0]), "/nowhere"))
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
    shutil.copytree(two.manifest.roots[0], moved)
    for name in ("a", "b"):
        path = two.root / name / "study.json"
        path.write_text(path.read_text().replace(str(two.manifest.roots[0]), "/nowhere"))
    assert build(two, *TORCH) == 2
    assert "must exist, but /nowhere does not. Say with --data where it is now" in capsys.readouterr().err
    assert build(two, *TORCH, "--data", str(moved)) == 0


def test_changed_data_are_refused_before_anything_is_written(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(two.manifest.roots[0], changed)
    shutil.copyfile(changed / "nv" / "nv00.png", changed / "mel" / "mel99.png")
    assert build(two, *TORCH, "--data", str(changed)) == 2
    assert "but they have changed (fingerprint" in capsys.readouterr().err
    assert not (two.root / "ensemble").exists()
    assert not (two.root / "test_openings.jsonl").exists()


def test_what_is_fitted_is_written_down_with_figures_out_of_fold(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build(two, "--no-test", "--tau", "0.5")
    ensemble = read(two, "ensemble.json")
    assert ensemble["decision"]["tau"] == 0.5
    told = ensemble["fitted"]
    assert (told["images"], told["folds"]) == (len(two.split.val), 5)
    names = ["vote, uncorrected", "prior taken out whole", "tau", "temperature"]
    assert [step["step"] for step in told["out_of_fold"]] == names
    assert told["decisions_changed_by_temperature"] == 0
    assert "fitted    tau, 0.5, as asked for: recall out of fold 100.0%" in capsys.readouterr().out
    assert "0.5, as asked for" in (two.root / "ensemble" / "report.html").read_text()
    validation, last = read(two, "metrics.json")["validation"]["ensemble"], told["out_of_fold"][-1]
    for name in ("macro_recall", "accuracy", "negative_log_likelihood", "expected_calibration_error"):
        assert validation[name] == last[name]


def test_trials_that_get_no_vote_are_left_out_by_name(
    studies: Any, trial: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.add("a", [trial(0.9), trial(0.8)])
    assert build(studies, "--no-test", "--vote", "greedy") == 0
    ensemble = read(studies, "ensemble.json")
    assert [(member["trial"], member["weight"]) for member in ensemble["members"]] == [(0, 1.0)]
    assert ensemble["left_out"] == [["a #1", "given no vote by --vote greedy"]]
    assert "left out  a #1: given no vote by --vote greedy" in capsys.readouterr().out


def test_automatic_choices_are_told_with_all_that_was_compared(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9), trial(0.8)])
    studies.add("b", [trial(0.9)], arch="test_resnet")
    assert build(studies, "--no-test", "--vote", "auto") == 0
    ensemble = read(studies, "ensemble.json")
    # All trials believe the same, so that the simplest is taken.
    assert [(member["study"], member["trial"]) for member in ensemble["members"]] == [("a", 0), ("b", 0)]
    ways = ensemble["fitted"]["ways"]
    assert [(way["vote"], way["top_k"]) for way in ways if way["chosen"]] == [("mean", 1)]
    assert [way["vote"] for way in ways] == ["mean", "mean", "geometric", "geometric", "weights", "weights", "greedy"]
    for name in ("report.html", "report.md"):
        assert "mean (taken)" in (studies.root / "ensemble" / name).read_text().replace("\\", "")


def test_by_default_those_vote_that_are_tied_with_the_best(
    studies: Any, trial: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = studies.add("a", [trial(0.9), trial(0.8), trial(0.7)])
    # The third takes every other image for the next class.
    file = study.root / "trial-0002" / "val_probs.npy"
    probs_NC = np.load(file)
    probs_NC[::2] = np.roll(probs_NC[::2], 1, axis=1)
    np.save(file, probs_NC)
    assert build(studies, "--no-test") == 0
    ensemble = read(studies, "ensemble.json")
    assert [(member["trial"], member["weight"]) for member in ensemble["members"]] == [(0, 0.5), (1, 0.5)]
    ((name, reason),) = ensemble["left_out"]
    assert name == "a #2"
    assert re.fullmatch(r"not tied with a #0, which is \d\d\.\d points \(\d\d\.\d to \d\d\.\d\) better", reason)
    assert f"left out  a #2: {reason}" in capsys.readouterr().out


def test_a_vote_that_its_best_member_beats_is_told_so(studies: Any, capsys: pytest.CaptureFixture[str]) -> None:
    studies.add("a")
    study = studies.add("b", arch="test_resnet")
    assert build(studies, "--no-test") == 0
    assert "hint" not in capsys.readouterr().out
    # Surely wrong about every other image, where the first is right and less sure.
    file = study.root / "trial-0000" / "val_probs.npy"
    probs_NC = np.load(file)
    probs_NC[::2] = 0.01 / 2
    probs_NC[::2][np.arange(len(probs_NC[::2])), (np.load(file)[::2].argmax(axis=1) + 1) % 3] = 0.99
    np.save(file, probs_NC)
    assert build(studies, "--no-test", "--tau", "1") == 0
    hint = r"hint +the vote is \d\d\.\d points \(\d\d\.\d to \d\d\.\d\) worse than a #0 alone: --archs test_eff"
    assert re.search(hint, capsys.readouterr().out)


def test_no_more_than_five_of_an_architecture_vote_by_default(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9 - 0.01 * number) for number in range(7)])
    assert build(studies, "--no-test") == 0
    ensemble = read(studies, "ensemble.json")
    assert [member["trial"] for member in ensemble["members"]] == [0, 1, 2, 3, 4]


def test_top_k_is_a_number_that_every_architecture_has_or_auto(studies: Any, trial: Any) -> None:
    studies.add("a", [trial(0.9), trial(0.8)])
    assert build(studies, "--no-test", "--top-k", "2") == 0
    assert [member["weight"] for member in read(studies, "ensemble.json")["members"]] == [0.5, 0.5]
    assert build(studies, "--no-test", "--top-k", "auto") == 0
    assert len(read(studies, "ensemble.json")["members"]) == 1


def test_operating_point_is_written_down_reported_and_applied(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(two, *TORCH, "--min-sensitivity", "mel=0.9", "--min-sensitivity", "vasc=.5") == 0
    first, second = read(two, "ensemble.json")["operating_points"]
    assert (first["class_name"], first["min_sensitivity"]) == ("mel", 0.9)
    assert second["class_name"] == "vasc"
    with (two.root / "ensemble" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert int(row["flag_mel"]) == (float(row["p_mel"]) >= first["threshold"])
    mel = [int(row["flag_mel"]) for row in rows if row["true_class"] == "mel"]
    told = read(two, "metrics.json")["test"]["operating_points"][0]
    assert told["sensitivity"] == pytest.approx(sum(mel) / len(mel))
    assert "Operating points" in (two.root / "ensemble" / "report.html").read_text()
    assert "flagged for mel from p = " in capsys.readouterr().out
    photo, out = two.manifest.file(two.split.test[0]), tmp_path / "out.csv"
    assert predict.main([str(two.root / "ensemble"), str(photo), "--out", str(out), "--device", "cpu"]) == 0
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["flag_mel"]) == (float(row["p_mel"]) >= first["threshold"])
    assert "flag_vasc" in row


def test_views_are_shown_validated_reported_and_predicted_with(two: Any) -> None:
    assert build(two, *TORCH, "--views", "4") == 0
    folder = two.root / "ensemble"
    assert read(two, "ensemble.json")["decision"]["views"] == 4
    assert "+ 4 views" in (folder / "report.html").read_text()
    figures = read(two, "metrics.json")
    steps = [rung["step"] for rung in figures["test"]["ladder"]]
    assert steps == [rung["step"] for rung in figures["validation"]["ladder"]]
    assert steps[-3].startswith("+ prior correction")
    with (folder / "predictions.csv").open() as file:
        told_NC = [[float(row[f"p_{name}"]) for name in two.manifest.classes] for row in csv.DictReader(file)]
    files = [two.manifest.file(row) for row in two.split.test]
    ensemble = load_ensemble(folder, device="cpu")
    np.testing.assert_allclose(told_NC, ensemble.predict_proba(files), rtol=1e-5)
    views_VNC = ensemble.estimators_[0].predict_views(files)
    assert len(views_VNC) == 4
    assert np.ptp(views_VNC, axis=0).max() > 1e-4  # or nothing was turned
    np.testing.assert_allclose(ensemble.estimators_[0].predict_proba(files), views_VNC.mean(axis=0), rtol=1e-5)


def test_class_of_too_few_lesions_is_refused_before_any_image_is_looked_at(
    two: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(ImageSet, "of_manifest")
    for name in "ab":
        rows = [
            row | ({"group": "one"} if (row["split"], row["label"]) == ("val", "mel") else {})
            for row in two.folder.study(name).read_split()
        ]
        write_csv(two.root / name / "split.csv", rows)
    assert build(two, *TORCH, "--views", "4", "--min-sensitivity", "mel=0.9") == 2
    assert "two lesions to fit to, but of mel there is one" in capsys.readouterr().err


def test_views_are_chosen_on_validation_and_leave_the_test_split_sealed(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[set[int]] = []
    original = ImageSet.of_manifest.__func__

    def spy(cls: Any, manifest: Any, rows: Any, **options: Any) -> Any:
        looked_at.append(set(rows.tolist()))
        return original(cls, manifest, rows, **options)

    monkeypatch.setattr(ImageSet, "of_manifest", classmethod(spy))
    assert build(two, *TORCH, "--no-test", "--views", "auto") == 0
    assert looked_at == [set(two.split.val.tolist())]
    assert not (two.root / "test_openings.jsonl").exists()
    assert "views" in [step["step"] for step in read(two, "ensemble.json")["fitted"]["out_of_fold"]]


def test_challenge_file_has_the_test_split_and_what_else_is_listed(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ensemble.isic.CLASSES", ("NV", "MEL", "VASC"))
    names = [Path(two.manifest.paths[row]).stem for row in two.split.test]
    (tmp_path / "list.csv").write_text("\n".join(["image", "gone", *names]))
    assert build(two, *TORCH, "--format", "isic", "--list", str(tmp_path / "list.csv")) == 0
    folder = two.root / "ensemble"
    with (folder / "predictions-isic.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["gone", *names]
    with (folder / "predictions.csv").open() as file:
        ours = list(csv.DictReader(file))
    assert [float(row["NV"]) for row in rows[1:]] == pytest.approx([float(row["p_nv"]) for row in ours], abs=2e-9)
    missing = "1 of 16 listed images are not there, equal shares: gone"
    assert re.findall(f"{missing}|opening the test split", capsys.readouterr().out) == [
        missing,
        "opening the test split",
    ]


def test_a_list_of_other_images_than_those_of_the_test_split_opens_nothing(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.isic.CLASSES", ("NV", "MEL", "VASC"))
    names = [Path(two.manifest.paths[row]).stem for row in two.split.train]
    (tmp_path / "list.csv").write_text("\n".join(["image", *names]))
    assert build(two, *TORCH, "--format", "isic", "--list", str(tmp_path / "list.csv")) == 2
    sentence = f"`--list` must name some of the images, but none of {len(names)} is there. Check both."
    assert sentence in capsys.readouterr().err
    assert not (two.root / "ensemble").exists()
    assert not (two.root / "test_openings.jsonl").exists()
    assert build(two, "--no-test") == 0  # what was written before is our own


def test_ensemble_of_the_first_format_predicts_as_it_did(two: Any) -> None:
    build(two, "--no-test")
    folder, files = two.root / "ensemble", [two.manifest.file(row) for row in two.split.val]
    fields = read(two, "ensemble.json")
    fields["decision"] = {"correction": "p / prior", "vote": "mean", "choice": "argmax"}
    del fields["fitted"], fields["operating_points"]
    (folder / "ensemble.json").write_text(json.dumps(fields | {"format": 1}))
    members = load_ensemble(folder, device="cpu").estimators_
    corrected_MNC = []
    for member, prior_C in zip(members, PRIORS.values(), strict=True):
        ratio_NC = member.predict_proba(files).astype(float) / np.array(prior_C)
        corrected_MNC.append(ratio_NC / ratio_NC.sum(axis=1, keepdims=True))
    told_NC = load_ensemble(folder, device="cpu").predict_proba(files)
    np.testing.assert_allclose(told_NC, sum(corrected_MNC) / 2, rtol=1e-6)


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


def test_foreign_files_at_a_url_are_seen(tmp_path: Path) -> None:
    studies = open_studies(f"file://{tmp_path}/bucket")
    ours = tmp_path / "bucket" / "ensemble" / "members" / "a-0000.safetensors"
    ours.parent.mkdir(parents=True)
    ours.touch()
    check_replaceable(studies.ensemble, studies.names_in(studies.ensemble))
    (ours.parent.parent / "paper").mkdir()
    (ours.parent.parent / "paper" / "figure.tex").touch()
    with pytest.raises(InputError, match="because it is replaced, but it holds paper"):
        check_replaceable(studies.ensemble, studies.names_in(studies.ensemble))


def test_a_url_without_studies_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"must be a folder, but file://{tmp_path}/bucket is none"):
        read_studies(open_studies(f"file://{tmp_path}/bucket"))


def test_a_password_is_not_written_down(two: Any) -> None:
    words = [str(two.root), "--no-test"]
    assert command_line("ensemble.build", ["s3://anna:secret@host/studies"]) == (
        "python -m ensemble.build 's3://anna:***@host/studies'"
    )
    assert main(words) == 0
    assert read(two, "ensemble.json")["command"] == command_line("ensemble.build", words)


def test_an_older_ensemble_stays_where_it_cannot_be_replaced(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(two, "--no-test") == 0
    before = (two.root / "ensemble" / "ensemble.json").read_bytes()

    def refuse(source: Any, target: Any) -> None:
        if Path(target).name == "ensemble":
            raise PermissionError(errno.EPERM, "not now", str(target))
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert build(two, "--no-test") == 2
    assert (two.root / "ensemble" / "ensemble.json").read_bytes() == before
    assert not list(two.root.glob(".ensemble.*"))


def test_a_member_that_believes_nothing_is_refused_before_the_test_is_opened(
    two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = two.root / "a" / "trial-0000" / "model.safetensors"
    tensors = read_tensors(file)
    tensors["backbone.classifier.bias"][0] = float("nan")
    write_tensors(file, tensors)
    assert build(two, *TORCH) == 2
    assert f"{file} gives what is no number: its weights are damaged" in capsys.readouterr().err
    assert not (two.root / "test_openings.jsonl").exists()
    assert not (two.root / "ensemble").exists()


def test_left_out_members_are_named(studies: Any, trial: Any, capsys: pytest.CaptureFixture[str]) -> None:
    studies.add("a")
    studies.add("b", [trial(0.3)], arch="test_resnet")
    assert build(studies, "--no-test") == 0
    assert "left out  b #0: not better than chance" in capsys.readouterr().out
    assert "not better than chance" in (studies.root / "ensemble" / "report.html").read_text()


def test_val_probs_of_another_shape_are_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(two.root / "a" / "trial-0000" / "val_probs.npy", np.zeros((3, 3), np.float32))
    assert build(two, "--no-test") == 2
    error = capsys.readouterr().err
    assert "val_probs.npy must be of shape (15, 3), a row for each val row of " in error
    assert "a/split.csv, but is of (3, 3). Restore whichever of the two has been changed" in error


def test_val_probs_that_are_no_array_are_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (two.root / "a" / "trial-0000" / "val_probs.npy").write_bytes(b"no array")
    assert build(two, "--no-test") == 2
    assert "val_probs.npy must be an array of numbers, but it is damaged" in capsys.readouterr().err


def test_split_that_was_edited_is_refused(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = two.root / "a" / "split.csv"
    path.write_text(path.read_text().replace(",test", ",train", 1))
    assert build(two, *TORCH) == 2
    assert "its test rows are not those that the study sealed" in capsys.readouterr().err


def test_true_classes_of_test_are_those_of_the_verified_data(two: Any) -> None:
    first = f"{two.manifest.paths[two.split.test[0]]},"
    edit(two.root / "a" / "split.csv", f"{first}mel", f"{first}vasc")
    rows, part = find_test(read_studies(two.folder)[0])[1:]
    assert rows.tolist() == two.split.test.tolist()
    assert part.labels.tolist() == two.manifest.labels[rows].tolist()


def test_classes_in_another_order_than_the_data_have_are_refused(two: Any) -> None:
    study = read_studies(two.folder)[0]
    study.info["data"]["classes"].reverse()
    with pytest.raises(InputError, match=r"study.json must list the classes of .*, mel, nv, vasc, but lists vasc, nv"):
        find_test(study)


@pytest.mark.parametrize(
    ("place", "reason"), [("images", "images"), ("labels", "labels"), ("groups", "lesions")], ids=lambda value: value
)
def test_studies_that_tell_validation_differently_are_refused(
    two: Any, place: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = two.manifest.paths[two.split.val[0]]
    lesion = two.manifest.groups[two.split.val[0]]
    changed = {"images": f"x,mel,{lesion},val", "labels": f"{image},nv,{lesion},val", "groups": f"{image},mel,x,val"}
    edit(two.root / "b" / "split.csv", f"{image},mel,{lesion},val", changed[place])
    assert build(two, "--no-test") == 2
    assert f"damaged: the {reason} of its val rows are not those of a, in that order" in capsys.readouterr().err


def test_images_that_were_renamed_are_told_from_images_that_changed(
    two: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = shutil.copytree(two.manifest.roots[0], tmp_path / "renamed")
    split = two.root / "a" / "split.csv"
    image = two.manifest.paths[two.split.test[0]]
    text = split.read_text()
    assert build(two, *TORCH, "--data", str(renamed)) == 0
    split.write_text(text.replace(f"{image},", "mel/old.png,", 1))
    assert build(two, *TORCH, "--data", str(renamed)) == 2
    assert "files were renamed or moved inside the folder: 1 are not there, as mel/old.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("summary.json", '{"trials": {"compl', "summary.json must be JSON, but it is damaged"),
        ("summary.json", '{"x": 1}', "summary.json must tell what a search found, but it lacks 'trials'"),
        ("summary.json", "[1]", "summary.json must tell what a search found, but it is not an object"),
        ("trial-0000/history.csv", "epoch,lr\n0,x\n", "history.csv must have a row of numbers for each epoch"),
        ("trial-0000/history.csv", "epoch,lr\n0,1\n", "it is damaged: it lacks train_loss"),
    ],
)
def test_damaged_findings_are_refused_before_anything_is_written_or_opened(
    two: Any, file: str, content: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (two.root / "b" / file).write_text(content)
    assert build(two, *TORCH) == 2
    assert sentence in capsys.readouterr().err
    assert not (two.root / "ensemble").exists()
    assert not (two.root / "test_openings.jsonl").exists()


def test_report_that_cannot_be_written_costs_no_opening(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("cannot be drawn")

    monkeypatch.setattr("ensemble.report.render_page", fail)
    with pytest.raises(RuntimeError, match="cannot be drawn"):
        build(two, *TORCH)
    assert not (two.root / "ensemble").exists()
    assert not (two.root / "test_openings.jsonl").exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_ensemble_that_is_no_folder_is_refused_and_kept(
    two: Any, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = two.root / "ensemble"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    else:
        place.write_text("precious")
    assert build(two, "--no-test") == 2
    assert f"must be a folder of its own, because it is replaced, but is a {kind}" in capsys.readouterr().err
    assert place.is_symlink() if kind == "link" else place.read_text() == "precious"


def test_foreign_file_among_the_members_is_never_deleted(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build(two, "--no-test")
    (two.root / "ensemble" / "members" / "mine.safetensors").write_text("precious")
    assert build(two, "--no-test") == 2
    assert "but it holds members/mine.safetensors" in capsys.readouterr().err
    assert (two.root / "ensemble" / "members" / "mine.safetensors").read_text() == "precious"


def test_leftovers_of_killed_builds_neither_stay_nor_stop_a_build(two: Any) -> None:
    build(two, "--no-test")
    (two.root / "ensemble" / ".report.html.0123456789ab.tmp").touch()
    old, young = (two.root / f".ensemble.{id_ * 12}.tmp" for id_ in "ab")
    for folder in (old, young):
        folder.mkdir()
    an_hour_ago = time.time() - 3601
    os.utime(old, (an_hour_ago, an_hour_ago))
    assert build(two, "--no-test") == 0
    assert [path.name for path in two.root.glob("**/.*.tmp")] == [young.name]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--no-test", "--data", "x"], "`--data` must not be given with --no-test"),
        (["--no-test", "--source", "auto"], "`--source` must not be given with --no-test"),
        (["--device", "tpu"], "`--device` must be one of"),
        (["--study", "c"], "`--study` must be one of a, b, but got --study c"),
        (["--archs", "vgg"], "`--archs` must be among"),
        (["--top-k", "2"], "`--top-k` must be at most 1"),
        (["--top-k", "some"], "`--top-k` must be a whole number"),
        (["--top-k", "0"], "`--top-k` must be a whole number from 1 to 1,000,000"),
        (["--vote", "median"], "`--vote` must be one of"),
        (["--min-sensitivity", "bcc=0.9"], "`--min-sensitivity` must name one of mel, nv, vasc, but got bcc"),
        (["--min-sensitivity", "mel=1"], "`--min-sensitivity` must be CLASS=SHARE with a share above 0 and below 1"),
        (["--min-sensitivity", "mel=0.0"], "`--min-sensitivity` must be CLASS=SHARE"),
        (["--min-sensitivity", "0.9"], "`--min-sensitivity` must be CLASS=SHARE"),
        (["--views", "2"], "`--views` must be one of"),
        (["--format", "isic"], "`--format isic` must be asked of an ensemble of the challenge's classes"),
        (["--format", "isic", "--no-test"], "`--format isic` must not be given with --no-test"),
        (["--list", "x.csv"], "`--list` must be given with --format isic only"),
        (["--tau", "3.1"], "`--tau` must be auto or a number from 0 to 3, but got --tau=3.1"),
        (["--tau", "one"], "`--tau` must be auto or a number from 0 to 3, but got --tau=one"),
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
