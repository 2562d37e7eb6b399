"""`search.run --unlabelled` and `--weights` of a pre-training: what a study learns from, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from core.archs import resolve_arch
from core.backbones import build_classifier
from core.cli import run
from core.datasets import load_manifest
from core.kept_apart import write_apart
from core.splits import split_manifest
from core.weights import Weights, body_tensors
from search import confirm
from search.run import build_parser, main
from tests.fixtures.drawing import nothing_drawn

SMALL = ("--arch", "test_efficientnet", "--image-size", 32, "--device", "cpu", "--epochs", 2, "--trials", 1)
NAME = "demo-test_efficientnet"


def search(*words: object) -> int:
    with nothing_drawn():
        return run(main, build_parser(), [str(word) for word in (*SMALL, *words)])


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = tmp_path_factory.mktemp("unlabelled") / "studies"
    words = ("--weights", "none", "--data", images, "--studies", studies, "--unlabelled", images)
    assert search(*words) == 0
    return studies


def test_a_study_says_which_unlabelled_images_it_learns_from(images: Path, searched: Path) -> None:
    study = json.loads((searched / NAME / "study.json").read_text())
    manifest = load_manifest(images)
    assert study["unlabelled"]["images"] == len(split_manifest(manifest).train)
    config = json.loads((searched / NAME / "trial-0000" / "config.json").read_text())
    assert (config["unlabelled_weight"], config["confidence"]) == (1.0, 0.8)


def test_a_study_is_not_continued_with_other_unlabelled_images(
    images: Path, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = split_manifest(load_manifest(images))
    for row in split.train[:5].tolist():
        shutil.copy(load_manifest(images).file(row), tmp_path)
    words = ("--weights", "none", "--data", images, "--studies", searched)
    assert search(*words, "--unlabelled", tmp_path) == 2
    assert "unlabelled images (was " in (told := capsys.readouterr().err)
    assert ", now 5 images with fingerprint" in told
    assert search(*words) == 2
    assert ", now none)" in capsys.readouterr().err


def test_trials_that_learned_from_unlabelled_images_are_not_confirmed(
    searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(searched), "--folds", "2", "--device", "cpu"]
    assert run(confirm.main, confirm.build_parser(), words) == 2
    assert "searched with --unlabelled, whose images may show lesions that a fold holds out" in capsys.readouterr().err


def write_weights(path: Path, apart: list[str]) -> Path:
    """Weights of a pre-training that was kept apart from files of these hashes."""
    arch = resolve_arch("test_efficientnet")
    model = build_classifier(arch, num_classes=2, weights=None, seed=0)
    state = body_tensors(model.backbone.state_dict(), arch)
    Weights(state=state, origin="a test", arch=arch.timm_name, apart=write_apart(apart)).save(path)
    return path


@pytest.mark.parametrize("part", ["val", "test"])
def test_weights_that_may_know_a_sealed_image_are_refused(
    images: Path, tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = load_manifest(images)
    split = split_manifest(manifest)
    row = int(getattr(split, part)[0])
    apart = [manifest.sha256[other] for other in (*split.val, *split.test) if other != row]
    weights = write_weights(tmp_path / "weights.safetensors", apart)
    words = ("--data", images, "--studies", tmp_path / "studies", "--weights", weights)
    assert search(*words) == 2
    assert "`weights` must have been kept apart from the validation and test part" in (told := capsys.readouterr().err)
    assert manifest.paths[row] in told
    assert not (tmp_path / "studies").exists()


def test_folds_do_not_hold_out_what_first_weights_may_know(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = load_manifest(images)
    split = split_manifest(manifest)
    weights = write_weights(tmp_path / "w.safetensors", [manifest.sha256[row] for row in (*split.val, *split.test)])
    studies = tmp_path / "studies"
    assert search("--data", images, "--studies", studies, "--weights", weights) == 0
    assert run(confirm.main, confirm.build_parser(), [str(studies), "--folds", "2", "--device", "cpu"]) == 2
    assert f"kept apart from what folds of {NAME} hold out, but" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_learn_from_one_copy_of_the_unlabelled_pixels(images: Path, searched: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    words = ("--weights", "none", "--data", images, "--studies", studies, "--unlabelled", images, "--workers", 2)
    assert search(*words) == 0
    alone, together = (
        json.loads((folder / NAME / "trial-0000" / "complete.json").read_text()) for folder in (searched, studies)
    )
    assert alone["recall"] == together["recall"]


def test_no_pseudo_label_is_of_a_mix(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", images, "--studies", tmp_path / "studies", "--unlabelled", images, "--tune", "l1,cutmix")
    assert search(*words) == 2
    assert "`--tune` must name none of mixup, cutmix and drop_path with --unlabelled" in capsys.readouterr().err
