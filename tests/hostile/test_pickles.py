"""Pickles in every place that is read: none of them is loaded, as loading one runs whatever program it names."""

import io
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from core.artifacts import StudiesFolder
from core.beton_file import read_pixels
from core.cache import cache_folder
from core.errors import InputError
from core.inspection import inspect_images
from core.pixels import read_array
from core.trials import TrialRecord
from core.weight_files import read_weight_file
from ensemble import predict
from ensemble.spec import EnsembleSpec
from tests.fixtures.hostile import Trap
from tests.fixtures.images import write_image
from tests.fixtures.searches import STUDY, build_ensemble, refused, search


def zipped_by_torch(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.ones(2)}, "extra": trap}, buffer)
    return buffer.getvalue()


def npy_of_objects(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz_of_objects(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, train_images=np.array([trap], dtype=object), train_labels=np.zeros(1))
    return buffer.getvalue()


def dumped_by_joblib(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    joblib.dump([trap, np.ones(3)], buffer)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Trap], bytes]] = {
    "pickle": pickle.dumps,
    "old pickle": lambda trap: pickle.dumps(trap, protocol=0) + b"\n",
    "torch": zipped_by_torch,
    "npy": npy_of_objects,
    "npz": npz_of_objects,
    "joblib": dumped_by_joblib,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_planted_pickles_do_run_where_they_are_loaded(tmp_path: Path, kind: str) -> None:
    marker, content = tmp_path / "ran", KINDS[kind](Trap(tmp_path / "ran"))
    match kind:
        case "torch":
            torch.load(io.BytesIO(content), weights_only=False)
        case "npy":
            np.load(io.BytesIO(content), allow_pickle=True)
        case "npz":
            np.load(io.BytesIO(content), allow_pickle=True)["train_images"]
        case "joblib":
            joblib.load(io.BytesIO(content))
        case _:
            pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".bin", ""])
def test_weights_with_code_in_them_are_refused(tmp_path: Path, marker: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(KINDS[kind](Trap(marker)))
    with pytest.raises(InputError, match="`weights` must be a safetensors file or a PyTorch file of tensors alone"):
        read_weight_file(file)


def test_a_search_with_such_weights_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.pt").write_bytes(zipped_by_torch(Trap(marker)))
    status = search(images, tmp_path / "new", "--weights", tmp_path / "weights.pt")
    assert "`weights` must be a safetensors file" in refused(status, capsys)
    assert not (tmp_path / "new").exists()


def read_all(root: Path) -> list[object]:
    """What every reader of a studies folder says."""
    studies = StudiesFolder(root)
    study = studies.study(STUDY)

    def of_trials(read: Callable[[TrialRecord], object]) -> list[object]:
        return [read(trial) for trial in study.read_trials()]

    readers: list[Callable[[], object]] = [
        study.read_study,
        study.read_split,
        study.read_summary,
        lambda: of_trials(TrialRecord.history),
        lambda: of_trials(TrialRecord.val_probs),
        lambda: of_trials(lambda trial: read_weight_file(trial.model_file)),
        lambda: EnsembleSpec.read(studies.ensemble),
    ]
    said: list[object] = []
    for read in readers:
        try:
            said.append(read())
        except InputError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_study_is_read_without_running_what_was_planted_there(
    studies: Path, marker: Path, kind: str
) -> None:
    whole = read_all(studies)
    files = [file for file in (studies / STUDY).rglob("*") if file.is_file() and not file.name.endswith(".lock")]
    files += [studies / "ensemble" / "ensemble.json"]
    assert {file.suffix for file in files} == {".json", ".csv", ".npy", ".safetensors"}
    for file in files:
        before = file.read_bytes()
        file.write_bytes(KINDS[kind](Trap(marker)))
        said = read_all(studies)
        assert any(isinstance(sentence, str) for sentence in said), f"{file} was taken for whole"
        assert len(said) == len(whole)
        file.write_bytes(before)


PLACES = {
    f"{STUDY}/study.json": (2, 2),
    f"{STUDY}/summary.json": (0, 2),  # the search writes it anew
    f"{STUDY}/split.csv": (2, 2),
    f"{STUDY}/trial-0000/complete.json": (2, 2),
    f"{STUDY}/trial-0000/config.json": (2, 2),
    f"{STUDY}/trial-0000/history.csv": (0, 2),
    f"{STUDY}/trial-0000/val_probs.npy": (0, 2),
    f"{STUDY}/trial-0000/model.safetensors": (0, 2),
    "journal.log": (2, 0),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_commands_refuse_what_was_planted_in_a_study(
    studies: Path, images: Path, marker: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for trial in ("trial-0000", "trial-0001"):  # either may be the best, whose other files are read
        kind = list(KINDS.values())[list(PLACES).index(place) % len(KINDS)]
        (studies / place.replace("trial-0000", trial)).write_bytes(kind(Trap(marker)))
    shutil.rmtree(studies / "ensemble")
    capsys.readouterr()
    of_build, of_search = build_ensemble(studies), 0
    if PLACES[place][1] == 2:
        assert place.rpartition("/")[2].split(".")[0] in refused(of_build, capsys)
        assert not (studies / "ensemble").exists()
    capsys.readouterr()
    of_search = search(images, studies, "--weights", "none")
    if PLACES[place][0] == 2:
        refused(of_search, capsys)
    assert (of_search, of_build) == PLACES[place]


def test_a_planted_checkpoint_lets_the_trial_start_afresh(
    studies: Path, images: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = studies / STUDY / "running" / "trial-0002.safetensors"
    running.parent.mkdir(exist_ok=True)
    running.write_bytes(zipped_by_torch(Trap(marker)))
    assert search(images, studies, "--weights", "none", "--trials", 3) == 0
    assert "trial 2 starts afresh" in capsys.readouterr().err
    assert not running.exists()


def test_planted_first_weights_of_a_study_are_refused(
    studies: Path, images: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = studies / STUDY / "study.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"weights": told["weights"] | {"spec": "auto", "hash": "0" * 64}}))
    planted = StudiesFolder(studies).weights_file("0" * 64)
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(zipped_by_torch(Trap(marker)))
    assert "tensors alone" in refused(search(images, studies), capsys)


@pytest.mark.parametrize("place", ["ensemble.json", f"members/{STUDY}-0000.safetensors"])
def test_planted_files_of_an_ensemble_are_refused(
    studies: Path, images: Path, tmp_path: Path, marker: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (studies / "ensemble" / "members").mkdir(exist_ok=True)
    for member in (studies / "ensemble").glob(place.replace("-0000", "-*")):
        member.write_bytes(zipped_by_torch(Trap(marker)))
    photo = next(images.glob("*/*.jpg"))
    status = predict.main([str(studies / "ensemble"), str(photo), "--out", str(tmp_path / "out.csv")])
    refused(status, capsys)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_planted_cache_files_are_replaced_or_refused(
    tmp_path: Path, marker: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "cache"))
    photo = write_image(tmp_path / "images" / "1.png", 1)
    expected = inspect_images([photo])
    (memory,) = cache_folder("inspected").iterdir()
    content = KINDS[kind](Trap(marker))
    memory.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert inspect_images([photo]) == expected
    assert "is damaged" in caplog.text
    pixels = tmp_path / "pixels.npy"
    pixels.write_bytes(content)
    with pytest.raises(InputError, match="must be a whole file of pixels, but got a damaged one"):
        read_array(pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_beton_is_refused(tmp_path: Path, marker: Path, kind: str) -> None:
    (tmp_path / "pixels.beton").write_bytes(KINDS[kind](Trap(marker)))
    with pytest.raises(InputError, match="must be a whole file of pixels, but got a damaged one"):
        read_pixels(tmp_path / "pixels.beton")


def test_data_of_pickled_objects_are_refused(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, make in KINDS.items():
        (tmp_path / "data.npz").write_bytes(make(Trap(marker)))
        capsys.readouterr()
        sentence = refused(search(tmp_path / "data.npz", tmp_path / "new", "--weights", "none"), capsys)
        assert "npz" in sentence, kind
    assert not (tmp_path / "new").exists()
