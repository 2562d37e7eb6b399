"""Studies that were cut, emptied, edited or written by a newer version: one sentence, and nothing lost."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.artifacts import StudiesFolder
from core.errors import InputError
from core.study_folder import STUDY_FORMAT
from core.trials import FORMAT
from ensemble import predict
from ensemble.members import choose_members
from ensemble.parts import read_validation
from ensemble.spec import FORMAT as ENSEMBLE_FORMAT
from ensemble.studies import read_studies
from tests.fixtures.searches import STUDY, build_ensemble, refused, search

TRIAL = f"{STUDY}/trial-0000"
DEEP = b"[" * 100_000 + b"]" * 100_000

Change = Callable[[bytes], bytes]


def npy(values: Any) -> Change:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return lambda content: buffer.getvalue()


def put(**fields: Any) -> Change:
    """Replaces fields of a JSON object."""
    return lambda content: json.dumps(json.loads(content) | fields).encode()


def text(old: str, new: str) -> Change:
    """Replaces a text that is there."""

    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


CHANGES: dict[str, tuple[str, Change, str]] = {
    "an empty study": (f"{STUDY}/study.json", lambda content: b"", "must be JSON, but it is damaged"),
    "half a study": (f"{STUDY}/study.json", lambda content: content[: len(content) // 2], "must be JSON"),
    "a study that is a list": (f"{STUDY}/study.json", lambda content: b"[]", "it is not an object"),
    "a study of a newer version": (f"{STUDY}/study.json", put(format=STUDY_FORMAT + 1), "Update this project"),
    "lists within lists": (f"{STUDY}/study.json", lambda content: DEEP, "recursion"),
    "a number of 5,000 digits": (
        f"{STUDY}/study.json",
        text('"format": 2', f'"format": {"9" * 5000}'),
        "digits",
    ),
    "a size of no image": (f"{STUDY}/study.json", text('"image_size": 32', '"image_size": -1'), "image.size"),
    "no weights": (f"{STUDY}/study.json", put(weights=[]), "study.json"),
    "an emptied split": (f"{STUDY}/split.csv", lambda content: b"", "split.csv"),
    "half a split": (f"{STUDY}/split.csv", lambda content: content[: len(content) // 2], "split.csv"),
    "a split of bytes": (f"{STUDY}/split.csv", lambda content: bytes(range(256)), "split.csv must be CSV"),
    "a split with a quote that stays open": (f"{STUDY}/split.csv", text(",train", ',"train'), "split.csv must be CSV"),
    "a trial of a newer version": (f"{TRIAL}/complete.json", put(format=FORMAT + 1), "Update this project"),
    "a trial without a result": (f"{TRIAL}/complete.json", put(recall=None), "recall is None"),
    "a recall that is no number": (f"{TRIAL}/complete.json", put(recall=float("nan")), "NaN is no number"),
    "a recall of 300 percent": (f"{TRIAL}/complete.json", put(recall=3.0), "a recall is out of 0 to 1"),
    "another trial's result": (f"{TRIAL}/complete.json", put(number=7), "it says that it is trial 7"),
    "a config that is a list": (f"{TRIAL}/config.json", lambda content: b"[1, 2]", "it is not an object"),
    "a config of one value": (f"{TRIAL}/config.json", lambda content: DEEP, "config.json must be JSON"),
}
# What `search.run` doesn't look at, or writes anew; and what only `ensemble.build` minds.
BUILD_ONLY: dict[str, tuple[str, Change, str]] = {
    "a number of 400 digits": (f"{STUDY}/study.json", text('"images": 80', f'"images": {"9" * 400}'), "300 digits"),
    "half a summary": (f"{STUDY}/summary.json", lambda content: content[:99], "summary.json must be JSON"),
    "a summary of NaN": (f"{STUDY}/summary.json", put(elapsed_s=float("nan")), "NaN is no number"),
    "a summary that took for ever": (f"{STUDY}/summary.json", put(elapsed_s=1e300), "elapsed_s is 1e.300"),
    "a history of text": (f"{TRIAL}/history.csv", text("0", "zero"), "history.csv must have a row of numbers"),
    "a history without end": (f"{TRIAL}/history.csv", lambda content: content[:-9] + b"inf\r\n", "history.csv"),
    "half the probabilities": (
        f"{TRIAL}/val_probs.npy",
        lambda content: content[:-40],
        "val_probs.npy must be an array",
    ),
    "no probabilities": (f"{TRIAL}/val_probs.npy", lambda content: b"", "val_probs.npy must be an array"),
    "probabilities as text": (f"{TRIAL}/val_probs.npy", npy(np.array(["a"])), "values of type <U1"),
    "probabilities of NaN": (f"{TRIAL}/val_probs.npy", npy(np.full((14, 7), np.nan, np.float32)), "out of 0 to 1"),
    "whole numbers": (f"{TRIAL}/val_probs.npy", npy(np.zeros((14, 7), np.int64)), "a row of float32"),
    "no weights": (f"{TRIAL}/model.safetensors", lambda content: b"", "model.safetensors must be a safetensors file"),
    "half the weights": (f"{TRIAL}/model.safetensors", lambda content: content[:9999], "must be a safetensors file"),
}


def damage(studies: Path, file: str, change: Change) -> None:
    """Damages a file of the first trial and the same of the second, either of which may be the better one."""
    for path in {studies / file, studies / file.replace("trial-0000", "trial-0001")}:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_study_is_refused_and_left_as_it_is(
    studies: Path, images: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, change, sentence = CHANGES[name]
    damage(studies, file, change)
    before = {path: path.read_bytes() for path in studies.rglob("*") if path.suffix in (".json", ".csv", ".npy")}
    capsys.readouterr()
    told = [refused(search(images, studies, "--weights", "none"), capsys)]
    if name != "no weights":  # an ensemble has no use for the first weights of its members
        told.append(refused(build_ensemble(studies), capsys))
    assert {path: path.read_bytes() for path in before} == before
    assert any(re.search(sentence, each) for each in told), told


@pytest.mark.parametrize("name", BUILD_ONLY)
def test_damaged_results_are_refused_before_the_old_ensemble_is_replaced(
    studies: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, change, sentence = BUILD_ONLY[name]
    damage(studies, file, change)
    before = (studies / "ensemble" / "ensemble.json").read_bytes()
    capsys.readouterr()
    assert re.search(sentence, refused(build_ensemble(studies), capsys))
    assert (studies / "ensemble" / "ensemble.json").read_bytes() == before
    assert not (studies / "test_openings.jsonl").exists()


@pytest.mark.parametrize("shape", [(10**9, 10**9), (-1, 7), (14,), (14, 7, 1)])
def test_an_array_that_tells_of_another_size_than_its_file_has_is_refused_without_asking_for_memory(
    studies: Path, shape: tuple[int, ...]
) -> None:
    file = studies / TRIAL / "val_probs.npy"
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    file.write_bytes(buffer.getvalue() + bytes(14 * 7 * 4))
    trial = StudiesFolder(studies).study(STUDY).read_trial(0)
    with pytest.raises(InputError, match=r"val_probs\.npy must be"):
        trial.val_probs()


def test_a_trial_whose_prior_is_of_other_classes_is_refused(studies: Path) -> None:
    damage(studies, f"{TRIAL}/complete.json", put(prior=[0.5, 0.5]))
    with pytest.raises(InputError, match="its prior is of 2 classes and its study of 7"):
        choose_members(read_studies(StudiesFolder(studies)))


def test_what_is_whole_is_read(studies: Path) -> None:
    selection = choose_members(read_studies(StudiesFolder(studies)))
    part, probs_MNC = read_validation(selection.members)
    assert probs_MNC.shape == (1, len(part.images), 7)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b"null",
        b'{"op_code": 99}',
        b'{"op_code": 0, "worker_id": "x", "study_name": "y", "directions": ["up"]}',
        b"\xff\xfe",
        DEEP,
    ],
    ids=lambda line: line[:20].decode("latin-1"),
)
def test_a_journal_with_a_foreign_line_is_refused_and_kept(
    studies: Path, images: Path, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = studies / "journal.log"
    content = line + b"\n" + journal.read_bytes()
    journal.write_bytes(content)
    assert "must be a journal of Optuna" in refused(search(images, studies, "--weights", "none"), capsys)
    assert journal.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put(format=ENSEMBLE_FORMAT + 1), "Update this project"),
        (lambda content: b"", "must be JSON"),
        (lambda content: DEEP, "must be JSON"),
        (put(classes=["a", "a"]), "classes must be two names or more, each once"),
        (put(members="x" * 10**6), "members is 'xxx"),
        (text('"timm_name": "test_efficientnet"', '"timm_name": "no_such_model"'), "no_such_model"),
        (text('"image_size": 32', '"image_size": 1000000'), "image_size must be 32 to 4,096 pixels"),
        (text('"image_size": 32', '"image_size": 33'), ""),
    ],
)
def test_a_damaged_ensemble_is_refused(
    studies: Path, images: Path, tmp_path: Path, change: Change, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = studies / "ensemble" / "ensemble.json"
    file.write_bytes(change(file.read_bytes()))
    photo = next(images.glob("*/*.jpg"))
    capsys.readouterr()
    arguments = [str(studies / "ensemble"), str(photo), "--out", str(tmp_path / "out.csv"), "--device", "cpu"]
    status = predict.main(arguments)
    if sentence:
        assert sentence in refused(status, capsys)
        assert not (tmp_path / "out.csv").exists()
    else:
        assert status == 0
