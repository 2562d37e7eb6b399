"""Small studies on disk, as a search would leave them: real models with random weights, validation figures made up."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from core.archs import Arch
from core.artifacts import StudiesFolder, StudyFolder, TrialRecord
from core.backbones import build_classifier
from core.datasets import load_manifest
from core.framing import Framing
from core.manifest import Manifest
from core.splits import Split, split_manifest
from tests.fixtures.drawing import blank_reports

CLASS_COUNTS = {"mel": 24, "nv": 48, "vasc": 24}


@dataclass(frozen=True)
class Trial:
    """What a made-up trial shall be."""

    recall: float
    half_width: float = 0.05
    state: str = "complete"
    keeps_model: bool = True
    prior: tuple[float, ...] = tuple(count / sum(CLASS_COUNTS.values()) for count in CLASS_COUNTS.values())


class Studies:
    """Writes studies into a folder."""

    def __init__(self, root: Path, manifest: Manifest, split: Split) -> None:
        self.root, self.manifest, self.split = root, manifest, split
        self.folder = StudiesFolder(root)

    def add(
        self,
        name: str,
        trials: Sequence[Trial] = (Trial(0.9),),
        *,
        arch: str = "test_efficientnet",
        framing: Framing = "whole",
        demo: bool = False,
        data: dict[str, Any] | None = None,
    ) -> StudyFolder:
        """Writes a study with trials numbered from 0; `data` overrides what study.json says of the data."""
        study = self.folder.study(name)
        described = Arch(
            name=arch,
            timm_name=arch,
            image_size=32,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            weight_tag=None,
            framing=framing,
        )
        study.write_study(self._study_json(described, demo, data or {}), self._split_rows())
        for number, trial in enumerate(trials):
            self._write_trial(study, described, number, trial)
        study.write_summary(_summary(trials))
        return study

    def _study_json(self, arch: Arch, demo: bool, data: dict[str, Any]) -> dict[str, Any]:
        manifest, split = self.manifest, self.split
        about = {
            "root": str(manifest.roots[0]),
            "layout": manifest.layout,
            "fingerprint": manifest.fingerprint,
            "classes": list(manifest.classes),
            "images": len(manifest),
            "groups": len(set(manifest.groups)),
            "grouped": manifest.grouped,
        }
        parts = {part: manifest.fingerprint_of(getattr(split, part)) for part in ("train", "val", "test")}
        return {
            "arch": dataclasses.asdict(arch),
            "demo": demo,
            "data": about | data,
            "split": {"seed": split.seed, **parts},
            "versions": {"torch": "2.0"},
            "command": f"python -m search.run --arch {arch.name}",
        }

    def _split_rows(self) -> list[dict[str, str]]:
        part_of = {int(row): part for part in ("train", "val", "test") for row in getattr(self.split, part)}
        manifest = self.manifest
        return [
            {
                "image": manifest.paths[row],
                "label": manifest.classes[manifest.labels[row]],
                "group": manifest.groups[row],
                "split": part_of[row],
            }
            for row in range(len(manifest))
        ]

    def _write_trial(self, study: StudyFolder, arch: Arch, number: int, trial: Trial) -> None:
        record = TrialRecord(
            number=number,
            state=trial.state,
            folder=study.root,
            config={"arch": arch.timm_name, "image_size": arch.image_size, "lr": 0.01, "epochs": 2},
            recall=trial.recall,
            recall_interval=(trial.recall - trial.half_width, trial.recall + trial.half_width),
            recall_argmax=trial.recall - 0.1,
            best_epoch=1,
            prior=trial.prior,
            elapsed_s=1.5,
        )
        study.write_trial(
            record,
            history=[_epoch(0, 0.4), _epoch(1, trial.recall)],
            val_probs_NC=self.believable(self.split.val),
            model=random_weights(arch, len(self.manifest.classes)) if trial.keeps_model else None,
        )

    def believable(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Probabilities of 0.8 for the true class."""
        num_classes = len(self.manifest.classes)
        wrong = 0.2 / (num_classes - 1)
        probs_NC = np.full((len(rows), num_classes), wrong, np.float32)
        probs_NC[np.arange(len(rows)), self.manifest.labels[rows]] = 0.8
        return probs_NC


@functools.cache
def random_weights(arch: Arch, num_classes: int) -> dict[str, Any]:
    """A state dict that fits."""
    return build_classifier(arch, num_classes=num_classes, weights=None, seed=0).state_dict()


def _epoch(epoch: int, recall: float) -> dict[str, float]:
    row: dict[str, float] = {"epoch": epoch, "lr": 0.01}
    for part in ("train", "val"):
        row |= {f"{part}_loss": 1.0 - 0.5 * recall, f"{part}_accuracy": recall, f"{part}_recall": recall}
    return row


def _summary(trials: Sequence[Trial]) -> dict[str, Any]:
    best = [
        {"number": number, "recall": t.recall, "recall_interval": [t.recall - 0.05, t.recall], "params": {"lr": 0.01}}
        for number, t in enumerate(trials)
    ]
    return {
        "trials": {"complete": len(trials), "pruned": 0, "failed": 0},
        "best": best,
        "importance": {"lr": 1.0},
        "slices": {"lr": [[0.01, trial.recall] for trial in trials]},
        "elapsed_s": 3.0,
    }


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in class folders."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, count in CLASS_COUNTS.items():
        (root / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def manifest(image_folder: Path) -> Manifest:
    return load_manifest(image_folder)


@pytest.fixture(scope="session")
def make_studies(manifest: Manifest) -> Callable[[Path], Studies]:
    """Makes an empty studies folder to add to."""
    split = split_manifest(manifest, seed=0)

    def make(root: Path) -> Studies:
        root.mkdir()
        return Studies(root, manifest, split)

    return make


@pytest.fixture
def studies(tmp_path: Path, make_studies: Callable[[Path], Studies]) -> Studies:
    """An empty studies folder to add to."""
    return make_studies(tmp_path / "studies")


@pytest.fixture
def trial() -> type[Trial]:
    """Makes descriptions of trials; test modules can't import this file."""
    return Trial


@pytest.fixture
def blank_pictures() -> Iterator[None]:
    """Reports of a test have pictures of nothing."""
    with blank_reports():
        yield
