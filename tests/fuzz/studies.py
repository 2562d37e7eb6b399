"""The reader of artifacts: a study and an ensemble one file of which was changed are read right, or refused."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.archs import Arch
from core.artifacts import StudiesFolder, TrialRecord
from core.checkpoint import RunState, load_checkpoint, save_checkpoint
from core.config import TrainConfig
from core.confirmed import ConfirmedRun, ConfirmedTrial
from core.confirmed_folder import ConfirmedFolder
from core.errors import InputError
from core.files import read_tensors
from core.npy import NpyError, read_npy
from core.weight_files import read_weight_file
from ensemble.findings import read_finding, read_history
from ensemble.members import choose_members
from ensemble.parts import find_test, read_part, read_validation
from ensemble.spec import EnsembleSpec, MemberSpec
from ensemble.studies import read_studies
from ensemble.tables import Report, best_trials, configs, data, trial_counts, versions
from tests.fuzz.mutations import changed_json, mutated
from tests.fuzz.target import Target, assert_one_sentence, no_hang, scratch

_CLASSES, _N = ("mel", "nv", "vasc"), 12
_ARCH = Arch(name="a", timm_name="resnet18", image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, weight_tag=None)
_CONFIG = TrainConfig(arch="resnet18", image_size=32, lr=0.01, epochs=5)
_TRIAL, _CHECKPOINT = "study/trial-0000", "study/running/trial-0001.safetensors"
_WEIGHTS = ("weights.safetensors", "weights.pt", "weights.pth")
_OLD = {"_use_new_zipfile_serialization": False}
_TOKENS = (b"\x93NUMPY", b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"PK\3\4", b"\x80\4\x95", b"\0")
_CSV_TOKENS = (b'"', b",", b"\n", b"\r", b"\0", b"nan", b"inf", b"\xff", b"train", b"val", b"test", b"../x", b"9" * 400)


def _epochs() -> list[dict[str, float]]:
    names = [f"{part}_{name}" for part in ("train", "val") for name in ("loss", "accuracy", "recall")]
    return [{"epoch": epoch, "lr": 0.01, **dict.fromkeys(names, 0.5 + 0.1 * epoch)} for epoch in range(2)]


def _study_json(root: Path) -> dict[str, Any]:
    about = {"root": str(root), "places": [str(root)], "layout": "folders", "fingerprint": "f" * 64}
    about |= {"columns": {"image": "", "label": "", "group": ""}, "classes": list(_CLASSES)}
    about |= {"images": 3 * _N, "groups": 3 * _N, "grouped": True}
    return {
        "arch": dataclasses.asdict(_ARCH),
        "demo": False,
        "data": about,
        "split": {"seed": 0, "train": "a", "val": "b", "test": "c"},
        "versions": {"torch": "2"},
        "command": "python -m search.run",
        "weights": {"hash": "0" * 64, "spec": "auto"},
    }


def _split_rows() -> list[dict[str, str]]:
    return [
        {"image": f"{part}{n}.jpg", "label": _CLASSES[n % 3], "group": f"lesion {part}{n}", "split": part}
        for part in ("train", "val", "test")
        for n in range(_N)
    ]


def _record() -> TrialRecord:
    return TrialRecord(
        number=0,
        state="complete",
        folder=Path(),
        config=_CONFIG.to_dict(),
        recall=0.9,
        recall_interval=(0.8, 1.0),
        recall_argmax=0.8,
        best_epoch=1,
        prior=(0.3, 0.3, 0.4),
        elapsed_s=3.5,
    )


def _spec() -> EnsembleSpec:
    record, folder = _record(), scratch("studies")
    figures = {name: getattr(record, name) for name in ("prior", "recall", "recall_interval", "best_epoch", "config")}
    member = MemberSpec(
        study="study", trial=0, arch=_ARCH, files=("members/study-0000.safetensors",), weight=1.0, **figures
    )
    return EnsembleSpec(
        classes=_CLASSES,
        members=(member,),
        left_out=(("b #1", "not better than chance"),),
        demo=False,
        data=_study_json(folder)["data"],
        split={"seed": 0, "test": "c"},
        versions={"torch": "2"},
        command="python -m ensemble.build studies",
        created="2026-01-01T00:00:00Z",
    )


class _Run:
    """A model in the middle of its training, small enough to be written in no time."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=True)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()

    def save(self, path: Path) -> None:
        probs, prior = torch.full((_N, 3), 1 / 3), torch.full((3,), 1 / 3, dtype=torch.float64)
        best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        state = RunState(history=_epochs(), best_epoch=1, best_model=best, elapsed_s=3.0)
        state.best_tensors = {"val_probs": probs, "prior": prior}
        save_checkpoint(
            path, config=_CONFIG, state=state, model=self.model, optimizer=self.optimizer, scaler=self.scaler
        )

    def load(self, path: Path) -> None:
        """Loads it and goes on, as a search would."""
        state = load_checkpoint(path, config=_CONFIG, model=self.model, optimizer=self.optimizer, scaler=self.scaler)
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()
        assert state.best_tensors["val_probs"].numpy().ndim == 2
        assert state.best_model.keys() == self.model.state_dict().keys()


@cache
def _run() -> _Run:
    return _Run()


def _confirm(folder: ConfirmedFolder, probs_NC: np.ndarray) -> None:
    """Its trial, confirmed over two folds, of which one run is left."""
    folder.write_folds([{"image": f"{n}.jpg", "label": "nv", "group": str(n), "fold": str(n % 2)} for n in range(_N)])
    folder.write_summary({"folds": 2, "trials": []})
    common = {"config": _CONFIG.to_dict(), "epochs": 2, "elapsed_s": 3.5}
    run = ConfirmedRun(folder=folder.run_folder(0, 1, 0), prior=(0.3, 0.3, 0.4), **common)
    folder.write_run(run, probs_NC[::2], None)
    recalls = {"recall": 0.9, "recall_interval": (0.8, 1.0), "recall_argmax": 0.8}
    priors = (((0.3, 0.3, 0.4), (0.2, 0.4, 0.4)),)
    trial = ConfirmedTrial(
        number=0, folder=folder.trial_folder(0), folds=2, seeds=1, priors=priors, **recalls, **common
    )
    folder.write_trial(trial, probs_NC[None])


@cache
def _originals() -> dict[str, bytes]:
    """A whole studies folder, as its files' contents."""
    root = scratch("studies")
    study = StudiesFolder(root).study("study")
    study.write_study(_study_json(root), _split_rows())
    probs_NC = np.full((_N, 3), 0.1, np.float32)
    probs_NC[np.arange(_N), np.arange(_N) % 3] = 0.8
    model = {"weight": torch.ones(2, 3), "bias": torch.zeros(3, dtype=torch.float16)}
    study.write_trial(_record(), history=_epochs(), val_probs_NC=probs_NC, model=model)
    study.write_summary(
        {
            "trials": {"complete": 1, "pruned": 0, "failed": 0},
            "best": [{"number": 0, "recall": 0.9, "recall_interval": [0.8, 1.0], "params": {"lr": 0.01}}],
            "importance": {"lr": 1.0},
            "slices": {"lr": [[0.01, 0.9]]},
            "elapsed_s": 3.5,
        }
    )
    _confirm(study.confirmed, probs_NC)
    _spec().write(root / "ensemble")
    _run().save(root / _CHECKPOINT)
    for name, save in zip(_WEIGHTS, (save_file, torch.save, partial(torch.save, **_OLD)), strict=True):
        save({"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}, root / name)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _inputs() -> st.SearchStrategy[tuple[str, bytes]]:
    """A file's name and its changed content."""
    strategies = []
    for name, content in _originals().items():
        kinds = [mutated([content], _CSV_TOKENS if name.endswith(".csv") else _TOKENS)]
        if name.endswith(".json"):
            # twice, because bytes that were changed at random are mostly no JSON
            kinds += [changed_json([json.loads(content)])] * 2
        if name.endswith(".safetensors"):
            kinds.append(_changed_header(content))
        strategies.append(st.tuples(st.just(name), st.one_of(kinds)))
    return st.one_of(strategies)


def _changed_header(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with another header, whose length is told rightly."""
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    return changed_json([header]).map(lambda text: len(text).to_bytes(8, "little") + text + rest)


def _readers(root: Path) -> Iterator[Callable[[], object]]:
    """All that reads a studies folder."""
    studies = StudiesFolder(root)
    study = studies.study("study")
    yield study.read_study
    yield study.read_split
    yield study.read_summary
    yield lambda: [(trial.history(), trial.val_probs()) for trial in study.read_trials()]
    yield study.confirmed.read_folds
    yield study.confirmed.read_summary
    yield lambda: [trial.oof_probs() for trial in study.confirmed.read_trials()]
    yield lambda: [run.probs() for run in [study.confirmed.read_run(0, 1, 0)] if run is not None]
    yield lambda: _tell(studies)
    yield lambda: find_test(read_studies(studies)[0])
    yield lambda: EnsembleSpec.read(root / "ensemble")
    yield lambda: read_tensors(root / _TRIAL / "model.safetensors")
    yield lambda: _run().load(root / _CHECKPOINT)
    for name in _WEIGHTS:
        yield partial(read_weight_file, root / name)


def _tell(studies: StudiesFolder) -> None:
    """What `ensemble.build` does up to its report."""
    selection = choose_members(read_studies(studies))
    study = selection.studies[0]
    parts = [read_part(study, name) for name in ("train", "val", "test")]
    assert all(set(part.labels.tolist()) <= set(range(len(study.info["data"]["classes"]))) for part in parts)
    _, probs_MNC = read_validation(selection.members)
    assert np.isfinite(probs_MNC).all()
    finding = read_finding(study)
    histories = [read_history(member.trial) for member in selection.members]
    spec = dataclasses.replace(_spec(), data=study.info["data"], split=study.info["split"])
    report = Report(spec=spec, validation=_Counts(), test=None, opening=0, histories=histories, findings=[finding])
    for table in (best_trials(finding), configs(report), data(report), versions(report)):
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    assert trial_counts(finding)


class _Counts:
    """As much of an evaluation as the tables of facts look at."""

    images, lesions = _N, _N


def check(drawn: tuple[str, bytes]) -> None:
    """Puts a changed file into its place, gives the folder to every reader, and puts the right one back."""
    name, content = drawn
    root, originals = scratch("studies"), _originals()
    (root / name).write_bytes(content)
    try:
        for reader in _readers(root):
            with no_hang():
                try:
                    reader()
                except InputError as error:
                    assert_one_sentence(error)
                except FileNotFoundError as error:  # the images of the made-up study aren't there
                    raise AssertionError(f"{error.filename} is asked for") from error
        if name.endswith(".npy"):
            _check_array(root / name)
    finally:
        (root / name).write_bytes(originals[name])


def _check_array(path: Path) -> None:
    for mapped in (False, True):
        with suppress(NpyError):
            assert read_npy(path, mapped=mapped).nbytes <= path.stat().st_size


TARGET = Target("studies", 0.25, st.deferred(_inputs), check, needs_torch=True)
