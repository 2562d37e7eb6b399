"""What `ensemble.build --fit-to confirmed` takes from trials that were trained again over folds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.archs import Arch
from core.confirmed import ConfirmedRun, ConfirmedTrial
from core.metrics import correct_prior
from ensemble.build import main
from ensemble.confirmed import read_confirmed
from ensemble.inference import ImageSet, load_ensemble
from ensemble.members import choose_members
from ensemble.studies import read_studies
from tests.ensemble.conftest import Studies, Trial, random_weights

pytestmark = pytest.mark.usefixtures("blank_pictures")

FOLDS = 2
_HEADS = ("classifier.bias", "fc.bias")
PRIORS = ((0.2, 0.5, 0.3), (0.4, 0.3, 0.3))


def _lean(bias_C: Any, fold: int) -> Any:
    return bias_C + fold * bias_C.new_tensor([1.0, 0.0, 0.0])


def confirm(studies: Studies, name: str, number: int, recall: float, *, sure: float, keep_models: bool = True) -> None:
    """Leaves what search.confirm leaves of a trial that gives the true class so much on rows held out."""
    study, manifest = studies.folder.study(name), studies.manifest
    rows = np.sort(np.concatenate([studies.split.train, studies.split.val]))
    fold_N = np.arange(len(rows)) % FOLDS
    folder, trial = study.confirmed, next(t for t in study.read_trials() if t.number == number)
    folder.write_folds(
        [
            {
                "image": manifest.paths[row],
                "label": manifest.classes[manifest.labels[row]],
                "group": manifest.groups[row],
                "fold": str(fold),
            }
            for row, fold in zip(rows, fold_N, strict=True)
        ]
    )
    probs_NC = np.full((len(rows), 3), (1 - sure) / 2, np.float32)
    probs_NC[np.arange(len(rows)), manifest.labels[rows]] = sure
    fields = study.read_study()["arch"]
    arch = Arch(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    weights = random_weights(arch, 3)
    for fold in range(FOLDS):
        run = ConfirmedRun(
            folder=folder.run_folder(number, fold, 0),
            config=trial.config,
            epochs=2,
            prior=PRIORS[fold],
            elapsed_s=1.0,
        )
        changed = {key: _lean(value, fold) if key.endswith(_HEADS) else value for key, value in weights.items()}
        folder.write_run(run, probs_NC[fold_N == fold], changed if keep_models else None)
    folder.write_trial(
        ConfirmedTrial(
            number=number,
            folder=folder.trial_folder(number),
            config=trial.config,
            folds=FOLDS,
            seeds=1,
            epochs=2,
            recall=recall,
            recall_interval=(recall - 0.02, recall + 0.02),
            recall_argmax=recall,
            priors=(PRIORS,),
            elapsed_s=2.0,
        ),
        probs_NC[None],
    )


@pytest.fixture
def studies(make_studies: Any, tmp_path: Path) -> Studies:
    """A study whose second best trial is the best out of fold, and whose third was not confirmed."""
    made: Studies = make_studies(tmp_path / "studies")
    made.add("a", [Trial(0.9), Trial(0.8), Trial(0.7)])
    confirm(made, "a", 0, 0.6, sure=0.5)
    confirm(made, "a", 1, 0.7, sure=0.9)
    return made


def build(studies: Studies, *words: str) -> int:
    return main([str(studies.root), "--device", "cpu", *words])


def test_trials_are_ranked_and_reported_by_what_they_gave_out_of_fold(
    studies: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(studies, "--fit-to", "confirmed", "--no-test", "--top-k", "1") == 0
    output = capsys.readouterr().out
    assert "member    a #1, test_efficientnet, weight 1: recall out of fold 70.0% (68.0% to 72.0%)" in output
    assert "macro recall on training and validation, out of fold: 100.0%" in output
    told = json.loads((studies.root / "ensemble" / "ensemble.json").read_text())
    rows = len(studies.split.train) + len(studies.split.val)
    assert (told["fitted"]["fit_to"], told["fitted"]["images"]) == ("confirmed", rows)
    assert told["members"][0]["files"] == ["members/a-0001.safetensors"]
    report = (studies.root / "ensemble" / "report.md").read_text()
    assert "Out of fold only: the test split was left sealed." in report
    assert "Fitted to what confirmed trials said out of fold" in report


def test_trials_beside_confirmed_ones_that_are_not_confirmed_are_named(
    studies: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "not confirmed, 1 of 3 complete trials, the best by validation first: a #2"
    selection = choose_members(read_studies(studies.folder), top_k=None, fit_to="confirmed")
    assert selection.left_out == [("test_efficientnet", told)]
    assert build(studies, "--fit-to", "confirmed", "--no-test") == 0
    assert f"left out  test_efficientnet: {told}" in capsys.readouterr().out


def test_each_row_is_brought_from_the_prior_of_its_fold_to_that_of_the_member(studies: Studies) -> None:
    selection = choose_members(read_studies(studies.folder), top_k=2, fit_to="confirmed")
    assert [member.trial.number for member in selection.members] == [1, 0]
    part, probs_MNC = read_confirmed(selection.members)
    assert len(part.images) == len(studies.split.train) + len(studies.split.val)
    member = selection.members[0]
    assert member.confirmed is not None
    for row in (0, 1):
        corrected = correct_prior(probs_MNC[0, row : row + 1], np.asarray(member.prior))
        expected = correct_prior(member.confirmed.oof_probs()[0, row : row + 1], np.asarray(PRIORS[row]))
        np.testing.assert_allclose(corrected, expected, rtol=1e-5)


def test_the_networks_of_the_folds_vote_in_place_of_their_trial(studies: Studies) -> None:
    assert build(studies, "--fit-to", "confirmed", "--members", "folds", "--views", "4", "--top-k", "1") == 0
    folder = studies.root / "ensemble"
    (member,) = json.loads((folder / "ensemble.json").read_text())["members"]
    assert member["files"] == ["members/a-0001-0.safetensors", "members/a-0001-1.safetensors"]
    assert member["prior"] == pytest.approx([0.3, 0.4, 0.3])
    (classifier,) = load_ensemble(folder, device="cpu").estimators_
    files = [studies.manifest.file(row) for row in studies.split.test[:3]]
    with ImageSet.of_files(files) as images:
        both_VNC = classifier.predict_views(images)
        alone = []
        for file in classifier.weights_files:
            single = classifier.__class__([file], classifier.arch, classifier.classes, device="cpu", views=4).fit()
            alone.append(single.predict_views(images))
    assert both_VNC.shape == (4, 3, 3)
    # By the member's prior, as any other: the mean of what each network says by its own.
    for both_NC, first_NC, second_NC in zip(both_VNC, *alone, strict=True):
        expected = (correct_prior(first_NC, np.array(PRIORS[0])) + correct_prior(second_NC, np.array(PRIORS[1]))) / 2
        np.testing.assert_allclose(correct_prior(both_NC, np.array(member["prior"])), expected, atol=1e-6)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)
    assert build(studies, "--fit-to", "confirmed", "--no-test") == 0  # its own files don't stand in the way


def test_too_few_confirmed_trials_are_told_how_to_become_more(
    studies: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--no-test", "--fit-to", "confirmed", "--top-k", "3"]
    assert build(studies, *words) == 2
    assert "Lower it, or run python -m search.confirm with --top 3." in capsys.readouterr().err
    assert build(studies, *words, "--members", "folds") == 2
    assert "with --top 3 and --keep-models." in capsys.readouterr().err


def test_who_could_fit_to_more_lesions_is_told_so(studies: Studies, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(studies, "--no-test") == 0
    assert "hint      trials have been confirmed: --fit-to confirmed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--members", "folds"], "`--members folds` must be given with --fit-to confirmed"),
        (
            ["--fit-to", "confirmed", "--members", "folds", "--min-sensitivity", "mel=0.9"],
            "`--min-sensitivity` must not be given with --fit-to confirmed and --members folds",
        ),
        (["--fit-to", "confirmed", "--views", "auto"], "`--views` must be a number with --fit-to confirmed"),
        (["--fit-to", "confirmed", "--top-k", "3"], "`--top-k` must be at most 2, the confirmed trials of"),
        (["--fit-to", "confirmed", "--no-test", "--data", "x"], "`--data` must not be given with --no-test"),
    ],
)
def test_wrong_words_are_refused(
    studies: Studies, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(studies, *words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_studies_that_were_not_confirmed_are_refused(
    make_studies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_studies(tmp_path / "studies")
    made.add("a")
    assert build(made, "--fit-to", "confirmed", "--no-test") == 2
    assert "no trial of it is confirmed yet" in capsys.readouterr().err
    confirm(made, "a", 0, 0.9, sure=0.8, keep_models=False)
    assert build(made, "--fit-to", "confirmed", "--members", "folds", "--no-test") == 2
    assert "were not kept. Run search.confirm with --keep-models" in capsys.readouterr().err


def test_other_folds_and_damaged_probabilities_are_refused(
    studies: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.add("b", arch="test_resnet")
    confirm(studies, "b", 0, 0.9, sure=0.8)
    folder = studies.folder.study("b").confirmed
    rows = folder.read_folds()
    folder.write_folds([{**row, "fold": "0"} for row in rows])
    assert build(studies, "--fit-to", "confirmed", "--no-test") == 2
    assert "must have been confirmed over the same folds" in capsys.readouterr().err
    folder.write_folds(rows)
    np.save(folder.trial_folder(0) / "oof_probs.npy", np.ones((1, 3, 3), np.float32) / 3)
    assert build(studies, "--fit-to", "confirmed", "--no-test") == 2
    assert "it is of other rows than those in folds.csv" in capsys.readouterr().err
