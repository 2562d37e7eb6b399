"""`search.confirm`: what it trains, what it keeps, what it says, and what it refuses."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.artifacts import StudiesFolder, StudyFolder
from core.cli import run
from core.datasets import load_manifest
from core.metrics import bootstrap_interval, confusion_matrix, correct_prior, macro_recall
from search.confirm import build_parser, main
from search.reopening import reopen
from tests.search.test_run import ROOT, StopAfter, contents, error_of, search

NAME = "demo-test_efficientnet"
SMALL = ("--arch", "test_efficientnet", "--image-size", 32, "--weights", "none", "--device", "cpu", "--epochs", 3)
TWO = ("--folds", 2, "--top", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies folder with a study of three trials, whose best epoch is the last."""
    studies = tmp_path_factory.mktemp("confirm") / "studies"
    command = (*SMALL, "--data", images, "--studies", studies, "--trials", 3, "--pruner", "none")
    assert search(*command) == 0
    for file in study_in(studies).root.glob("trial-*/complete.json"):  # noise learns too little to choose an epoch by
        file.write_text(json.dumps(json.loads(file.read_text()) | {"best_epoch": 2}))
    return studies


@pytest.fixture(scope="module")
def confirmed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with its two best trials confirmed over two folds."""
    studies = Path(shutil.copytree(searched, tmp_path_factory.mktemp("confirmed") / "studies"))
    assert confirm(studies, *TWO) == 0
    return studies


@pytest.fixture
def studies(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "studies"))


def confirm(*words: object) -> int:
    return run(main, build_parser(), [str(word) for word in words])


def study_in(studies: Path) -> StudyFolder:
    return StudiesFolder(studies).study(NAME)


def ranked(studies: Path) -> list[int]:
    trials = sorted(study_in(studies).read_trials(), key=lambda trial: (-trial.recall, trial.number))
    return [trial.number for trial in trials]


def arrays(studies: Path) -> dict[str, np.ndarray]:
    """All probabilities that were kept."""
    root = study_in(studies).confirmed.root
    return {str(file.relative_to(root)): np.load(file) for file in sorted(root.rglob("*.npy"))}


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = arrays(first), arrays(second)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_every_row_but_the_sealed_ones_is_held_out_once(confirmed: Path) -> None:
    study = study_in(confirmed)
    rows, folds = study.read_split(), study.confirmed.read_folds()
    unsealed = [row for row in rows if row["split"] in ("train", "val")]
    assert [row["image"] for row in folds] == [row["image"] for row in unsealed]
    assert {row["fold"] for row in folds} == {"0", "1"}
    for group in {row["group"] for row in folds}:
        assert len({row["fold"] for row in folds if row["group"] == group}) == 1
    for trial in study.confirmed.read_trials():
        (probs,) = trial.oof_probs()
        assert probs.shape == (len(folds), len(study.read_study()["data"]["classes"]))
        np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
        for fold in ("0", "1"):
            part = study.confirmed.read_run(trial.number, int(fold), 0)
            assert part is not None
            np.testing.assert_array_equal(probs[[row["fold"] == fold for row in folds]], part.probs())


def test_the_recall_is_that_of_the_prior_of_each_fold(confirmed: Path) -> None:
    study = study_in(confirmed)
    folds, classes = study.confirmed.read_folds(), study.read_study()["data"]["classes"]
    labels = np.array([classes.index(row["label"]) for row in folds])
    fold_of = np.array([int(row["fold"]) for row in folds])
    for trial in study.confirmed.read_trials():
        (priors,), (probs,) = np.array(trial.priors), trial.oof_probs()
        corrected = [correct_prior(p[None], priors[fold])[0] for p, fold in zip(probs, fold_of, strict=True)]
        predictions = np.argmax(corrected, axis=1)
        assert trial.recall == macro_recall(confusion_matrix(labels, predictions, len(classes)))
        groups = [row["group"] for row in folds]
        assert trial.recall_interval == bootstrap_interval(labels, predictions, groups, len(classes))
        assert trial.epochs == study.read_trial(trial.number).best_epoch + 1


def test_the_best_are_confirmed_and_compared(confirmed: Path) -> None:
    study = study_in(confirmed)
    summary = study.confirmed.read_summary()
    assert sorted(trial["number"] for trial in summary["trials"]) == sorted(ranked(confirmed)[:2])
    first, second = summary["trials"]
    assert first["recall"] >= second["recall"]
    assert first["behind"] == {"value": 0, "interval": [0, 0]}
    assert second["behind"]["value"] == pytest.approx(first["recall"] - second["recall"])
    assert second["tied"] == (second["behind"]["interval"][0] <= 0 <= second["behind"]["interval"][1])
    measured = summary["optimism"]["measured"]
    best = study.read_trial(ranked(confirmed)[0])
    assert (measured["trial"], measured["search"]) == (best.number, best.recall)
    assert measured["value"] == measured["search"] - measured["confirmed"]
    assert summary["optimism"]["estimated"] == study.read_summary()["optimism"]
    assert summary["optimism"]["estimated"]["trials"] == 3
    assert not list(study.confirmed.running.glob("*"))


def test_the_same_command_has_nothing_to_do(
    confirmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    before = contents(studies)
    assert confirm(studies, *TWO) == 0
    output = capsys.readouterr().out
    assert f"Study {NAME}: 0 runs to go, 4 finished, of test_efficientnet at 32 pixels on cpu" in output
    assert re.search(r"^trial +search +confirmed +95 % interval +behind +95 % interval +argmax", output, re.MULTILINE)
    assert re.search(r"^ +\d +0\.\d{3} +0\.\d{3} +0\.\d{3} to 0\.\d{3} +best  ", output, re.MULTILINE)
    assert f"Trial {ranked(studies)[0]}, the best of the search, had 0." in output
    assert "Estimated without training again: having been chosen out of 3 makes the recall of trial" in output
    assert contents(studies) == before


def test_plan_and_estimate_come_first(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm(studies, "--folds", 2, "--top", 1, "--device", "cpu") == 0
    output = capsys.readouterr().out
    plan, estimate, line = (
        output.index(part) for part in ("2 runs to go, 0 finished", "It takes about", "fold 1 of 2: recall 0.")
    )
    assert plan < estimate < line
    assert "sealed for the test" in output


def test_no_pixel_of_the_test_rows_is_read(
    searched: Path, studies: Path, confirmed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import loaders

    sealed = {row for row, facts in enumerate(study_in(searched).read_split()) if facts["split"] == "test"}
    decode, read = loaders.decode_once, set()

    class Poisoned:
        def __init__(self, pixels: object) -> None:
            self.pixels = pixels

        def __getitem__(self, row: int) -> np.ndarray:
            assert row not in sealed, "the test is sealed"
            read.add(row)
            return self.pixels[row]  # type: ignore[index, no-any-return]

    monkeypatch.setattr(loaders, "decode_once", lambda *args: Poisoned(decode(*args)))
    assert confirm(studies, *TWO) == 0
    assert read.isdisjoint(sealed)
    assert len(read) == len(study_in(studies).confirmed.read_folds())
    assert_same(studies, confirmed)


def test_more_seeds_are_more_runs_and_those_there_stay(confirmed: Path, tmp_path: Path) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    before, number = arrays(studies), ranked(studies)[0]
    assert confirm(studies, "--folds", 2, "--top", 1, "--seeds", 2, "--device", "cpu") == 0
    after = arrays(studies)
    runs = [name for name in before if "fold-" in name]
    for name in runs:
        np.testing.assert_array_equal(before[name], after[name])
    folder = study_in(studies).confirmed
    first, second = (folder.read_run(number, 0, seed) for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert first.config["seed"] != second.config["seed"]
    trial = folder.read_trial(number)
    assert trial is not None
    assert trial.seeds == 2
    assert (trial.priors[0][0], trial.priors[1][0]) == (first.prior, second.prior)
    fold_N = np.array([int(row["fold"]) for row in folder.read_folds()])
    for probs_NC, run_of_seed in zip(trial.oof_probs(), (first, second), strict=True):
        np.testing.assert_array_equal(probs_NC[fold_N == 0], run_of_seed.probs())
    # The recall is that of one network: the mean of both seeds', and not that of their average.
    classes = study_in(studies).read_study()["data"]["classes"]
    labels = np.array([classes.index(row["label"]) for row in folder.read_folds()])
    recalls = [macro_recall(confusion_matrix(labels, each.argmax(1), len(classes))) for each in trial.corrected(fold_N)]
    assert trial.recall == pytest.approx(np.mean(recalls))
    # Fewer asked for than there are: all of them count.
    assert confirm(studies, *TWO) == 0
    assert_same_arrays(arrays(studies), after)


def test_further_seeds_that_are_stopped_leave_trials_confirmed(
    confirmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    folder = study_in(studies).confirmed
    before = folder.read_trials()
    monkeypatch.setattr("search.watching.stop_asked", StopAfter(4))
    assert confirm(studies, *TWO, "--seeds", 2) == 0
    assert list(folder.root.glob("trial-*/fold-0-seed-1/complete.json"))
    assert not list(folder.root.glob("trial-*/fold-1-seed-1/complete.json"))
    assert folder.read_trials() == before


def assert_same_arrays(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


def test_models_are_kept_if_asked_for_also_of_runs_that_have_none(confirmed: Path, tmp_path: Path) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    assert not list(study_in(studies).confirmed.root.rglob("*.safetensors"))
    assert confirm(studies, *TWO, "--keep-models") == 0
    assert len(list(study_in(studies).confirmed.root.rglob("fold-?-seed-0/model.safetensors"))) == 4
    assert_same(studies, confirmed)


def test_models_are_kept_of_all_seeds_that_a_trial_was_confirmed_with(confirmed: Path, tmp_path: Path) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    assert confirm(studies, "--folds", 2, "--top", 1, "--seeds", 2) == 0
    assert confirm(studies, "--folds", 2, "--top", 1, "--keep-models") == 0
    kept = study_in(studies).confirmed.root.rglob("model.safetensors")
    assert sorted(file.parent.name for file in kept) == [f"fold-{f}-seed-{s}" for f in (0, 1) for s in (0, 1)]


def test_a_trial_says_what_its_runs_say_also_of_one_that_somebody_removed_and_another_device_made_again(
    confirmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.refit import Refitter
    from core.traindata import TrainResult

    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    folder, number = study_in(studies).confirmed, ranked(studies)[0]
    shutil.rmtree(folder.run_folder(number, 1, 0))
    refit: Callable[..., TrainResult] = Refitter.refit

    def refit_elsewhere(self: Refitter, *args: object, **kwargs: object) -> TrainResult:
        result = refit(self, *args, **kwargs)
        return dataclasses.replace(result, val_probs=result.val_probs[:, ::-1])

    monkeypatch.setattr(Refitter, "refit", refit_elsewhere)
    assert confirm(studies, *TWO) == 0
    trial, made_again = folder.read_trial(number), folder.read_run(number, 1, 0)
    assert trial is not None
    assert made_again is not None
    held_out_N = np.array([row["fold"] == "1" for row in folder.read_folds()])
    np.testing.assert_array_equal(trial.oof_probs()[0, held_out_N], made_again.probs())


@pytest.mark.parametrize("looks", [1, 4, 9])
def test_a_stopped_command_continues_with_the_same_numbers(
    studies: Path, confirmed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], looks: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("search.confirming.CHECKPOINT_SHARE", float("inf"))  # or epochs this short would have none
        patch.setattr("search.watching.stop_asked", StopAfter(looks))
        assert confirm(studies, *TWO) == 0
    assert "It stopped because it was asked to. The same command continues it." in capsys.readouterr().out
    assert confirm(studies, *TWO) == 0
    assert_same(studies, confirmed)
    assert not list(study_in(studies).confirmed.running.glob("*"))


def test_a_killed_command_continues_with_the_same_numbers(studies: Path, confirmed: Path) -> None:
    command = [sys.executable, "-m", "search.confirm", str(studies), *map(str, TWO)]
    folder = study_in(studies).confirmed
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ.copy()) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(folder.root.glob("trial-*/fold-*/complete.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert confirm(studies, *TWO) == 0
    assert_same(studies, confirmed)


def test_a_trial_that_diverges_is_named_and_the_others_go_on(
    studies: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.refit import Refitter
    from core.trainer import NonFiniteLossError

    first, second, *_ = ranked(studies)
    refit: Callable[..., object] = Refitter.refit

    def diverge(self: Refitter, config: object, *args: object, **kwargs: object) -> object:
        if config.trial == first:  # type: ignore[attr-defined]
            raise NonFiniteLossError(1, 2)
        return refit(self, config, *args, **kwargs)

    monkeypatch.setattr(Refitter, "refit", diverge)
    assert confirm(studies, *TWO) == 1
    sentence = f"Trial {first} of {NAME} can't be confirmed: the loss was not finite in epoch 1, step 2, with fold 1"
    assert sentence in capsys.readouterr().out
    summary = study_in(studies).confirmed.read_summary()
    assert [trial["number"] for trial in summary["trials"]] == [second]
    assert [failed["number"] for failed in summary["failed"]] == [first]
    assert summary["optimism"]["measured"] is None


def test_a_run_of_a_trial_that_had_the_number_before_is_made_again(confirmed: Path, tmp_path: Path) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    number = ranked(studies)[0]
    for file in (study_in(studies).confirmed.trial_folder(number)).rglob("complete.json"):
        fields = json.loads(file.read_text())
        file.write_text(json.dumps(fields | {"config": fields["config"] | {"lr": 0.5}}))
    assert confirm(studies, *TWO) == 0
    assert_same(studies, confirmed)
    assert len(study_in(studies).confirmed.read_summary()["trials"]) == 2


def change_arch(studies: Path, **fields: object) -> None:
    """Changes what a study's `study.json` says of its backbone."""
    file = study_in(studies).root / "study.json"
    study = json.loads(file.read_text())
    file.write_text(json.dumps({**study, "arch": {**study["arch"], **fields}}))


def test_trials_are_trained_again_with_the_normalisation_of_their_study(studies: Path) -> None:
    change_arch(studies, mean=[0.5, 0.25, 0.5], std=[0.5, 0.5, 0.25], weight_tag="of_an_older_timm")
    arch = reopen(study_in(studies), StudiesFolder(studies), (), load_manifest).arch
    assert (arch.mean, arch.std) == ((0.5, 0.25, 0.5), (0.5, 0.5, 0.25))
    assert (arch.full_name, arch.image_size) == ("test_efficientnet.of_an_older_timm", 32)


def spoil_std(studies: Path) -> None:
    change_arch(studies, std=[0.5, 0, 0.5])


def drop_trials(studies: Path) -> None:
    for folder in study_in(studies).root.glob("trial-*"):
        shutil.rmtree(folder)


def move_data(studies: Path) -> None:
    """As if the folder of images had been renamed."""
    file = study_in(studies).root / "study.json"
    study = json.loads(file.read_text())
    study["data"]["places"] = [f"{study['data']['places'][0]}-moved"]
    file.write_text(json.dumps(study))


def drop_history(studies: Path) -> None:
    file = study_in(studies).trial_folder(ranked(studies)[0]) / "history.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")


def nothing(studies: Path) -> None:
    """Leaves them as they are."""


@pytest.mark.parametrize(
    ("change", "words", "sentence"),
    [
        (nothing, ("--study", "other"), f"`--study` must be one of {NAME}, but got --study other"),
        (nothing, ("--folds", 1), "`--folds` must be at least 2, one to hold out and one to learn from, but got"),
        (nothing, ("--folds", 60), r"`--folds` must be at most \d+, the lesions of the rarest class, \w+, in training"),
        (nothing, ("--folds", 0), "`--folds` must be a whole number from 1 to 1,000,000, but got --folds=0"),
        (nothing, ("--source", "bogus"), "`--source` must be one of auto, resident, ffcv, torch, but got"),
        (nothing, ("--data", "no/such"), f"The data of {NAME} must exist, but no/such does not"),
        (
            nothing,
            ("--data", "a", "--data", "b"),
            f"must be given 1 times, as for the search of {NAME}, but",
        ),
        (drop_trials, (), f"A study must have a complete, undamaged trial to be confirmed, but {NAME} has none"),
        (spoil_std, (), r"study.json must describe a study, but it is damaged: arch.std is \[0.5, 0, 0.5\] and not"),
        (move_data, (), f"The data of {NAME} must exist, but .*-moved does not. Say with --data where it is now"),
        (
            drop_history,
            (),
            "must hold a config of its study and the recall of every epoch up to its best, but does",
        ),
    ],
)
def test_what_cannot_be_confirmed_is_refused_in_one_sentence_and_nothing_is_written(
    studies: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: tuple[object, ...],
    sentence: str,
) -> None:
    change(studies)
    before = contents(studies)
    capsys.readouterr()
    assert confirm(studies, "--device", "cpu", *words) == 2
    assert re.search(sentence, error_of(capsys))
    assert contents(studies) == before
    assert not study_in(studies).confirmed.root.exists()


def test_other_images_are_refused_and_the_same_ones_elsewhere_are_not(
    studies: Path, confirmed: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    assert confirm(studies, *TWO, "--data", moved) == 0
    assert_same(studies, confirmed)
    next((moved / "HAM10000_images_part_1").iterdir()).write_bytes(
        next((moved / "HAM10000_images_part_2").iterdir()).read_bytes()
    )
    capsys.readouterr()
    assert confirm(studies, *TWO, "--data", moved) == 2
    assert "must be those that demo-test_efficientnet was searched on, but they have changed" in error_of(capsys)


@pytest.mark.parametrize(
    ("fold", "sentence"),
    [
        ("2", f"`--folds` must be 3, as for what is confirmed of {NAME} already, but got --folds 2. Give 3, or move "),
        ("other", f"folds.csv must list the folds of {NAME}, but lists others. Restore it, or move "),
    ],
)
def test_other_folds_than_those_there_are_refused(
    confirmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fold: str, sentence: str
) -> None:
    studies = Path(shutil.copytree(confirmed, tmp_path / "studies"))
    folder = study_in(studies).confirmed
    first, *rows = folder.read_folds()
    folder.write_folds([first | {"fold": fold if fold == "2" else str(1 - int(first["fold"]))}, *rows])
    before = contents(studies)
    capsys.readouterr()
    assert confirm(studies, *TWO) == 2
    assert sentence in error_of(capsys)
    assert contents(studies) == before


def test_a_second_command_is_refused_while_the_first_is_at_work(
    studies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_in(studies).confirmed.alone():
        capsys.readouterr()
        assert confirm(studies, *TWO) == 2
    assert f"The trials of {NAME} must be confirmed by one command at a time" in error_of(capsys)


def test_a_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm("memory://studies") == 2
    assert "`studies` must be a folder, whose lock keeps two commands from doing the same, but got" in error_of(capsys)


def test_a_folder_without_searches_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirm(tmp_path) == 2
    assert "`studies` must be a folder that search.run wrote to, but" in error_of(capsys)
    assert list(tmp_path.iterdir()) == []
