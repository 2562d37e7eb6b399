"""One study's folder, whose layout `core.artifacts` shows."""

import dataclasses
import errno
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.confirmed_folder import ConfirmedFolder
from core.errors import InputError
from core.files import read_csv, read_json, write_array, write_csv, write_json, write_tensors, written_aside
from core.shapes import find_misfit
from core.trials import COMPLETE_FILE, MODEL_FILE, TrialRecord, complete_fields, read_trial

# Of `study.json`; raised when an older reader could misread it: in 1 all networks saw the centre of photos.
STUDY_FORMAT = 2
TRIAL_FOLDER = re.compile(r"trial-([0-9]{4}|[1-9][0-9]{4,8})")  # a number has one name only
CHECKPOINT_FILE = re.compile(r"trial-(\d{4,9})\.")  # how its name begins
_SPLIT_COLUMNS = {"image", "label", "group", "split"}


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

    def bring_up_to_date(self) -> None:
        """Fetches what others have written, so that reading it takes no time later. They write to the same folder."""

    def read_study(self) -> dict[str, Any]:
        """What the study is: data, split, space, weights, versions, command.

        Raises:
            InputError: It was written by a newer version, or is damaged.
        """
        study: dict[str, Any] = read_json(self.root / "study.json")
        if misfit := find_misfit(study, {"format": int}):
            raise InputError(f"{self.root / 'study.json'} must name its format, but {misfit}. Restore it.")
        if study["format"] > STUDY_FORMAT:
            raise InputError(
                f"A study must be of format {STUDY_FORMAT} or older, but {self.name} has format={study['format']}. "
                "Update this project, or use another folder with --studies."
            )
        return study

    def write_study(self, study: Mapping[str, Any], split_rows: Sequence[Mapping[str, str]]) -> None:
        """Starts a study. `split_rows` have image, label, group, split; `study.json` is written last."""
        write_csv(self.root / "split.csv", split_rows)
        self._publish("split.csv")
        write_json(self.root / "study.json", {"format": STUDY_FORMAT, **study})
        self._publish("study.json")

    def read_split(self) -> list[dict[str, str]]:
        """Rows of image, label, group, split, in the manifest's order.

        Raises:
            InputError: `split.csv` is absent or damaged.
        """
        path = self.root / "split.csv"
        if not path.is_file():
            raise InputError(f"{path} must list the images of the study, but it is not there. Restore it.")
        rows = read_csv(path)
        if rows and set(rows[0]) != _SPLIT_COLUMNS:
            raise InputError(
                f"{path} must have the columns {', '.join(sorted(_SPLIT_COLUMNS))}, but has others. Restore it."
            )
        return rows

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replaces what the search found."""
        write_json(self.root / "summary.json", summary)
        self._publish("summary.json")

    def _publish(self, name: str) -> None:
        """Shows others a file that is whole now. They read the same folder, so there is nothing to do."""

    def read_summary(self) -> Any:
        """What the search found, whatever shape somebody may have given it; empty if it has not got that far."""
        path = self.root / "summary.json"
        return read_json(path) if path.is_file() else {}

    def trial_folder(self, number: int) -> Path:
        """Where a trial lies once it is finished."""
        return self.root / f"trial-{number:04d}"

    def holds_trial(self, number: int) -> bool:
        """Whether a trial is whole."""
        return (self.trial_folder(number) / COMPLETE_FILE).is_file()

    @property
    def running(self) -> Path:
        """Where everything lies that is of use only while trials run."""
        return self.root / "running"

    @property
    def confirmed(self) -> ConfirmedFolder:
        """What training its best trials again over folds has given."""
        return ConfirmedFolder(self.root / "confirmed")

    def checkpoint_file(self, number: int, generation: int) -> Path:
        """Where an owner of a running trial keeps its resumable state; each has a file of its own."""
        return self.running / f"trial-{number:04d}.{generation}.safetensors"

    def inherit_checkpoint(self, number: int, generation: int) -> Path:
        """The checkpoint file of a trial's new owner, with what the owners before it have left, if anything."""
        own = self.checkpoint_file(number, generation)
        for _, file in sorted(self._checkpoints(number), reverse=True):
            if file != own and not own.exists():
                with suppress(FileNotFoundError):
                    file.rename(own)
        return own

    def drop_checkpoints(self, number: int) -> None:
        """Removes the resumable states of a trial that is over."""
        for _, file in self._checkpoints(number):
            file.unlink(missing_ok=True)

    def checkpoint_sizes(self) -> dict[int, int]:
        """Bytes of the resumable states that there are, by number of the trial."""
        sizes: dict[int, int] = {}
        for file in self.running.glob("trial-*.safetensors"):
            if number := CHECKPOINT_FILE.match(file.name):
                sizes[int(number[1])] = sizes.get(int(number[1]), 0) + file.stat().st_size
        return sizes

    def sharing(self, checkpoint: Path) -> AbstractContextManager[None]:
        """Shows others a checkpoint file whenever it changes, within this context. They read the same folder."""
        return nullcontext()

    def _checkpoints(self, number: int) -> list[tuple[int, Path]]:
        """Those of a trial, with the generation of their owner; before there were leases they had none."""
        name = re.compile(rf"trial-{number:04d}(\.\d+)?\.safetensors")
        matches = [(name.fullmatch(file.name), file) for file in self.running.glob(f"trial-{number:04d}*.safetensors")]
        return [(int((match[1] or ".0")[1:]), file) for match, file in matches if match]

    def set_aside_halves(self) -> list[Path]:
        """Moves folders of trials without `complete.json`, which are none of ours or were torn, out of the way."""
        halves = [path for _, path in self._trial_folders() if not (path / COMPLETE_FILE).is_file()]
        moved = []
        for half in halves:
            target = self.root / "set-aside" / f"{half.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            target.parent.mkdir(exist_ok=True)
            half.rename(target)
            moved.append(target)
        return moved

    def _trial_folders(self) -> list[tuple[int, Path]]:
        """What is named like a trial's folder, by number."""
        if not self.root.is_dir():
            return []
        matches = [(TRIAL_FOLDER.fullmatch(path.name), path) for path in self.root.iterdir()]
        return sorted((int(match[1]), path) for match, path in matches if match and path.is_dir())

    def write_trial(
        self,
        record: TrialRecord,
        *,
        history: Sequence[Mapping[str, float]],
        val_probs_NC: npt.NDArray[np.float32],
        model: Mapping[str, Any] | None,
        replacing: AbstractContextManager[object] | None = None,
    ) -> TrialRecord:
        """Writes a finished trial, whole or not at all.

        Args:
            record: What is known of it; its `folder` is ignored.
            history: One row an epoch.
            val_probs_NC: Probabilities of the validation rows (N, C).
            model: State dict of the best epoch, or None to keep no weights.
            replacing: Entered for the moment in which the folder gets its name; may refuse it by raising.

        Returns:
            The record, with its folder.
        """
        target = self.trial_folder(record.number)
        with written_aside(target, replacing=self._in_place_of(record, replacing or nullcontext())) as aside:
            aside.mkdir()
            if history:
                write_csv(aside / "history.csv", history)
            write_array(aside / "val_probs.npy", val_probs_NC)
            if model is not None:
                write_tensors(aside / MODEL_FILE, model)
            write_json(aside / "config.json", record.config)
            self._publish_parts(aside, record)
            write_json(aside / COMPLETE_FILE, complete_fields(record))
        return dataclasses.replace(record, folder=target)

    def _publish_parts(self, folder: Path, record: TrialRecord) -> None:
        """Shows others the files of a trial that is about to be whole. They read the same folder."""

    @contextmanager
    def _in_place_of(self, record: TrialRecord, replacing: AbstractContextManager[object]) -> Iterator[None]:
        """The moment in which a trial's folder gets its name."""
        with replacing:
            folder = self.trial_folder(record.number)
            if self.holds_trial(record.number):
                raise FileExistsError(errno.EEXIST, "A finished trial is never replaced", str(folder))
            if folder.is_dir():  # a half
                shutil.rmtree(folder)
            yield

    def read_trial(self, number: int) -> TrialRecord:
        """Reads a finished trial.

        Raises:
            InputError: Its folder is damaged or not whole.
        """
        return read_trial(self.trial_folder(number), number)

    def read_trials(self) -> list[TrialRecord]:
        """All finished trials, by number. Folders that are not whole are passed over.

        Raises:
            InputError: A trial is damaged.
        """
        return [self.read_trial(number) for number, path in self._trial_folders() if (path / COMPLETE_FILE).is_file()]

    def drop_models(self, keep: int) -> None:
        """Deletes the weights of all complete trials but the `keep` best, and of all pruned ones."""
        trials = self._read_with_model()
        ranked = sorted(trials, key=lambda trial: (trial.state != "complete", -trial.recall, trial.number))
        for rank, trial in enumerate(ranked):
            if rank >= keep or trial.state != "complete":
                self._drop_model(trial)

    def _read_with_model(self) -> list[TrialRecord]:
        """The trials that have their weights. The others are not read: there may be thousands."""
        kept = [number for number, path in self._trial_folders() if (path / MODEL_FILE).is_file()]
        return [self.read_trial(number) for number in kept if self.holds_trial(number)]

    def _drop_model(self, trial: TrialRecord) -> None:
        trial.model_file.unlink(missing_ok=True)
