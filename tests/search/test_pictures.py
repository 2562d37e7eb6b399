"""The dashboard's pictures: drawn beside the search, and drawn once, whatever dies."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import TrialState

from search.crew import Crew
from search.objective import Objective
from search.pictures import Pictures, name_pictures
from tests.search.conftest import run_trial
from tests.search.test_objective import ask

PNG = b"\x89PNG\r\n\x1a\n"


def beside(objective: Objective, tmp_path: Path) -> Pictures:
    data = objective.trainer.data
    return Pictures(tmp_path / "artifacts", data.labels[data.val_rows], data.classes)


def test_the_dashboard_gets_curves_and_confusion_matrix(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path
) -> None:
    run_trial(objective, study, crew, ask(study))
    metas = get_all_artifact_meta(study.trials[0], storage=study._storage)
    assert sorted(meta.filename for meta in metas) == ["confusion.png", "curves.png"]
    for meta in metas:
        assert (tmp_path / "artifacts" / meta.artifact_id).read_bytes().startswith(PNG)


def test_pictures_that_a_process_owed_are_drawn_by_the_next(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path
) -> None:
    run_trial(objective, study, crew, ask(study))
    owed = sorted((tmp_path / "artifacts").iterdir())
    for file in owed:
        file.unlink()
    objective.pictures.draw_owed(study, objective.folder)
    assert sorted((tmp_path / "artifacts").iterdir()) == owed
    assert all(file.read_bytes().startswith(PNG) for file in owed)


def test_a_picture_without_a_name_is_given_one_and_those_of_people_are_left_alone(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path
) -> None:
    trial = ask(study)
    (tmp_path / "note.txt").write_text("seen by people")
    store = FileSystemArtifactStore(tmp_path / "artifacts")
    people = upload_artifact(artifact_store=store, file_path=str(tmp_path / "note.txt"), study_or_trial=trial)
    names = name_pictures(trial)
    assert set(names) == {"curves.png", "confusion.png"}
    assert name_pictures(trial) == names  # an owner before this one has named them
    run_trial(objective, study, crew, trial)
    for name in names.values():
        assert (tmp_path / "artifacts" / name).read_bytes().startswith(PNG)
        (tmp_path / "artifacts" / name).unlink()
    (tmp_path / "artifacts" / people).unlink()
    beside_it = Pictures(tmp_path / "artifacts", objective.pictures._truth_N, ("a", "b"), drawer="here")
    beside_it.draw_owed(study, objective.folder)
    assert {file.name for file in (tmp_path / "artifacts").iterdir()} == set(names.values())


@pytest.mark.parametrize("damage", ["no array", "other rows"])
def test_a_damaged_trial_costs_its_pictures_and_nobody_elses(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    for _ in range(2):
        run_trial(objective, study, crew, ask(study))
    for file in (tmp_path / "artifacts").iterdir():
        file.unlink()
    probs = objective.folder.trial_folder(0) / "val_probs.npy"
    if damage == "no array":
        probs.write_text("no array")
    else:
        np.save(probs, np.full((3, 2), 0.5, np.float32))
    fresh = Pictures(tmp_path / "artifacts", objective.pictures._truth_N, ("a", "b"), drawer="here")
    fresh.draw_owed(study, objective.folder)
    assert "the pictures of trial 0 can't be drawn" in caplog.text
    assert len(list((tmp_path / "artifacts").iterdir())) == 2


def test_a_process_of_its_own_draws_beside_the_search(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path
) -> None:
    with beside(objective, tmp_path) as pictures:
        run_trial(dataclasses.replace(objective, pictures=pictures), study, crew, ask(study))
    assert sum(file.read_bytes().startswith(PNG) for file in (tmp_path / "artifacts").iterdir()) == 2


ORPHAN = """
import multiprocessing, os, signal, sys
from pathlib import Path
import numpy as np
from search.pictures import Pictures, name_pictures
if __name__ == "__main__":
    pictures = Pictures(Path(sys.argv[1]), np.zeros(1, dtype=int), ("a", "b"))
    print(pictures._pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_process_that_draws_ends_with_a_search_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "artifacts")]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
    drawer = int(printed)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(drawer) and psutil.Process(drawer).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it outlives the search"
        time.sleep(0.1)


def test_a_process_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("search.pictures._PATIENCE_S", 3.0)
    pictures = Pictures(tmp_path / "artifacts", np.zeros(1, dtype=int), ("a", "b"))
    assert pictures._pool is not None
    pictures._pending.append(pictures._pool.submit(time.sleep, 600))
    start = time.monotonic()
    pictures.close()
    assert time.monotonic() - start < 30
    assert "1 trials wait for their pictures too long" in caplog.text


def test_a_picture_that_cannot_be_drawn_costs_no_trial(
    study: optuna.Study, objective: Objective, crew: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with beside(objective, tmp_path) as pictures:
        (tmp_path / "artifacts").rmdir()
        (tmp_path / "artifacts").touch()
        run_trial(dataclasses.replace(objective, pictures=pictures), study, crew, ask(study))
    assert study.trials[0].state == TrialState.COMPLETE
    assert "a picture could not be drawn" in caplog.text
