"""The copy of a studies folder at a URL: it never holds anything of another study than the one that is there."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from core.artifacts import StudyFolder, TrialRecord
from core.mirror import MirroredStudies, open_studies
from core.remote import Remote
from core.shared_pictures import sync_pictures


def begin_study(url: str, *, created: str, recall: float) -> StudyFolder:
    """A study at a URL with one finished trial."""
    study = open_studies(url).study("a")
    study.write_study({"created": created}, [{"image": "i", "label": "l", "group": "g", "split": "val"}])
    record = TrialRecord(
        number=0,
        state="complete",
        folder=Path(),
        config={},
        recall=recall,
        recall_interval=(0.1, 0.9),
        recall_argmax=recall,
        best_epoch=0,
        prior=(0.5, 0.5),
        elapsed_s=1.0,
    )
    study.write_trial(record, history=[{"epoch": 0}], val_probs_NC=np.full((1, 2), 0.5, np.float32), model=None)
    return study


def test_a_copy_forgets_the_study_that_had_the_name_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/bucket"

    def move_to(machine: str) -> None:
        monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / machine))

    move_to("reader")
    left = begin_study(url, created="once", recall=0.25).checkpoint_file(1, 1)
    left.parent.mkdir(parents=True)
    left.write_text("an epoch of the old study")
    assert [trial.recall for study in open_studies(url).read_studies() for trial in study.read_trials()] == [0.25]
    assert left.exists()

    shutil.rmtree(tmp_path / "bucket")
    move_to("searcher")
    begin_study(url, created="again", recall=0.75)

    move_to("reader")
    [study] = open_studies(url).read_studies()
    assert study.read_study()["created"] == "again"
    assert [trial.recall for trial in study.read_trials()] == [0.75]
    assert not study.inherit_checkpoint(1, 1).exists()


def test_a_copy_whose_study_is_the_same_keeps_its_checkpoints(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/bucket"
    own = begin_study(url, created="once", recall=0.25).checkpoint_file(1, 1)
    own.parent.mkdir(parents=True)
    own.write_text("an epoch")
    assert open_studies(url).study("a").exists
    assert own.exists()


def test_a_picture_that_was_removed_at_the_url_is_brought_back_by_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(name: str) -> MirroredStudies:
        monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / name))
        studies = MirroredStudies(f"file://{tmp_path}/bucket")
        studies.artifacts.mkdir(parents=True, exist_ok=True)
        return studies

    def names(folder: Path) -> set[str]:
        return {file.name for file in folder.iterdir()}

    one, two = machine("one"), machine("two")
    for name in ("kept", "removed"):
        (one.artifacts / name).write_text(name)
    one.sync_pictures()
    two.sync_pictures()
    assert names(two.artifacts) == {"kept", "removed"}
    one.remove(one.artifacts / "removed")
    (two.artifacts / "new").write_text("new")
    two.sync_pictures()
    one.sync_pictures()
    for folder in (one.artifacts, two.artifacts, tmp_path / "bucket" / "artifacts"):
        assert names(folder) == {"kept", "new"}


def test_pictures_outlive_a_url_that_is_empty_and_folders_among_them(tmp_path: Path) -> None:
    url, copy, noted = tmp_path / "url", tmp_path / "copy", tmp_path / "noted.txt"
    for folder in (url / "artifacts", copy / "artifacts", copy / "artifacts" / "folder"):
        folder.mkdir(parents=True)
    (copy / "artifacts" / "a").write_text("picture")
    noted.write_text("a\nfolder")
    sync_pictures(Remote(f"file://{url}"), copy / "artifacts", noted)
    assert (copy / "artifacts" / "a").read_text() == (url / "artifacts" / "a").read_text() == "picture"
    assert (copy / "artifacts" / "folder").is_dir()


def test_what_is_removed_at_a_url_as_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "folder").mkdir(parents=True)
    (tmp_path / "artifacts" / "folder" / ".kept").touch()
    Remote(f"file://{tmp_path}").remove_file("artifacts/folder")
    assert (tmp_path / "artifacts" / "folder" / ".kept").is_file()
