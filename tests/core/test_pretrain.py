"""Pre-training without labels, from the command line to the weights that a search takes."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core import pretrain, selfsupervised
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.classifier import Classifier
from core.cli import run
from core.datasets import load_manifest
from core.demo import write_demo
from core.errors import InputError
from core.files import read_metadata, write_tensors
from core.kept_apart import write_apart
from core.pretrain_files import begun_framing
from core.splits import split_manifest
from core.unlabelled import held_out_rows, refuse_weights_that_know
from core.weights import Weights, resolve_weights
from tests.fixtures.images import write_image

pytest.importorskip("lightly", reason="lightly isn't installed: pip install -e .[unlabelled]")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=96, height=72, workers=1)


def pretrained(images: Path, out: Path, *more: str, epochs: int = 2) -> int:
    arguments = ["--data", str(images), "--out", str(out), "--arch", "test_efficientnet", "--weights", "none"]
    arguments += ["--image-size", "32", "--epochs", str(epochs), "--batch-size", "16", "--device", "cpu", *more]
    return run(pretrain.main, pretrain.build_parser(), arguments)


@pytest.fixture(scope="module")
def weights_file(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "weights.safetensors"
    assert pretrained(images, out) == 0
    return out


def test_the_file_is_one_of_first_weights_that_says_where_it_comes_from(images, weights_file):
    weights = resolve_weights(str(weights_file), resolve_arch("test_efficientnet"))
    train = split_manifest(load_manifest(images)).train
    assert weights.origin.startswith(f"byol for 2 epochs at 32 pixels on {len(train)} images without labels")
    assert weights.origin.endswith("from random numbers")
    build_classifier(resolve_arch("test_efficientnet"), num_classes=7, weights=weights, seed=0)
    assert not weights_file.with_name("weights.safetensors.checkpoint").exists()
    history = json.loads(read_metadata(weights_file)["history"])
    assert [set(row) for row in history] == [{"epoch", "loss", "spread", "recall", "images_per_s"}] * 2


def test_weights_say_what_they_were_kept_apart_from_also_when_a_study_keeps_them(images, weights_file, tmp_path):
    manifest = load_manifest(images)
    split = split_manifest(manifest)
    resolve_weights(str(weights_file), resolve_arch("test_efficientnet")).save(tmp_path / "kept.safetensors")
    weights = Weights.load(tmp_path / "kept.safetensors")
    refuse_weights_that_know(weights, manifest, held_out_rows(split))
    with pytest.raises(InputError, match=r"may have shown them 1 image of it"):
        refuse_weights_that_know(weights, manifest, split.train[:1])


def test_another_pre_training_begins_only_with_weights_that_do_not_know_its_sealed_images(
    images, weights_file, tmp_path, capsys
):
    words = ("--weights", str(weights_file))
    assert pretrained(images, tmp_path / "other.safetensors", "--seed", "1", *words, epochs=1) == 2
    assert "`weights` must have been kept apart from the validation and test part" in capsys.readouterr().err
    assert pretrained(images, tmp_path / "again.safetensors", *words, epochs=1) == 0
    again = Weights.load(tmp_path / "again.safetensors")
    assert again.apart == Weights.load(weights_file).apart


def stops_after(steps: int) -> Callable[[], bool]:
    """Ctrl-C, felt after so many steps."""
    asked = itertools.count(1)
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("steps", [1, 3])  # of 3 steps an epoch
@pytest.mark.parametrize(
    "method", ["byol", *(pytest.param(name, marks=pytest.mark.slow) for name in ("simsiam", "vicreg"))]
)
def test_a_run_interrupted_after_any_step_gives_the_weights_of_an_undisturbed_one(
    images, tmp_path, method, steps, monkeypatch, capsys
):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert pretrained(images, whole, "--method", method) == 0
    assert "2 epochs of 3 steps" in capsys.readouterr().out
    monkeypatch.setattr("core.pretrain.stop_asked", stops_after(steps))
    assert pretrained(images, broken, "--method", method) == 130
    assert not broken.exists()
    monkeypatch.undo()
    assert pretrained(images, broken, "--method", method) == 0
    assert Weights.load(whole).hash == Weights.load(broken).hash
    assert without_rates(whole) == without_rates(broken)


def without_rates(file: Path) -> list[dict[str, float]]:
    history = json.loads(read_metadata(file)["history"])
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in history]


def test_the_same_command_again_says_that_the_file_is_there_and_another_is_refused(images, weights_file, capsys):
    before = weights_file.stat().st_mtime_ns
    assert pretrained(images, weights_file) == 0
    assert "is there already" in capsys.readouterr().out
    assert pretrained(images, weights_file, epochs=3) == 2
    assert "these differ: epochs, warmup_epochs. Name another file" in capsys.readouterr().err
    assert weights_file.stat().st_mtime_ns == before


def test_a_file_of_something_else_is_never_overwritten(images, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    out.write_text("my thesis")
    assert pretrained(images, out) == 2
    assert out.read_text() == "my thesis"
    assert pretrained(images, tmp_path / "weights.pt") == 2
    assert "`--out` must name a file *.safetensors" in capsys.readouterr().err
    assert pretrained(images, tmp_path / "missing" / "weights.safetensors") == 2
    assert "`--out` must be in a folder that can be written to" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(images, tmp_path, capsys, monkeypatch):
    out = tmp_path / "weights.safetensors"
    monkeypatch.setattr("core.pretrain.stop_asked", lambda: True)
    assert pretrained(images, out) == 130
    checkpoint = out.with_name("weights.safetensors.checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert pretrained(images, out) == 2
    assert "checkpoint is there and is damaged or something else. Name another" in capsys.readouterr().err


def test_without_a_studys_data_nothing_is_learned(images, tmp_path, capsys):
    folder = tmp_path / "plain"
    for number in range(20):
        write_image(folder / f"{number}.jpg", number, (48, 40))
    for file in sorted(images.rglob("*.jpg"))[:3]:
        shutil.copy(file, folder)
    assert pretrained(tmp_path / "nowhere", tmp_path / "a.safetensors") == 2
    assert "`--data` must be a folder of images, but got --data" in capsys.readouterr().err
    assert pretrained(folder, tmp_path / "a.safetensors", epochs=1) == 2
    assert "`--labelled` must name the labelled images of the study" in capsys.readouterr().err
    assert pretrained(folder, tmp_path / "b.safetensors", "--labelled", str(folder)) == 2
    assert "`--labelled` must name" not in capsys.readouterr().err
    assert pretrained(folder, tmp_path / "c.safetensors", "--labelled", str(images), epochs=1) == 0
    told = capsys.readouterr().out
    assert "study: " in told
    assert "of 23 left out" in told
    manifest = load_manifest(images)
    apart = Weights.load(tmp_path / "c.safetensors").apart
    whole = write_apart(manifest.sha256)
    assert len(whole) > len(apart) > 0.8 * len(whole), "but for three lesions the photos show none of the study's"


def test_a_network_that_gives_the_same_for_all_images_is_stopped(images, tmp_path, capsys, monkeypatch):
    build = selfsupervised.build_method

    def collapsed(name: str, classifier: Classifier, **more: int) -> selfsupervised.SelfSupervised:
        last = [module for module in classifier.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
        torch.nn.init.constant_(last.weight, 1e-4)
        torch.nn.init.ones_(last.bias)
        return build(name, classifier, **more)

    monkeypatch.setattr("core.pretraining.build_method", collapsed)
    for method in pretrain.METHODS:
        out = tmp_path / f"{method}.safetensors"
        assert pretrained(images, out, "--method", method, "--lr", "1e-6") == 2
        assert f"it is 0.000: {method} has collapsed. Give a lower --lr" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_memory_has_no_room_for_is_refused_with_a_smaller_batch(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("core.pretraining.memory_in_reach", lambda: 1000)
    assert pretrained(images, tmp_path / "w.safetensors") == 2
    assert "two views of 16 images of 32 pixels are too much. Give --batch-size 8." in capsys.readouterr().err


def test_what_a_kill_left_beside_the_finished_file_goes(images, weights_file):
    checkpoint = weights_file.with_name("weights.safetensors.checkpoint")
    shutil.copy(weights_file, checkpoint)
    assert pretrained(images, weights_file) == 0
    assert not checkpoint.exists()


def test_a_transformer_at_another_size_gives_weights_for_any_size(images, tmp_path):
    words = ["--data", str(images), "--arch", "test_vit", "--image-size", "64", "--weights", "none", "--epochs", "1"]
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    more = ["--batch-size", "16", "--device", "cpu", "--out"]
    assert run(pretrain.main, pretrain.build_parser(), [*words, *more, str(first)]) == 0
    words[words.index("none")] = str(first)
    assert run(pretrain.main, pretrain.build_parser(), [*words, *more, str(again)]) == 0
    for size in (64, 96):
        arch = dataclasses.replace(resolve_arch("test_vit"), image_size=size)
        model = build_classifier(arch, num_classes=7, weights=resolve_weights(str(again), arch), seed=0)
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)
    tensors = dict(Weights.load(first).state)
    write_tensors(first, tensors, {"image_size": "sixty"})
    arch = resolve_arch("test_vit")
    with pytest.raises(InputError, match=r"must tell the size of their images in pixels, but .* says 'sixty'"):
        build_classifier(arch, num_classes=7, weights=resolve_weights(str(first), arch), seed=0)


def test_numbers_that_are_none_count_as_a_collapse(images, tmp_path):
    assert pretrained(images, tmp_path / "w.safetensors", "--lr", "1e30") == 2
    assert not list(tmp_path.iterdir())


def test_without_lightly_the_command_says_how_to_get_it(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightly", None)
    assert pretrained(images, tmp_path / "weights.safetensors") == 2
    assert "`pip install -c constraints.txt -e '.[unlabelled]'`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "moco"], "`--method` must be one of "),
        (["--batch-size", "1"], "`--batch-size` must be 2 or more"),
        (["--lr", "-1"], "`lr` must be above 0"),
        (["--image-size", "8"], "`image_size` must be at least 32 pixels"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_read(images, tmp_path, capsys, arguments, sentence):
    assert pretrained(images, tmp_path / "weights.safetensors", *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("method", pretrain.METHODS)
def test_recorded_steps_give_the_weights_of_steps_that_are_not(images, tmp_path, method, monkeypatch):
    arguments = ("--method", method, "--device", "cuda")
    assert pretrained(images, tmp_path / "recorded.safetensors", *arguments) == 0
    monkeypatch.setattr("core.pretraining.recorder_for", lambda device: None)
    assert pretrained(images, tmp_path / "launched.safetensors", *arguments) == 0
    hashes = {Weights.load(tmp_path / f"{name}.safetensors").hash for name in ("recorded", "launched")}
    assert len(hashes) == 1


def test_a_pre_training_goes_on_seeing_of_photos_what_it_saw(tmp_path: Path) -> None:
    assert begun_framing(tmp_path / "absent") is None
    for name, facts, framing in (
        ("before", '{"lr": 1}', "centre"),
        ("whole", '{"framing": "whole"}', "whole"),
        ("another", "[]", None),
        ("odd", '{"framing": "half"}', None),
    ):
        write_tensors(tmp_path / name, {"a": torch.zeros(1)}, {"pretraining": facts})
        assert begun_framing(tmp_path / name) == framing, name
