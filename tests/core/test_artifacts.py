import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.artifacts import STUDY_FORMAT, StudiesFolder, StudyFolder, TrialRecord
from core.errors import InputError
from core.files import written_aside

HISTORY = [{"epoch": 0, "val_recall": 0.5}, {"epoch": 1, "val_recall": 0.625}]
PROBS = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def record(number: int = 12, **changes: object) -> TrialRecord:
    made = TrialRecord(
        number=number,
        state="complete",
        folder=Path(),
        config={"lr": 0.001},
        recall=0.625,
        recall_interval=(0.5, 0.75),
        recall_argmax=0.5,
        best_epoch=1,
        prior=(0.9, 0.1),
        elapsed_s=3.5,
    )
    return dataclasses.replace(made, **changes)


def write(folder: StudyFolder, trial: TrialRecord) -> TrialRecord:
    model = {"weight": torch.arange(4.0)}
    return folder.write_trial(trial, history=HISTORY, val_probs_NC=PROBS, model=model)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudiesFolder(tmp_path).study("mobilenet")


def test_a_trial_survives_writing_and_reading(study: StudyFolder) -> None:
    written = write(study, record())
    assert study.read_trials() == [written]
    assert written.history() == HISTORY
    np.testing.assert_array_equal(written.val_probs(), PROBS)
    assert written.has_model


def test_only_a_folder_with_complete_json_counts(study: StudyFolder) -> None:
    write(study, record(1))
    write(study, record(2))
    (study.trial_folder(2) / "complete.json").unlink()
    assert [trial.number for trial in study.read_trials()] == [1]


def test_a_trial_that_cannot_be_written_leaves_nothing(study: StudyFolder) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        write(study, record(recall=float("nan")))
    assert list(study.root.iterdir()) == []


def test_a_trial_replaces_a_half_of_it_and_never_a_whole_one(study: StudyFolder) -> None:
    write(study, record(recall=0.1))
    with pytest.raises(FileExistsError, match="A finished trial is never replaced"):
        write(study, record(recall=0.2))
    assert [trial.recall for trial in study.read_trials()] == [0.1]
    (study.trial_folder(12) / "complete.json").unlink()
    write(study, record(recall=0.2))
    assert [trial.recall for trial in study.read_trials()] == [0.2]


def test_checkpoints_of_numbers_that_begin_alike_are_told_apart(study: StudyFolder) -> None:
    study.running.mkdir(parents=True)
    of_others = [study.checkpoint_file(10000, 1), study.running / "trial-10000.safetensors"]
    for file in (*of_others, study.checkpoint_file(1000, 1), study.checkpoint_file(1000, 2)):
        file.write_text("x")
    assert study.checkpoint_sizes() == {1000: 2, 10000: 2}
    assert study.inherit_checkpoint(1000, 3) == study.checkpoint_file(1000, 3)
    study.drop_checkpoints(1000)
    assert sorted(study.running.iterdir()) == sorted(of_others)


def test_the_best_keep_their_weights_and_pruned_ones_do_not(study: StudyFolder) -> None:
    for number, (recall, state) in enumerate(
        [(0.5, "complete"), (0.9, "pruned"), (0.7, "complete"), (0.6, "complete")]
    ):
        write(study, record(number, recall=recall, state=state))
    study.drop_models(keep=2)
    assert [trial.number for trial in study.read_trials() if trial.has_model] == [2, 3]


def test_fewer_complete_trials_than_kept_leave_pruned_ones_without_weights(study: StudyFolder) -> None:
    write(study, record(0, state="pruned"))
    study.drop_models(keep=5)
    assert not study.read_trials()[0].has_model


def test_a_damaged_trial_is_named(study: StudyFolder) -> None:
    write(study, record())
    (study.trial_folder(12) / "complete.json").write_text('{"format": 1, "number": 12}')
    with pytest.raises(InputError, match=r"trial-0012 must be a whole trial"):
        study.read_trials()


def test_probabilities_with_pickled_objects_are_not_read(study: StudyFolder) -> None:
    written = write(study, record())
    np.save(written.folder / "val_probs.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickled objects, which could run any program"):
        written.val_probs()


def test_a_study_of_a_newer_format_is_refused(study: StudyFolder) -> None:
    study.write_study({"name": "mobilenet"}, [{"image": "a.jpg", "label": "nv", "group": "1", "split": "train"}])
    assert study.read_study() == {"format": STUDY_FORMAT, "name": "mobilenet"}
    (study.root / "study.json").write_text(json.dumps({"format": STUDY_FORMAT + 1}))
    with pytest.raises(InputError, match=f"but mobilenet has format={STUDY_FORMAT + 1}. Update this project"):
        study.read_study()


def test_a_study_that_is_not_json_is_refused(study: StudyFolder) -> None:
    study.root.mkdir()
    (study.root / "study.json").write_text("{")
    with pytest.raises(InputError, match="must be JSON, but it is damaged"):
        study.read_study()


@pytest.mark.parametrize(
    "name", ["../mobilenet", "a/b", ".hidden", "", "ensemble", "weights", "journal.log", "x" * 101]
)
def test_a_study_cannot_leave_the_folder_or_take_a_reserved_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="A study's name must be"):
        StudiesFolder(tmp_path).study(name)


def test_openings_of_a_test_split_are_counted_by_its_fingerprint(tmp_path: Path) -> None:
    studies = StudiesFolder(tmp_path)
    assert [studies.log_test_opening(test, [test], "build") for test in ("a", "b", "a")] == [1, 1, 2]


def test_an_opening_of_some_of_the_images_counts_whatever_their_labels_were(tmp_path: Path) -> None:
    studies = StudiesFolder(tmp_path)
    assert studies.log_test_opening("before", ["1" * 64, "2" * 64], "build") == 1
    assert studies.log_test_opening("a label corrected", ["1" * 64, "2" * 64], "build") == 2
    assert studies.log_test_opening("more images", ["2" * 64, "3" * 64], "build") == 3
    assert studies.log_test_opening("other images", ["4" * 64], "build") == 1


def test_openings_that_an_older_version_noted_count_by_their_fingerprint_and_damaged_ones_not(tmp_path: Path) -> None:
    older = {"test": "a", "command": "build", "utc": "2026-01-01T00:00:00Z"}
    damaged = ({"test": "b", "images": [["1"], None, 1]}, {"images": {"1": 1}}, [], None)
    lines = [json.dumps(each) for each in (older, *damaged)]
    (tmp_path / "test_openings.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert StudiesFolder(tmp_path).log_test_opening("a", ["1"], "build") == 2


def test_a_torn_line_in_the_log_of_openings_costs_no_later_one(tmp_path: Path) -> None:
    studies = StudiesFolder(tmp_path)
    studies.log_test_opening("a", ["1"], "build")
    with (tmp_path / "test_openings.jsonl").open("a") as file:
        file.write('{"test": "a')
    assert studies.log_test_opening("a", ["1"], "build") == 2
    assert studies.log_test_opening("a", ["1"], "build") == 3


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
