"""`--search-size`: many trials on small images, the best of them again on the full ones."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from core.artifacts import StudiesFolder
from core.errors import InputError
from ensemble.studies import read_studies
from search.asking import without_known
from search.several import run_studies
from search.storage import open_storage
from search.summary import rank
from search.two_sizes import run_two_sizes
from search.worker import Goal, begin
from tests.search.test_identity import prepared
from tests.search.test_run import contents, error_of, search

SMALL = ["--arch", "test_efficientnet", "--weights", "none", "--device", "cpu", "--epochs", 2]
SIZES = ["--image-size", 48, "--search-size", 32]


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = tmp_path_factory.mktemp("two") / "studies"
    assert search(*SMALL, *SIZES, "--data", images, "--studies", studies, "--trials", 4, "--retrain", 2) == 0
    return studies


def params_of(studies: Path, name: str) -> list[dict[str, object]]:
    study = optuna.load_study(storage=open_storage(StudiesFolder(studies)), study_name=name)
    return [trial.params for trial in study.trials]


def test_the_best_on_small_images_are_trained_again_on_the_full_ones(searched: Path) -> None:
    small, full = (StudiesFolder(searched).study(f"demo-test_efficientnet{end}") for end in ("-32px", ""))
    searched_records, trained = small.read_trials(), full.read_trials()
    assert (len(searched_records), len(trained)) == (4, 2)
    assert [record.config["image_size"] for record in (*searched_records, *trained)] == [32] * 4 + [48] * 2
    best = [params_of(searched, small.name)[record.number] for record in rank(searched_records)[:2]]
    assert params_of(searched, full.name) == best
    assert [record.has_model for record in searched_records] == [False] * 4
    assert all(record.has_model for record in trained)


def test_the_same_command_asks_for_no_more(searched: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(*SMALL, *SIZES, "--data", images, "--studies", searched, "--trials", 4, "--retrain", 2) == 0
    output = capsys.readouterr().out
    assert "demo-test_efficientnet-32px holds 4 finished trials, so --trials 4 asks for no more." in output
    assert "so training the best 2 of demo-test_efficientnet-32px again asks for no more." in output
    assert output.count("Next:") == 1


def test_only_trials_of_the_full_size_vote(searched: Path) -> None:
    studies = read_studies(StudiesFolder(searched))
    assert [study.folder.name for study in studies] == ["demo-test_efficientnet"]
    assert [trial.config["image_size"] for study in studies for trial in study.folder.read_trials()] == [48, 48]


def test_a_search_that_has_not_come_to_the_full_size_has_nobody_to_vote(
    images: Path, tmp_path: Path, searched: Path
) -> None:
    alone = tmp_path / "studies" / "demo-test_efficientnet-32px"
    alone.mkdir(parents=True)
    study = (searched / "demo-test_efficientnet-32px" / "study.json").read_text()
    (alone / "study.json").write_text(study)
    assert json.loads(study)["serves"] == "demo-test_efficientnet"
    with pytest.raises(InputError, match="holds only demo-test_efficientnet-32px, whose best are still to be trained"):
        read_studies(StudiesFolder(tmp_path / "studies"))


def test_what_was_tried_or_has_begun_is_not_proposed_again() -> None:
    study = optuna.create_study()
    distributions = {"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for lr, state in ((0.1, TrialState.COMPLETE), (0.2, TrialState.FAIL), (0.3, TrialState.PRUNED), (0.4, None)):
        study.enqueue_trial({"lr": lr})
        trial = study.ask(distributions)
        if state is not None:
            study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state=state)
    study.enqueue_trial({"lr": 0.6})  # waits
    study.enqueue_trial({"lr": 0.7})
    study.enqueue_trial({"lr": 0.6})
    proposals = tuple({"lr": lr} for lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    assert without_known(proposals, study.trials) == [{"lr": 0.2}, {"lr": 0.5}]
    study.ask()  # has got its proposal, and no parameter yet
    assert without_known(proposals, study.trials) == [{"lr": 0.2}, {"lr": 0.5}]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            (*SIZES[:2], "--search-size", 48),
            "`--search-size` must be at least 32 pixels and below the image size of 48, but got --search-size 48",
        ),
        (
            (*SIZES[:2], "--search-size", 16),
            "`--search-size` must be at least 32 pixels and below the image size of 48, but got --search-size 16",
        ),
        (("--retrain", 3), "`--retrain` must come with --search-size, but got --retrain 3 alone"),
        ((*SIZES, "--retrain", 0), "--retrain"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    words: tuple[object, ...], sentence: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies"
    assert search(*SMALL, *words, "--data", images, "--studies", studies, "--trials", 1) == 2
    assert sentence in capsys.readouterr().err
    assert not studies.exists()


def test_a_study_of_its_own_does_not_come_to_serve_another_nor_the_other_way(
    searched: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies, name = tmp_path / "studies", "demo-test_efficientnet-32px"
    command = [*SMALL, "--data", images, "--trials", 9]
    alone = prepared(images, studies, "--study", name, "--image-size", 32)
    begin(alone, open_storage(alone.settings.studies)).ask()
    before = contents(studies)
    assert search(*command, "--studies", studies, *SIZES) == 2
    assert "purpose (was to stand for itself, now to find trials for demo-test_efficientnet)" in error_of(capsys)
    assert contents(studies) == before
    before = contents(searched)
    assert search(*command, "--studies", searched, "--study", name, "--image-size", 32) == 2
    assert "purpose (was to find trials for demo-test_efficientnet, now to stand for itself)" in error_of(capsys)
    assert contents(searched) == before


def test_what_the_full_size_refuses_is_refused_before_the_small_search(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(images, tmp_path, "--image-size", 48)
    begin(before, open_storage(before.settings.studies)).ask()
    setup = prepared(images, tmp_path, *SIZES, "--epochs", 3)
    monkeypatch.setattr("search.several.run_two_sizes", lambda *args, **kwargs: pytest.fail("it searches"))
    with pytest.raises(InputError, match=r"these differ: epochs \(was 2, now 3\)"):
        run_studies([setup], Goal(n_trials=1, keep=1), retrain=1, deadline=None)


def test_a_small_search_without_a_complete_trial_has_failed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = prepared(images, tmp_path, *SIZES)
    storage = open_storage(setup.settings.studies)
    study = begin(setup.at_search_size(), storage)
    study.tell(study.ask(), state=TrialState.PRUNED)
    monkeypatch.setattr("search.two_sizes.Session.run", lambda session: 0)
    assert run_two_sizes(setup, storage, Goal(n_trials=1, keep=1), retrain=1, deadline=None) == 1
    assert "No trial of demo-test_efficientnet-32px is complete" in capsys.readouterr().out
