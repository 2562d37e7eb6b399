import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from benchmarks import predict as benchmark
from core.cli import run
from core.errors import InputError
from core.files import read_json
from core.framing import Frame
from core.listing import walk_files
from ensemble import build
from ensemble.inference import ImageSet, TrialClassifier, load_ensemble
from ensemble.predict import find_images, main
from ensemble.spec import FORMAT


@pytest.fixture(scope="module")
def built(make_studies: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two, moved away from its studies, which are gone."""
    studies = make_studies(tmp_path_factory.mktemp("built") / "studies")
    studies.add("a")
    studies.add("b", arch="test_resnet")
    assert build.main([str(studies.root), "--no-test"]) == 0
    moved = studies.root.parent / "moved"
    (studies.root / "ensemble").rename(moved)
    shutil.rmtree(studies.root)
    return moved


@pytest.fixture
def ensemble(built: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(built, tmp_path / "ensemble")


def predict(ensemble: Path, *arguments: Any) -> int:
    return main([str(ensemble), *(str(argument) for argument in arguments), "--device", "cpu"])


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_folder_is_classified_by_an_ensemble_that_was_moved(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert predict(ensemble, image_folder / "mel", image_folder / "nv" / "nv00.png", "--out", out) == 0
    rows = read_rows(out)
    assert [row["image"] for row in rows] == [
        *(str(path) for path in sorted((image_folder / "mel").iterdir())),
        str(image_folder / "nv" / "nv00.png"),
    ]
    for row in rows:
        probs = {name: float(row[f"p_{name}"]) for name in ("mel", "nv", "vasc")}
        assert sum(probs.values()) == pytest.approx(1)
        assert row["predicted"] == max(probs, key=lambda name: probs[name])
    assert f"{out}: 25 images (" in capsys.readouterr().out


def test_prediction_of_an_image_does_not_depend_on_its_company(ensemble: Path, image_folder: Path) -> None:
    files = sorted((image_folder / "mel").iterdir())[:5]
    classifier = load_ensemble(ensemble, device="cpu")
    together = classifier.predict_proba(files)
    np.testing.assert_allclose(classifier.predict_proba(files[3:4])[0], together[3], rtol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(files[::-1])[::-1], together, rtol=1e-5)


def test_paths_and_image_sets_give_the_same(ensemble: Path, image_folder: Path) -> None:
    files = sorted((image_folder / "vasc").iterdir())[:4]
    classifier = load_ensemble(ensemble, device="cpu")
    with ImageSet.of_files(files) as images:
        np.testing.assert_array_equal(
            classifier.predict_proba(images), classifier.predict_proba([str(f) for f in files])
        )
    assert classifier.predict(files).tolist() == classifier.classes_[classifier.predict_proba(files).argmax(1)].tolist()


def test_ensemble_and_members_can_be_cloned(ensemble: Path, image_folder: Path) -> None:
    files = sorted((image_folder / "mel").iterdir())[:2]
    classifier = load_ensemble(ensemble, device="cpu")
    np.testing.assert_array_equal(clone(classifier).fit().predict_proba(files), classifier.predict_proba(files))
    member = clone(classifier.estimators_[0])
    assert isinstance(member, TrialClassifier)
    assert not hasattr(member, "model_")
    assert member.fit().predict(files).shape == (2,)


def test_members_classify_in_half_precision_as_on_a_card(
    built: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((image_folder / "mel").iterdir())[:4]
    whole_NC = load_ensemble(built, device="cpu").predict_proba(files)
    for module in ("core.device", "ensemble.inference"):
        monkeypatch.setattr(f"{module}.compute_dtype", lambda device: torch.bfloat16)
    half_NC = load_ensemble(built, device="cpu").predict_proba(files)
    np.testing.assert_allclose(half_NC, whole_NC, atol=0.05)
    assert not np.array_equal(half_NC, whole_NC), "it was half precision"


def test_images_of_one_size_are_opened_once_for_all_members(ensemble: Path, image_folder: Path) -> None:
    classifier = load_ensemble(ensemble, device="cpu")
    with ImageSet.of_files(sorted((image_folder / "mel").iterdir())[:2]) as images:
        first, second = (images.source(Frame.of(32, "centre"), member.device_) for member in classifier.estimators_)
        assert first is second
    with pytest.raises(RuntimeError, match="closed"):
        first.batches(images.rows, batch_size=1)


def test_all_unreadable_images_are_named_before_anything_is_classified(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(image_folder / "mel", photos)
    (photos / "mel00.png").write_bytes((photos / "mel00.png").read_bytes()[:1000])
    (photos / "mel07.png").write_bytes(b"")
    assert predict(ensemble, photos, "--out", tmp_path / "out.csv") == 2
    error = capsys.readouterr().err
    assert "2 of 24 are not" in error
    assert f"{photos / 'mel00.png'} (truncated), {photos / 'mel07.png'} (empty file)" in error
    assert not (tmp_path / "out.csv").exists()


def test_members_missing_from_the_folder_are_named(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ensemble / "members" / "b-0000.safetensors").unlink()
    assert predict(ensemble, image_folder, "--out", tmp_path / "out.csv") == 2
    assert "b-0000.safetensors does not. Build the ensemble anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("nowhere/out.csv", "`--out` must be in a folder that can be written to"),
        (".", "`--out` must be a file, but got --out"),
    ],
)
def test_out_that_cannot_be_written_is_refused(
    tmp_path: Path, image_folder: Path, out: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path, image_folder, "--out", tmp_path / out) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_out_never_replaces_an_image_that_is_to_be_classified(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = shutil.copytree(image_folder / "mel", tmp_path / "photos")
    before = (photos / "mel00.png").read_bytes()
    assert predict(ensemble, photos, "--out", photos / ".." / "photos" / "mel00.png") == 2
    assert "`--out` must be a new file or one of earlier predictions" in capsys.readouterr().err
    assert (photos / "mel00.png").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ("lesion_id,image_id,dx\nHAM_1,ISIC_1,mel\n", "csv"),
        ("image,MEL,NV\nISIC_1,1.0,0.0\n", "isic"),  # the challenge's table of truths
        ("", "csv"),
        ("a journal\n", "isic"),
        (f"<html>{'x' * 140_000}\n", "csv"),  # longer than any field that the csv module reads
    ],
)
def test_out_replaces_nothing_but_earlier_predictions(
    built: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, form: str
) -> None:
    out = tmp_path / "table.csv"
    out.write_text(content)
    assert predict(built, image_folder / "mel", "--out", out, "--format", form) == 2
    assert f"must be a new file or one of earlier predictions, but {out} is something else" in capsys.readouterr().err
    assert out.read_text() == content


def test_out_may_be_that_of_the_same_command(built: Path, image_folder: Path, tmp_path: Path) -> None:
    image, out = sorted((image_folder / "mel").iterdir())[0], tmp_path / "predictions.csv"
    for _ in range(2):
        assert predict(built, image, "--out", out) == 0


def test_folders_whose_reading_fails_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    listed = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"must be readable, but 1 are not: .*locked \(Permission denied\)"):
        find_images([tmp_path])


@pytest.mark.parametrize("out", ["new.csv", "members/out.csv"])
def test_out_never_lies_in_the_folder_of_the_ensemble(
    ensemble: Path, image_folder: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(ensemble, image_folder, "--out", ensemble / out) == 2
    assert "`--out` must not be inside the ensemble's folder" in capsys.readouterr().err
    assert read_json(ensemble / "ensemble.json")["format"] == FORMAT


def test_folder_without_ensemble_is_refused(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tmp_path, image_folder, "--out", tmp_path / "out.csv") == 2
    assert "`ensemble` must be a folder with ensemble.json" in capsys.readouterr().err


def test_demo_ensemble_says_that_it_is_one(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ensemble / "ensemble.json"
    path.write_text(json.dumps(read_json(path) | {"demo": True}))
    assert predict(ensemble, image_folder / "mel" / "mel00.png", "--out", tmp_path / "out.csv") == 0
    assert "DEMO: this ensemble learned from procedural images" in capsys.readouterr().out


def test_images_are_found_at_any_depth_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b/c/2.JPG", "b/1.png", "b/notes.txt", "a.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "a.tif", tmp_path / "b", tmp_path / "b" / "1.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.tif", "b/1.png", "b/c/2.JPG"]


def test_folders_are_walked_as_those_of_labelled_images_are(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for file in (photos / "a.jpg", photos / "._a.jpg", photos / "__MACOSX" / "b.jpg", elsewhere / "c.jpg"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (photos / "linked").symlink_to(elsewhere, target_is_directory=True)
    assert find_images([photos]) == [photos / "a.jpg", photos / "linked" / "c.jpg"]
    assert [(photos / file) for file in sorted(walk_files(photos))] == find_images([photos])


def test_paths_that_the_result_cannot_hold_are_named(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    with pytest.raises(InputError, match=r"must be UTF-8, .* but 1 are not: .*caf\\xe9\.jpg\. Rename them"):
        find_images([tmp_path])


def test_places_that_do_not_exist_or_hold_no_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Images must exist, but .*nowhere does not"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"`images` must hold at least one of .*\.jpg.*, but .* holds none"):
        find_images([tmp_path])


def test_challenge_format_needs_the_challenges_classes(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(ensemble, image_folder, "--out", tmp_path / "out.csv", "--format", "isic") == 2
    assert "`--format isic` must be asked of an ensemble of the challenge's classes" in capsys.readouterr().err
    assert predict(ensemble, image_folder, "--out", tmp_path / "out.csv", "--list", "x.csv") == 2
    assert "`--list` must be given with --format isic only" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_challenge_format_has_a_row_for_each_listed_image(
    ensemble: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.isic.CLASSES", ("NV", "MEL", "VASC"))
    out, listed = tmp_path / "out.csv", tmp_path / "list.csv"
    listed.write_text("image\nmel01\ngone\nmel00\n")
    assert predict(ensemble, image_folder / "mel", "--out", out, "--format", "isic", "--list", listed) == 0
    rows = read_rows(out)
    assert list(rows[0]) == ["image", "NV", "MEL", "VASC"]
    assert [row["image"] for row in rows] == ["mel01", "gone", "mel00"]
    probs_C = load_ensemble(ensemble, device="cpu").predict_proba([image_folder / "mel" / "mel01.png"])[0]
    np.testing.assert_allclose([float(rows[0][name]) for name in ("MEL", "NV", "VASC")], probs_C, rtol=1e-5)


def test_the_benchmark_compares_files_with_bare_forward_passes(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predict.json"
    few_images = [str(ensemble), str(image_folder), "--at-most", "9", "--repeats", "1", "--device", "cpu"]
    assert run(benchmark.main, benchmark.build_parser(), [*few_images, "--out", str(out)]) in (0, 1)
    (row,) = read_json(out)["rows"]
    assert row["images"] == 9
    assert [member["arch"] for member in row["members"]] == ["test_efficientnet", "test_resnet"]
    assert row["ratio"]["median"] == pytest.approx(row["predict_s"]["median"] / row["forward_s"]["median"])
    assert row["ratio_folded"]["median"] == pytest.approx(row["predict_s"]["median"] / row["folded_s"]["median"])
    assert "times the networks as they were trained; the bar is 1.2" in capsys.readouterr().out
