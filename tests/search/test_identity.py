"""What a study is: who may make it another, and when."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import optuna
import pytest
import torch

from core.artifacts import StudyFolder, TrialRecord
from core.errors import InputError
from core.mirror import MirroredStudies
from core.weights import Weights
from search.crew import Crew
from search.identity import describe_study, refuse_differences, split_rows, start_or_continue
from search.run import build_parser, read_settings
from search.settled import find_weights
from search.setup import Setup, prepare
from search.storage import open_storage
from search.worker import Goal, Work, begin

SMALL = ("--arch", "test_efficientnet", "--device", "cpu", "--source", "torch", "--trials", "1", "--epochs", "2")


def prepared(images: Path, studies: Path, *words: object) -> Setup:
    """A study that is ready to begin."""
    given = (*SMALL, "--weights", "none", "--data", images, "--studies", studies, *words)
    [settings] = read_settings(build_parser().parse_args([str(word) for word in given]))
    return prepare(settings)


def test_nobody_makes_a_study_another_while_a_worker_is_there(images: Path, tmp_path: Path) -> None:
    first, second = (prepared(images, tmp_path, "--epochs", epochs) for epochs in (2, 3))
    storage = open_storage(first.settings.studies)
    study = begin(first, storage)
    with Crew(first.leases(), device="cpu"):
        begin(first, storage)
        with pytest.raises(InputError, match=r"these differ: epochs \(was 2, now 3\)"):
            begin(second, storage)
    # The first one decodes: it is no worker yet.
    begin(second, storage)
    with Crew(first.leases(), device="cpu") as crew:
        work = Work(setup=first, study=study, crew=crew, goal=Goal(n_trials=1, keep=1), watcher=Mock(), pictures=Mock())
        with pytest.raises(InputError, match=r"these differ: epochs \(was 3, now 2\)"):
            work.run(Mock())
    assert not study.trials


def test_a_seed_is_part_of_a_study_though_it_changes_no_part(images: Path, tmp_path: Path) -> None:
    setup = prepared(images, tmp_path)
    study, rows = describe_study(setup), split_rows(setup.manifest, setup.split)
    now = {**study, "split": {**study["split"], "seed": 7}}
    with pytest.raises(InputError, match=r"these differ: seed \(was 0, now 7\)\."):
        refuse_differences(study, now, name="official", rows=(rows, rows))


def retagged(setup: Setup, tag: str) -> Setup:
    """The same with weights of another tag, which were trained on pixels of another scale."""
    arch = dataclasses.replace(setup.arch, weight_tag=tag, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    return dataclasses.replace(setup, arch=arch)


def test_the_tag_and_the_normalisation_are_part_of_a_study(images: Path, tmp_path: Path) -> None:
    setup = prepared(images, tmp_path)
    settings = dataclasses.replace(setup.settings, weights="auto")
    setup = dataclasses.replace(setup, settings=settings, weights=Weights(state={"a": torch.zeros(3)}, origin="x"))
    storage = open_storage(setup.settings.studies)
    begin(setup, storage).ask()
    begin(setup, storage)  # what JSON gives back is the same
    sentence = (
        r"these differ: architecture \(was test_efficientnet\.r160_in1k, now test_efficientnet\.other\); normalisation "
        r"\(was mean 0\.485/0\.456/0\.406 and std 0\.229/0\.224/0\.225, now mean 0\.5/0\.5/0\.5 and std 0\.5/0\.25/"
        r"0\.5\)\. Give what it was started with, --arch test_efficientnet\.r160_in1k --study demo-test_efficientnet"
    )
    with pytest.raises(InputError, match=sentence):
        begin(retagged(setup, "other"), storage)
    small = dataclasses.replace(retagged(setup, "other"), serves="full")
    study, rows = describe_study(small), split_rows(setup.manifest, setup.split)
    with pytest.raises(InputError, match=r"--arch test_efficientnet\.other --study full, or start another"):
        refuse_differences(study, describe_study(setup), name="full-32px", rows=(rows, rows))


def test_random_weights_are_of_no_tag_but_see_the_pixels_that_they_saw(images: Path, tmp_path: Path) -> None:
    setup = prepared(images, tmp_path)
    storage = open_storage(setup.settings.studies)
    begin(setup, storage).ask()
    arch = dataclasses.replace(setup.arch, weight_tag="a newer default")
    begin(dataclasses.replace(setup, arch=arch), storage)
    sentence = r"these differ: normalisation \(was .*with, --arch test_efficientnet\.r160_in1k --study"
    with pytest.raises(InputError, match=sentence):
        begin(retagged(setup, "other"), storage)


def test_weights_of_another_tag_stay_only_if_there_is_a_trial_of_them(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"a": torch.zeros(3)}
    monkeypatch.setattr("core.weights._find", lambda arch: Weights(state=state, origin=f"the hub's {arch.weight_tag}"))
    setup = prepared(images, tmp_path)
    weights = Weights(state=state, origin="another tag's")
    settings = dataclasses.replace(setup.settings, weights="auto")
    study = begin(
        dataclasses.replace(retagged(setup, "other"), settings=settings, weights=weights),
        open_storage(setup.settings.studies),
    )
    assert find_weights(settings, setup.arch, [setup.folder]).origin == "the hub's r160_in1k"
    study.ask()
    assert find_weights(settings, setup.arch, [setup.folder]).origin == "another tag's"


def test_random_weights_stay_only_if_there_is_a_trial_of_them(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = prepared(images, tmp_path).open_trainer().model.state_dict()
    state = {name.removeprefix("backbone."): tensor for name, tensor in pretrained.items()}
    monkeypatch.setattr("core.weights._find", lambda arch: Weights(state=state, origin="the hub"))
    setup = prepared(images, tmp_path)
    study = begin(setup, open_storage(setup.settings.studies))
    assert prepared(images, tmp_path, "--weights", "auto").weights.origin == "the hub"
    study.ask()
    assert not prepared(images, tmp_path, "--weights", "auto").weights.state


def test_first_weights_are_sent_again_to_a_place_that_was_emptied(images: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    setup = prepared(images, tmp_path / "studies")
    settings = dataclasses.replace(setup.settings, studies=MirroredStudies(f"file://{bucket}"))
    weights = Weights(state={"a": torch.zeros(3)}, origin="x")
    folder = settings.studies.study(setup.folder.name)
    setup = dataclasses.replace(setup, settings=settings, weights=weights, folder=folder)
    for _ in range(2):
        begin(setup, optuna.storages.InMemoryStorage())
        assert (bucket / "weights" / f"{weights.hash}.safetensors").is_file()
        shutil.rmtree(bucket)


def test_trials_at_a_url_are_fetched_before_anybody_has_to_wait_for_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepared(images, tmp_path / "studies")
    settings = dataclasses.replace(setup.settings, studies=MirroredStudies(f"file://{tmp_path}/bucket"))
    setup = dataclasses.replace(setup, settings=settings, folder=settings.studies.study(setup.folder.name))
    storage = optuna.storages.InMemoryStorage()
    study, config = begin(setup, storage), {**setup.fixed, **setup.space.known_good}
    add_trial(setup.folder, number=study.ask().number, config=config)

    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "another machine"))
    there = MirroredStudies(settings.studies.place)
    setup = dataclasses.replace(
        setup, settings=dataclasses.replace(settings, studies=there), folder=there.study(setup.folder.name)
    )
    copied: list[bool] = []

    def look(setup: Setup, study: optuna.Study, records: list[TrialRecord]) -> None:
        copied.append((setup.folder.trial_folder(0) / "complete.json").is_file())
        monkeypatch.setattr("core.remote.Remote.names", Mock(side_effect=AssertionError("listed under the lock")))
        start_or_continue(setup, study, records)

    monkeypatch.setattr("search.worker.start_or_continue", look)
    begin(setup, storage)
    assert copied == [True]


def add_trial(folder: StudyFolder, *, number: int, config: dict[str, Any]) -> None:
    """A finished trial with nothing worth reading in it."""
    record = TrialRecord(
        number=number,
        state="complete",
        folder=Path(),
        config=config,
        recall=0.5,
        recall_interval=(0.4, 0.6),
        recall_argmax=0.5,
        best_epoch=0,
        prior=(0.5, 0.5),
        elapsed_s=1.0,
    )
    folder.write_trial(record, history=[{"epoch": 0}], val_probs_NC=np.full((1, 2), 0.5, np.float32), model=None)
