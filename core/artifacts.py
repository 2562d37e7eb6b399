"""Everything under `studies/`: its one reader and writer.

    studies/
        weights/HASH.safetensors     backbones' first weights, shared by studies
        test_openings.jsonl          who opened which test split when
        STUDY/study.json             what the study is; written once
        STUDY/split.csv              image, label, group, split
        STUDY/summary.json           what its search found
        STUDY/trial-0012/            config.json, history.csv, val_probs.npy, model.safetensors, complete.json

A trial's folder is written aside and renamed, and `complete.json` lies in it last: a folder with it is whole, one
without it never counts. Files are JSON, CSV, safetensors and npy without objects: reading a folder from a colleague
cannot run code.
"""

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.files import read_csv, read_json, write_array, write_csv, write_json, write_tensors, written_aside

FORMAT = 1  # of everything below; raised when an older reader could misread it
_TRIAL_FOLDER = re.compile(r"trial-(\d{4,})")
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED_NAMES = ("artifacts", "ensemble", "weights")
MODEL_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One finished trial, as its folder tells it.

    Attributes:
        number: The trial's number in its study.
        state: ``complete`` or ``pruned``.
        folder: Where it lies.
        config: Fields of its `TrainConfig`.
        recall: Macro recall on validation after prior correction, at the best epoch; what it is judged by.
        recall_interval: Its 95 % interval, low and high, over lesions.
        recall_argmax: Macro recall on validation of the plain argmax, at the same epoch.
        best_epoch: The epoch, counted from 0, that `val_probs` and the model are of.
        prior: Mean probability of each class on the training part (C,): the prior that the model learned.
        elapsed_s: Seconds that the trial took.
        reason: Why it ended early; empty if it did not.
    """

    number: int
    state: str
    folder: Path
    config: dict[str, Any]
    recall: float
    recall_interval: tuple[float, float]
    recall_argmax: float
    best_epoch: int
    prior: tuple[float, ...]
    elapsed_s: float
    reason: str = ""

    @property
    def model_file(self) -> Path:
        """The weights; deleted unless the trial is among the study's best."""
        return self.folder / MODEL_FILE

    @property
    def has_model(self) -> bool:
        """Whether the weights are still kept."""
        return self.model_file.is_file()

    def history(self) -> list[dict[str, float]]:
        """One row an epoch, all numbers."""
        return [{key: float(value) for key, value in row.items()} for row in read_csv(self.folder / "history.csv")]

    def val_probs(self) -> npt.NDArray[np.float32]:
        """Uncorrected probabilities (N, C) of the study's validation rows, in the order of `split.csv`."""
        probs_NC: npt.NDArray[np.float32] = np.load(self.folder / "val_probs.npy", allow_pickle=False)
        return probs_NC


class StudyFolder:
    """One study's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """The study's name."""
        return self.root.name

    @property
    def exists(self) -> bool:
        """Whether a study has been started here."""
        return (self.root / "study.json").is_file()

    def read_study(self) -> dict[str, Any]:
        """What the study is: data, split, space, weights, versions, command.

        Raises:
            InputError: It was written by a newer version, or is damaged.
        """
        study: dict[str, Any] = read_json(self.root / "study.json")
        if not isinstance(study, dict) or not isinstance(study.get("format"), int):
            raise InputError(f"{self.root / 'study.json'} must name its format, but does not. Restore it.")
        if study["format"] > FORMAT:
            raise InputError(
                f"A study must be of format {FORMAT} or older, but {self.name} has format={study['format']}. "
                "Update this project, or use another folder with --studies."
            )
        return study

    def write_study(self, study: Mapping[str, Any], split_rows: Sequence[Mapping[str, str]]) -> None:
        """Starts a study. `split_rows` have image, label, group, split; `study.json` is written last."""
        write_csv(self.root / "split.csv", split_rows)
        write_json(self.root / "study.json", {"format": FORMAT, **study})

    def read_split(self) -> list[dict[str, str]]:
        """Rows of image, label, group, split, in the manifest's order."""
        return read_csv(self.root / "split.csv")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replaces what the search found."""
        write_json(self.root / "summary.json", summary)

    def read_summary(self) -> Any:
        """What the search found, whatever shape somebody may have given it; empty if it has not got that far."""
        path = self.root / "summary.json"
        return read_json(path) if path.is_file() else {}

    def trial_folder(self, number: int) -> Path:
        """Where a trial lies once it is finished."""
        return self.root / f"trial-{number:04d}"

    def checkpoint_file(self, number: int) -> Path:
        """Where a running trial keeps its resumable state."""
        return self.root / "running" / f"trial-{number:04d}.safetensors"

    def write_trial(
        self,
        record: TrialRecord,
        *,
        history: Sequence[Mapping[str, float]],
        val_probs_NC: npt.NDArray[np.float32],
        model: Mapping[str, Any] | None,
    ) -> TrialRecord:
        """Writes a finished trial, whole or not at all.

        Args:
            record: What is known of it; its `folder` is ignored.
            history: One row an epoch.
            val_probs_NC: Probabilities of the validation rows (N, C).
            model: State dict of the best epoch, or None to keep no weights.

        Returns:
            The record, with its folder.
        """
        target = self.trial_folder(record.number)
        with written_aside(target) as aside:
            aside.mkdir()
            if history:
                write_csv(aside / "history.csv", history)
            write_array(aside / "val_probs.npy", val_probs_NC)
            if model is not None:
                write_tensors(aside / MODEL_FILE, model)
            write_json(aside / "config.json", record.config)
            fields = dataclasses.asdict(record)
            del fields["folder"], fields["config"]
            write_json(aside / "complete.json", {"format": FORMAT, **fields})
            if target.exists():
                shutil.rmtree(target)  # left by a run that died between its rename and Optuna's tell
        return dataclasses.replace(record, folder=target)

    def read_trial(self, number: int) -> TrialRecord:
        """Reads a finished trial.

        Raises:
            InputError: Its folder is damaged or not whole.
        """
        folder = self.trial_folder(number)
        fields = read_json(folder / "complete.json")
        try:
            del fields["format"]
            fields["prior"], fields["recall_interval"] = tuple(fields["prior"]), tuple(fields["recall_interval"])
            return TrialRecord(folder=folder, config=read_json(folder / "config.json"), **fields)
        except (KeyError, TypeError, FileNotFoundError) as error:
            raise InputError(
                f"{folder} must be a whole trial, but it is damaged ({error}). Remove the folder."
            ) from error

    def read_trials(self) -> list[TrialRecord]:
        """All finished trials, by number. Folders that are not whole are passed over."""
        if not self.root.is_dir():
            return []
        matches = ((_TRIAL_FOLDER.fullmatch(path.name), path) for path in self.root.iterdir())
        numbers = sorted(int(match[1]) for match, path in matches if match and (path / "complete.json").is_file())
        return [self.read_trial(number) for number in numbers]

    def drop_models(self, keep: int) -> None:
        """Deletes the weights of all complete trials but the `keep` best, and of all pruned ones."""
        ranked = sorted(self.read_trials(), key=lambda trial: (trial.state != "complete", -trial.recall, trial.number))
        for rank, trial in enumerate(ranked):
            if rank >= keep or trial.state != "complete":
                trial.model_file.unlink(missing_ok=True)


class StudiesFolder:
    """The folder that `search` and `ensemble` meet in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def journal_file(self) -> Path:
        """Optuna's journal, which holds every study."""
        return self.root / "journal.log"

    @property
    def artifacts(self) -> Path:
        """Optuna's artifact store: the pictures that its dashboard shows."""
        return self.root / "artifacts"

    @property
    def ensemble(self) -> Path:
        """What `ensemble.build` writes."""
        return self.root / "ensemble"

    def study(self, name: str) -> StudyFolder:
        """The folder of one study, which need not exist.

        Raises:
            InputError: The name could leave the folder, or is one that we use ourselves.
        """
        if not _STUDY_NAME.fullmatch(name) or name in _RESERVED_NAMES:
            raise InputError(
                "A study's name must be letters, digits, '.', '_' and '-', start with a letter or digit, have at most "
                f"100 characters and not be one of {', '.join(_RESERVED_NAMES)}, but got {name!r}. Choose another."
            )
        return StudyFolder(self.root / name)

    def read_studies(self) -> list[StudyFolder]:
        """All studies that have been started here, by name."""
        if not self.root.is_dir():
            return []
        return [StudyFolder(path.parent) for path in sorted(self.root.glob("*/study.json"))]

    def weights_file(self, tensor_hash: str) -> Path:
        """Where backbone weights with this hash lie, shared by all studies."""
        return self.root / "weights" / f"{tensor_hash}.safetensors"

    def log_test_opening(self, test_fingerprint: str, command: str) -> int:
        """Notes that a test split is being opened, for good.

        Args:
            test_fingerprint: Fingerprint of the test rows.
            command: Who opens it.

        Returns:
            How often this test split has been opened here, this time counted in. A line that a power cut tore doesn't
            count: the split is opened only once its line is whole.
        """
        entry = {
            "test": test_fingerprint,
            "command": command,
            "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        path = self.root / "test_openings.jsonl"
        before = path.read_bytes() if path.exists() else b""
        with path.open("ab") as file:
            torn = before and not before.endswith(b"\n")
            file.write(b"\n" * bool(torn) + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return 1 + sum(_is_opening(line, test_fingerprint) for line in before.splitlines())


def _is_opening(line: bytes, test_fingerprint: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and entry.get("test") == test_fingerprint
