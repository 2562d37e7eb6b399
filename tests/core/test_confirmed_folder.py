import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.artifacts import StudiesFolder
from core.confirmed import ConfirmedRun, ConfirmedTrial
from core.confirmed_folder import ConfirmedFolder
from core.errors import InputError

PROBS = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> ConfirmedFolder:
    return StudiesFolder(tmp_path).study("mobilenet").confirmed


def run_of(folder: ConfirmedFolder, **changes: object) -> ConfirmedRun:
    made = ConfirmedRun(
        folder=folder.run_folder(12, 1, 0), config={"lr": 0.001}, epochs=3, prior=(0.9, 0.1), elapsed_s=3.5
    )
    return dataclasses.replace(made, **changes)


def trial_of(folder: ConfirmedFolder, **changes: object) -> ConfirmedTrial:
    made = ConfirmedTrial(
        number=12,
        folder=folder.trial_folder(12),
        config={"lr": 0.001},
        folds=2,
        seeds=1,
        epochs=3,
        recall=0.625,
        recall_interval=(0.5, 0.75),
        recall_argmax=0.5,
        priors=(((0.9, 0.1), (0.8, 0.2)),),
        elapsed_s=7.0,
    )
    return dataclasses.replace(made, **changes)


def test_a_run_survives_writing_and_reading(folder: ConfirmedFolder) -> None:
    assert folder.read_run(12, 1, 0) is None
    folder.write_run(run_of(folder), PROBS, None)
    found = folder.read_run(12, 1, 0)
    assert found == run_of(folder)
    assert not found.has_model
    np.testing.assert_array_equal(found.probs(), PROBS)


def test_a_run_takes_the_place_of_another(folder: ConfirmedFolder) -> None:
    folder.write_run(run_of(folder, epochs=2), PROBS, None)
    folder.write_run(run_of(folder), PROBS[::-1], {"weight": torch.arange(4.0)})
    found = folder.read_run(12, 1, 0)
    assert found is not None
    assert (found.epochs, found.has_model) == (3, True)
    np.testing.assert_array_equal(found.probs(), PROBS[::-1])


def test_a_trial_survives_writing_and_reading_beside_its_runs(folder: ConfirmedFolder) -> None:
    assert folder.read_trials() == []
    folder.write_run(run_of(folder), PROBS, None)
    assert folder.read_trials() == []
    for seeds in (1, 2):
        trial = trial_of(folder, seeds=seeds, priors=seeds * trial_of(folder).priors)
        folder.write_trial(trial, np.stack(seeds * [PROBS]))
        assert folder.read_trials() == [trial]
    np.testing.assert_array_equal(folder.read_trials()[0].oof_probs(), np.stack([PROBS, PROBS]))
    assert folder.read_run(12, 1, 0) is not None


def test_a_run_that_is_made_again_takes_what_its_trial_amounts_to_with_it(folder: ConfirmedFolder) -> None:
    folder.write_run(run_of(folder), PROBS, None)
    folder.write_trial(trial_of(folder), PROBS[None])
    assert folder.has_trials
    folder.write_run(run_of(folder), PROBS[::-1], None)
    assert folder.read_trials() == []
    assert not folder.has_trials


def test_a_trial_stays_confirmed_beside_a_run_of_a_further_seed(folder: ConfirmedFolder) -> None:
    folder.write_run(run_of(folder), PROBS, None)
    folder.write_trial(trial_of(folder), PROBS[None])
    folder.write_run(dataclasses.replace(run_of(folder), folder=folder.run_folder(12, 1, 1)), PROBS, None)
    assert folder.read_trials() == [trial_of(folder)]


def test_a_run_that_cannot_be_written_leaves_its_trial_confirmed(folder: ConfirmedFolder) -> None:
    folder.write_run(run_of(folder), PROBS, None)
    folder.write_trial(trial_of(folder), PROBS[None])
    with pytest.raises(ValueError, match="Out of range float values"):
        folder.write_run(run_of(folder, elapsed_s=float("nan")), PROBS[::-1], None)
    assert folder.read_trials() == [trial_of(folder)]
    assert folder.read_run(12, 1, 0) == run_of(folder)


def test_whoever_is_killed_while_a_run_gives_way_leaves_nothing_that_speaks_of_it(
    folder: ConfirmedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_run(run_of(folder), PROBS, None)
    folder.write_trial(trial_of(folder), PROBS[None])

    def remove_half(path: Path) -> None:
        (path / "probs.npy").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("core.confirmed_folder.shutil.rmtree", remove_half)
        with pytest.raises(KeyboardInterrupt):
            folder.write_run(run_of(folder), PROBS, None)
    assert folder.read_trials() == []
    assert folder.read_run(12, 1, 0) is None


def test_folds_and_summary_survive_writing_and_reading(folder: ConfirmedFolder) -> None:
    assert (folder.read_folds(), folder.read_summary()) == ([], {})
    rows = [{"image": "a.jpg", "label": "mel", "group": "7", "fold": "1"}]
    folder.write_folds(rows)
    folder.write_summary({"folds": 2})
    assert (folder.read_folds(), folder.read_summary()) == (rows, {"folds": 2})


def test_a_second_command_is_refused_while_the_first_is_at_work(folder: ConfirmedFolder) -> None:
    with folder.alone():
        with pytest.raises(InputError, match="must be confirmed by one command at a time, but another is at it"):
            folder.alone().__enter__()
    with folder.alone():
        pass


def test_what_a_killed_command_was_writing_is_removed_by_the_next(folder: ConfirmedFolder) -> None:
    half = folder.trial_folder(3) / ".fold-0-seed-0.abc.tmp"
    half.mkdir(parents=True)
    (half / "probs.npy").write_bytes(b"x")
    with folder.alone():
        assert not half.exists()


def test_a_link_in_its_place_is_refused(folder: ConfirmedFolder, tmp_path: Path) -> None:
    folder.root.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="it is a link, and writing into it would change another folder"):
        folder.alone().__enter__()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recall": 1.5}, "a recall is out of 0 to 1"),
        ({"number": 3}, "it says that it is trial 3"),
        ({"folds": 3}, "its priors aren't one for each seed and fold"),
        ({"seeds": 2}, "its priors aren't one for each seed and fold"),
        ({"priors": [[[0.9, 0.1], [0.8]]]}, "of different lengths"),
        ({"priors": [[[0.9, "0.1"]]]}, "priors.0.0.1 is '0.1' and not of type"),
        ({"elapsed_s": -1}, "a number is below 0"),
        ({"format": 99}, "must be of format 1 or older"),
    ],
)
def test_a_damaged_trial_is_refused(folder: ConfirmedFolder, changes: dict[str, object], fault: str) -> None:
    folder.write_run(run_of(folder), PROBS, None)
    folder.write_trial(trial_of(folder), PROBS[None])
    file = folder.trial_folder(12) / "complete.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=fault):
        folder.read_trials()
