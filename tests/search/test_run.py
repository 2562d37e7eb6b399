"""The command line, in this process where that serves, in one of its own where it must be killed."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from core.cli import run
from core.demo import write_demo
from core.epochs import NonFiniteLossError
from core.errors import InputError
from search.run import build_parser, main
from tests.fixtures.drawing import nothing_drawn

ROOT = Path(__file__).parents[2]
SMALL = ["--arch", "test_efficientnet", "--image-size", "32", "--weights", "none", "--device", "cpu"]


def search_and_draw(*arguments: object) -> int:
    return run(main, build_parser(), [str(argument) for argument in arguments])


def search(*arguments: object) -> int:
    with nothing_drawn():
        return search_and_draw(*arguments)


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies folder with a study of two trials."""
    studies = tmp_path_factory.mktemp("run") / "studies"
    assert search_and_draw(*SMALL, "--data", images, "--studies", studies, "--trials", 2, "--epochs", 2) == 0
    return studies


def test_a_search_leaves_a_whole_study(searched: Path) -> None:
    folder = searched / "demo-test_efficientnet"
    assert (searched / "journal.log").is_file()
    assert len(list((searched / "artifacts").iterdir())) == 4
    assert {path.name for path in folder.glob("trial-*")} == {"trial-0000", "trial-0001"}
    files = {path.name for path in (folder / "trial-0000").iterdir()}
    assert files == {"config.json", "history.csv", "val_probs.npy", "complete.json", "model.safetensors"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert summary["tied"][0] == summary["best"][0]["number"]
    assert summary["optimism"]["trials"] == 2
    study = json.loads((folder / "study.json").read_text())
    assert study["demo"] is True
    assert study["weights"]["spec"] == "none"
    assert not list((folder / "running").glob("*"))


def test_asking_again_for_what_is_there_says_so_and_ends_well(
    searched: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(*SMALL, "--data", images, "--studies", searched, "--trials", 2, "--epochs", 2) == 0
    output = capsys.readouterr().out
    assert "demo-test_efficientnet holds 2 finished trials, so --trials 2 asks for no more." in output
    assert re.search(r"^ +\d +0\.\d{3} +0\.\d{3} to 0\.\d{3} +best +0\.", output, re.MULTILINE)
    assert "Having been chosen out of 2 makes the recall of trial" in output
    assert f"python -m search.confirm {searched}" in output
    assert f"python -m ensemble.build {searched}" in output
    assert f"optuna-dashboard {searched}/journal.log --artifact-dir {searched}/artifacts" in output


def test_a_summary_that_a_killed_process_could_not_write_is_made_up(searched: Path, images: Path) -> None:
    summary = searched / "demo-test_efficientnet" / "summary.json"
    before = summary.read_text()
    summary.unlink()
    assert search(*SMALL, "--data", images, "--studies", searched, "--trials", 2, "--epochs", 2) == 0
    assert summary.read_text() == before


def test_pictures_that_a_killed_process_owed_are_drawn_though_no_trial_is_missing(searched: Path, images: Path) -> None:
    owed = {file: file.read_bytes() for file in (searched / "artifacts").iterdir()}
    for file in owed:
        file.unlink()
    assert search_and_draw(*SMALL, "--data", images, "--studies", searched, "--trials", 2, "--epochs", 2) == 0
    assert {file: file.read_bytes() for file in (searched / "artifacts").iterdir()} == owed


def test_a_study_is_not_continued_on_images_in_another_order(
    searched: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(images, tmp_path / "moved")
    one = next((moved / "HAM10000_images_part_1").iterdir())
    one.rename(moved / "HAM10000_images_part_2" / one.name)
    assert search(*SMALL, "--data", moved, "--studies", searched, "--trials", 9, "--epochs", 2) == 2
    assert "must have the names and the order that its split.csv lists" in capsys.readouterr().err


def test_the_same_command_with_more_trials_continues(
    searched: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(*SMALL, "--data", images, "--studies", searched, "--trials", 3, "--epochs", 2) == 0
    output = capsys.readouterr().out
    assert "1 trials to go, 2 finished" in output
    assert re.search(r"^trial 2 (complete|pruned): validation recall 0\.\d{3}", output, re.MULTILINE)
    assert "A trial of 2 epochs takes" in output
    assert re.search(r"^trial +recall +95 % interval", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "3"], r"these differ: epochs \(was 2, now 3\)\. .* --study NAME"),
        (["--epochs", "2", "--seed", "1"], r"these differ: split \(was seed 0 with .*, now seed 1 with .* images to "),
        (["--epochs", "2", "--image-size", "64"], r"these differ: image size \(was 32, now 64\)"),
    ],
)
def test_a_study_is_continued_only_with_what_it_was_started_with(
    searched: Path, images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert search(*SMALL, "--data", images, "--studies", searched, "--trials", 9, *arguments) == 2
    assert re.search(sentence, capsys.readouterr().err)


def write_weights(file: Path, *, seed: int) -> Path:
    """First weights for the smallest of networks."""
    torch.manual_seed(seed)
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    return file


def test_a_study_of_other_weights_is_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_weights(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    command = ["--arch", "test_efficientnet", "--image-size", "32", "--device", "cpu", "--source", "torch"]
    command += ["--data", images, "--studies", tmp_path / "studies", "--epochs", 1, "--weights"]
    assert search(*command, first, "--trials", 1) == 0
    before = contents(tmp_path / "studies")
    capsys.readouterr()
    assert search(*command, second, "--trials", 2) == 2
    assert re.search(r"these differ: weights \(was .*, hash \w{8}, now .*, hash \w{8}\)\. .*--study", error_of(capsys))
    assert contents(tmp_path / "studies") == before


def test_a_study_of_another_space_is_refused(
    searched: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = shutil.copytree(searched, tmp_path / "studies")
    file = studies / "demo-test_efficientnet" / "study.json"
    study = json.loads(file.read_text())
    study["space"]["parameters"]["lr"] = "0.1 to 1"
    file.write_text(json.dumps(study | {"space": study["space"] | {"hash": "0" * 64}}))
    assert search(*SMALL, "--data", images, "--studies", studies, "--trials", 9, "--epochs", 2) == 2
    assert "these differ: space (lr was 0.1 to 1, now " in error_of(capsys)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a refusal."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert len(lines) == 1, lines
    return lines[0]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--arch", "efficientnet_b3"], "`weights` must be found for efficientnet_b3, but"),
        (["--arch", "vit_tiny_patch16_224", "--weights", "none", "--image-size", "100"], "image-size|image_size"),
        (
            ["--arch", "test_vit", "--weights", "none", "--image-size", "160", "--search-size", "100"],
            "image_size=100|image-size.*100",
        ),
        (["--arch", "mobilenet", "--weights", "OTHERS"], r"must .*mobilenet.*, but .*1\.safetensors"),
    ],
    ids=[
        "no hub",
        "a size that the backbone refuses",
        "a size of the search that it refuses",
        "another architecture's weights",
    ],
)
def test_what_a_backbone_refuses_is_one_sentence_and_nothing_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    weights = str(write_weights(tmp_path / "1.safetensors", seed=1))
    studies = tmp_path / "studies"
    words = [weights if word == "OTHERS" else word for word in arguments]
    assert search(*words, "--device", "cpu", "--data", images, "--studies", studies, "--trials", 1) == 2
    assert re.search(sentence, error_of(capsys))
    assert not studies.exists()


def test_a_study_of_other_data_is_refused(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_demo(tmp_path / "other", images=80, seed=1, width=96, height=72, workers=1)
    assert search(*SMALL, "--data", other, "--studies", searched, "--trials", 9, "--epochs", 2) == 2
    assert "these differ: data (was 80 images with fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--arch", "mobilnet"], "`arch` must be"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--sampler", "magic"], "`--sampler` must be one of tpe, gp, random, but got --sampler=magic"),
        (["--pruner", "axe"], "`--pruner` must be one of percentile, median, hyperband, none, but got --pruner=axe"),
        (["--device", "toaster"], "`--device` must be one of auto, cpu, cuda, mps"),
        (["--source", "bogus"], "`--source` must be one of auto, resident, ffcv, torch, but got --source=bogus"),
        (["--study", "../escape"], "A study's name must be"),
        (["--image-size", "16"], "`image_size` must be at least 32 pixels, but got image_size=16"),
        (["--weights", "no/such/file"], "no/such/file"),
        (["--tune", "l1,magic"], "`--tune` must be one or more of l1, mixup, cutmix"),
        (
            ["--tune", "drop_path"],
            "`--tune` must name fields that test_efficientnet has a place for, but got drop_path",
        ),
        (["--arch", "test_efficientnet"], "`--arch` must name each architecture once, but got test_efficientnet"),
        (
            ["--arch", "mobilenet", "--arch", "mobilenetv2_100", "--arch", "mobilenetv2_100.ra_in1k"],
            "once, but got mobilenet, mobilenetv2_100, mobilenetv2_100.ra_in1k, which are one. Raise --trials",
        ),
        (["--arch", "test_resnet", "--study", "one"], "`--study` must come with one --arch"),
        (["--arch", "test_resnet", "--weights", "a.pt"], "`--weights` must be auto or none with several --arch"),
    ],
)
def test_wrong_words_are_refused_in_one_sentence_and_nothing_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    studies = tmp_path / "studies"
    assert search(*SMALL, "--data", images, "--studies", studies, "--trials", 1, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    assert not studies.exists()


def test_what_must_be_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--arch", "mobilenet") == 2
    assert "`--trials` must be given, but got none" in error_of(capsys)
    assert search("--trials", 3) == 2
    assert "`--arch` must be given, but got none" in error_of(capsys)


def test_architectures_are_listed_without_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--list-archs", "resnet1[08]") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:5] == ["resnet18", "11.2", "M", "5", "224"]
    assert search("--list-archs", "mobilnet") == 2


def test_several_architectures_have_a_study_each_and_what_is_tuned_is_part_of_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies"
    command = [*SMALL, "--arch", "test_resnet", "--data", images, "--studies", studies, "--trials", 1, "--epochs", 1]
    assert search(*command, "--tune", "l1,layer_decay") == 0
    output = capsys.readouterr().out
    assert output.count("Next:") == 1, "what to type next comes once"
    for name in ("demo-test_efficientnet", "demo-test_resnet"):
        assert f"Best trials of {name}" in output
        folder = studies / name
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["best"][0]["params"]["layer_decay"] == 0.8
        complete = json.loads((folder / "trial-0000" / "complete.json").read_text())
        assert summary["best"][0]["zeros"] == complete["zeros"]
    ranges = json.loads((folder / "study.json").read_text())["space"]["parameters"]
    assert ranges["l1"] == "0.0001 to 0.1, logarithmic"
    gap = re.search(r"Overfitting gap of trial 0, .*: (\S+) - (\S+) = ([+-]\S+)\.$", output, re.MULTILINE)
    assert gap is not None
    assert float(gap[1]) - float(gap[2]) == pytest.approx(float(gap[3]), abs=0.0011)
    assert re.search(r"layer_decay +zeros$", output, re.MULTILINE)
    # The second one's space differs, so that none is run.
    capsys.readouterr()
    command[command.index("--trials") + 1] = 9
    assert search(*command, "--tune", "l1") == 2
    assert "layer_decay was 0.5 to 1, now not searched" in error_of(capsys)


def test_no_study_is_begun_where_another_one_is_refused(
    searched: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Path(shutil.copytree(searched, tmp_path / "studies"))
    before = contents(studies)
    command = ["--arch", "test_resnet", *SMALL, "--data", images, "--studies", studies, "--trials", 9, "--epochs", 3]
    assert search(*command) == 2
    assert "these differ: epochs (was 2, now 3)" in error_of(capsys)
    assert contents(studies) == before
    assert not (studies / "demo-test_resnet").exists()


def test_a_damaged_history_keeps_no_search_from_ending_well(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies"
    command = [*SMALL, "--data", images, "--studies", studies, "--trials", 1, "--epochs", 1]
    assert search(*command) == 0
    (studies / "demo-test_efficientnet" / "trial-0000" / "history.csv").unlink()
    assert search(*command) == 0
    assert "the gap of trial 0 can't be told" in capsys.readouterr().err


def test_a_study_goes_on_seeing_of_photos_what_it_saw(
    searched: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Path(shutil.copytree(searched, tmp_path / "studies"))
    file = studies / "demo-test_efficientnet" / "study.json"
    assert json.loads(file.read_text())["arch"]["framing"] == "whole"
    trials = 1 + len(list(file.parent.glob("trial-*")))
    command = [*SMALL, "--data", images, "--studies", studies, "--trials", trials, "--epochs", 2]
    assert search(*command, "--framing", "centre") == 2
    assert "framing (was whole, now centre)" in capsys.readouterr().err
    fields = json.loads(file.read_text())
    del fields["arch"]["framing"]  # as studies have it from before there was a choice
    file.write_text(json.dumps(fields))
    assert search(*command, "--framing", "whole") == 2
    assert "framing (was centre, now whole)" in capsys.readouterr().err
    assert search(*command) == 0
    assert "photos   the largest square around the centre" in capsys.readouterr().out
    fields["arch"]["framing"] = "half"
    file.write_text(json.dumps(fields))
    assert search(*command) == 2
    assert "The framing of a study must be whole or centre" in capsys.readouterr().err
    assert search(*command, "--framing", "whole") == 2  # told by itself, not within a sentence on damage of any kind
    assert capsys.readouterr().err.endswith(f"but study.json of {file.parent.name} says 'half'. Restore it.\n")


def test_what_ended_a_search_is_told_and_not_that_its_summary_failed_too(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("The cause must be told.")

    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.session.Session.run_here", refuse)
    monkeypatch.setattr("search.session.Session.write_summary", fill)
    assert search(*SMALL, "--data", images, "--studies", tmp_path / "studies", "--trials", 1) == 2
    error = capsys.readouterr().err
    assert "The cause must be told." in error.splitlines()[-1]
    assert "the study's summary could not be written: [Errno 28] No space left on device" in error


@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5", "1000001"])
@pytest.mark.parametrize("option", ["--trials", "--epochs"])
def test_a_number_of_trials_or_epochs_must_be_a_number(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert search("--arch", "mobilenet", "--trials", 1, f"{option}={value}") == 2
    error = capsys.readouterr().err
    assert f"`{option}` must be a whole number from 1 to 1,000,000, but got {option}={value}. Give such" in error
    assert error.count("\n") == 1


def test_a_truncated_image_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(4):
            colour = (60 * index, 90, 200 if label == "a" else 20)
            Image.new("RGB", (64, 48), colour).save(tmp_path / "data" / label / f"{label}{index}.jpg")
    broken = tmp_path / "data" / "b" / "b3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    assert search(*SMALL, "--data", tmp_path / "data", "--studies", tmp_path / "studies", "--trials", 1) == 2
    assert "b3.jpg" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_a_search_whose_trials_fail_alike_stops_with_the_counts(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("cable unplugged")

    monkeypatch.setattr("core.trainer.Trainer.train", fail)
    assert search(*SMALL, "--data", images, "--studies", tmp_path, "--trials", 50, "--epochs", 2) == 1
    output = capsys.readouterr().out
    assert "3 trials in a row failed alike (RuntimeError: cable unplugged)" in output
    summary = json.loads((tmp_path / "demo-test_efficientnet" / "summary.json").read_text())
    assert summary["trials"] == {"complete": 0, "pruned": 0, "failed": 3}


def test_an_estimate_without_numbers_is_left_to_the_trials(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object, **kwargs: object) -> None:
        raise NonFiniteLossError(0, 1)

    monkeypatch.setattr("core.trainer.Trainer.measure_epoch_s", explode)
    assert search(*SMALL, "--data", images, "--studies", tmp_path, "--trials", 1, "--epochs", 1) == 0


class StopAfter:
    """Stands for `stop_asked`: somebody presses Ctrl-C after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_search_stops_at_its_timeout(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SMALL, "--data", images, "--studies", tmp_path, "--trials", 2, "--epochs", 4000, "--patience", 0]
    assert search(*command, "--timeout", 1) == 0
    assert "The search stopped because the --timeout is over. The same command continues it." in capsys.readouterr().out


@pytest.mark.parametrize(("pruner", "judge"), [("none", "NopPruner"), ("percentile", "PercentilePruner")])
def test_a_stopped_trial_continues_under_the_pruner_that_was_asked_for(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pruner: str,
    judge: str,
) -> None:
    judges = []

    def should_prune(trial: optuna.Trial) -> bool:
        judges.append(type(trial.study.pruner).__name__)
        return False

    monkeypatch.setattr(optuna.Trial, "should_prune", should_prune)
    monkeypatch.setattr("search.setup.CHECKPOINT_SHARE", math.inf)  # or epochs this short would not be worth one
    command = [*SMALL, "--data", images, "--studies", tmp_path, "--trials", 1, "--epochs", 5, "--pruner", pruner]
    monkeypatch.setattr("search.watching.stop_asked", StopAfter(6))  # an epoch has two steps of 32 images
    assert search(*command) == 0
    assert "The search stopped because it was asked to." in capsys.readouterr().out
    judges.clear()
    monkeypatch.undo()
    monkeypatch.setattr(optuna.Trial, "should_prune", should_prune)
    assert search(*command) == 0
    assert re.search(r"trial 0, continued after epoch \d:", capsys.readouterr().out)
    assert set(judges) == {judge}


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGKILL))],
)
def test_a_search_survives_signals(images: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "search.run", *SMALL, "--data", str(images), "--studies", str(tmp_path)]
    command += ["--trials", "2", "--epochs", "400", "--patience", "0"]
    folder = tmp_path / "demo-test_efficientnet"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("running/*.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
    if number != signal.SIGKILL:
        assert process.returncode == 0
        assert "The search stopped because it was asked to. The same command continues it." in output
    assert search(*command[3:], "--timeout", 3) == 0
    history = json.loads((folder / "summary.json").read_text())
    assert history["trials"] == {"complete": 0, "pruned": 0, "failed": 0}
    assert list(folder.glob("running/trial-0000.*.safetensors"))
