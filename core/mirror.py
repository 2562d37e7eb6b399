"""A studies folder at a URL, for machines that share no folder: each works on a copy of its own in its cache.

    URL/STUDY/trial-0012/complete.json          sent last, under the study's lock; names the owner's generation
    URL/STUDY/trial-0012/GENERATION/            the files of each owner, so that a late one writes over nobody's
    URL/STUDY/running/                          checkpoints
    URL/test_openings/                          one file each, so that no two machines write over each other's

The rest lies as in any studies folder. What is at the URL counts; a copy is brought up to date before it is read.
"""

import hashlib
import json
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from core.artifacts import StudiesFolder, StudyFolder, is_opening, opening_entry
from core.cache import cache_folder
from core.errors import InputError, LostError
from core.files import parse_json, to_json, written_aside
from core.remote import Remote
from core.shapes import find_misfit
from core.shared_pictures import sync_pictures
from core.study_folder import CHECKPOINT_FILE, TRIAL_FOLDER
from core.trials import COMPLETE_FILE, MODEL_FILE, TrialRecord, complete_fields

_LOOK_S = 1.0  # between two looks whether there is a new checkpoint
_PARTS = ("config.json", "history.csv", "val_probs.npy")

_log = logging.getLogger(__name__)


def open_studies(place: str, *, with_models: bool = False) -> StudiesFolder:
    """A studies folder, or the copy of one at a URL.

    Args:
        place: Path or URL.
        with_models: Whether the weights of trials are fetched too; only for a URL.

    Raises:
        InputError: The URL is none that can be opened.
    """
    return MirroredStudies(place, with_models=with_models) if "://" in place else StudiesFolder(Path(place))


class MirroredStudies(StudiesFolder):
    """This machine's copy of a studies folder at a URL.

    Args:
        url: Where the folder lies.
        with_models: Whether the weights of trials are fetched too.
    """

    def __init__(self, url: str, *, with_models: bool = False) -> None:
        self.remote, self._with_models = Remote(url), with_models
        super().__init__(cache_folder("studies") / hashlib.sha256(self.remote.url.encode()).hexdigest()[:16])

    @property
    def place(self) -> str:
        return self.remote.url

    def __reduce__(self) -> tuple[Any, ...]:
        # On another machine the cache lies elsewhere.
        return _reopen, (self.remote.url, self._with_models)

    def study(self, name: str) -> StudyFolder:
        return MirroredStudy(super().study(name).root, self.remote, with_models=self._with_models)

    def read_studies(self) -> list[StudyFolder]:
        return [folder for folder in super().read_studies() if folder.exists]

    def _names(self) -> list[str]:
        return [PurePosixPath(name).parent.name for name in self.remote.names("*/study.json")]

    def weights_file(self, tensor_hash: str) -> Path:
        file = super().weights_file(tensor_hash)
        if not file.is_file():
            self.remote.get(file.relative_to(self.root).as_posix(), file)
        return file

    def publish(self, path: Path) -> None:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        names = [file.relative_to(self.root).as_posix() for file in files]
        for file, name in zip(files, names, strict=True):
            self.remote.put(file, name)
        if path.is_dir():
            for name in set(self.remote.names(f"{path.relative_to(self.root).as_posix()}/**/*.*")) - set(names):
                self.remote.remove(name)

    def names_in(self, path: Path) -> list[str]:
        folder = path.relative_to(self.root)
        there = self.remote.names(f"{folder.as_posix()}/**")
        names = (PurePosixPath(name).relative_to(folder.as_posix()).as_posix() for name in there)
        return sorted({*super().names_in(path), *names} - {"."})

    def remove(self, path: Path) -> None:
        self.remote.remove_file(path.relative_to(self.root).as_posix())  # first, or it would be fetched again
        super().remove(path)

    def age_s(self, path: Path) -> float:
        age_s = self.remote.age_s(path.relative_to(self.root).as_posix())
        return super().age_s(path) if age_s is None else age_s

    def sync_pictures(self) -> None:
        sync_pictures(self.remote, self.artifacts, self.root / ".pictures.txt")

    def log_test_opening(self, test_fingerprint: str, image_hashes: Sequence[str], command: str) -> int:
        entry = opening_entry(test_fingerprint, image_hashes, command)
        self.remote.write(f"test_openings/{uuid.uuid4().hex}.json", json.dumps(entry).encode())
        lines = [self.remote.read(name) for name in self.remote.names("test_openings/*.json")]
        return sum(is_opening(line, entry) for line in lines)


def _reopen(url: str, with_models: bool) -> MirroredStudies:
    return MirroredStudies(url, with_models=with_models)


class MirroredStudy(StudyFolder):
    """This machine's copy of one study's folder.

    Args:
        root: Of the copy.
        remote: The studies folder at its URL.
        with_models: Whether the weights of trials are fetched too.
    """

    def __init__(self, root: Path, remote: Remote, *, with_models: bool) -> None:
        super().__init__(root)
        self._remote, self._with_models = remote, with_models

    @property
    def exists(self) -> bool:
        file = self.root / "study.json"
        # Not after another process of this machine has seen the same, and begun to keep checkpoints.
        with self._one_at_a_time():
            study = self._remote.read(self._name(file))
            if study != (file.read_bytes() if file.is_file() else b""):  # another study had this name
                self._forget()
                if study:
                    with written_aside(file) as aside:
                        aside.write_bytes(study)
                else:
                    file.unlink(missing_ok=True)
            return self._fetch("split.csv") and bool(study)

    def bring_up_to_date(self) -> None:
        if self.exists:
            self._fetch_trials()

    def _forget(self) -> None:
        """Removes what the copy holds of trials, finished or not."""
        for _, folder in self._trial_folders():
            shutil.rmtree(folder)
        for file in self.running.glob("*.safetensors"):
            file.unlink(missing_ok=True)

    def read_summary(self) -> Any:
        self._fetch("summary.json")
        return super().read_summary()

    def holds_trial(self, number: int) -> bool:
        return self._fetch_trial(number)

    def read_trials(self) -> list[TrialRecord]:
        self._fetch_trials()
        return super().read_trials()

    def inherit_checkpoint(self, number: int, generation: int) -> Path:
        own = self.checkpoint_file(number, generation)
        here = max((before for before, _ in self._checkpoints(number)), default=0)
        # One of a later owner, who ran it on another machine, has more epochs than what is left here.
        for before in range(generation - 1, here, -1):
            if self._remote.get(self._name(self.checkpoint_file(number, before)), own):
                break
        return super().inherit_checkpoint(number, generation)

    def drop_checkpoints(self, number: int) -> None:
        super().drop_checkpoints(number)
        for name in self._remote.names(f"{self.name}/running/{self.trial_folder(number).name}.*.safetensors"):
            self._remote.remove(name)

    def checkpoint_sizes(self) -> dict[int, int]:
        names = self._remote.names(f"{self.name}/running/trial-*.safetensors")
        matches = (CHECKPOINT_FILE.match(Path(name).name) for name in names)
        return {int(match[1]): 0 for match in matches if match} | super().checkpoint_sizes()

    @contextmanager
    def sharing(self, checkpoint: Path) -> Iterator[None]:
        sender = _Sender(self._remote, checkpoint, self._name(checkpoint))
        over = threading.Event()

        def send() -> None:
            while not over.wait(_LOOK_S):
                sender.send_if_new()

        thread = threading.Thread(target=send, name="checkpoints", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            sender.send_if_new()

    def _publish(self, name: str) -> None:
        self._remote.put(self.root / name, f"{self.name}/{name}")

    def _publish_parts(self, folder: Path, record: TrialRecord) -> None:
        for file in folder.iterdir():
            self._remote.put(file, f"{self._remote_trial(record.number)}/{record.generation}/{file.name}")

    @contextmanager
    def _in_place_of(self, record: TrialRecord, replacing: AbstractContextManager[object]) -> Iterator[None]:
        with super()._in_place_of(record, replacing), self._one_at_a_time():
            complete = to_json(complete_fields(record))
            self._remote.write(f"{self._remote_trial(record.number)}/{COMPLETE_FILE}", complete)
            yield

    def _read_with_model(self) -> list[TrialRecord]:
        names = self._remote.names(f"{self.name}/trial-*/*/{MODEL_FILE}")
        trials = {self._remote_model(trial): trial for trial in self.read_trials()}
        return [trials[name] for name in names if name in trials]

    def _drop_model(self, trial: TrialRecord) -> None:
        super()._drop_model(trial)
        self._remote.remove(self._remote_model(trial))

    def _remote_trial(self, number: int) -> str:
        return self._name(self.trial_folder(number))

    def _remote_model(self, trial: TrialRecord) -> str:
        return f"{self._remote_trial(trial.number)}/{trial.generation}/{MODEL_FILE}"

    def _name(self, path: Path) -> str:
        return f"{self.name}/{path.relative_to(self.root).as_posix()}"

    def _one_at_a_time(self) -> AbstractContextManager[object]:
        """Between this machine's processes: what one fetches, another may be writing."""
        self.root.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.root / ".mirror.lock")

    def _fetch(self, name: str) -> bool:
        return _fetch(self._remote, self.root.parent, f"{self.name}/{name}")

    def _fetch_trials(self) -> None:
        """Brings the copy's trials up to date."""
        names = self._remote.names(f"{self.name}/trial-*/{COMPLETE_FILE}")
        matches = (TRIAL_FOLDER.fullmatch(Path(name).parent.name) for name in names)
        there = {int(match[1]) for match in matches if match}
        for number, folder in self._trial_folders():
            if number not in there and super().holds_trial(number):
                shutil.rmtree(folder)
        for number in sorted(there):
            self._fetch_trial(number)

    def _fetch_trial(self, number: int) -> bool:
        """Fetches what is missing of a trial; false if it isn't whole.

        Raises:
            InputError: It is damaged.
        """
        with self._one_at_a_time():
            target, name = self.trial_folder(number), self._remote_trial(number)
            if not super().holds_trial(number):
                complete = self._remote.read(f"{name}/{COMPLETE_FILE}")
                if not complete:
                    return False
                if target.is_dir():  # a half, of a process that was killed
                    shutil.rmtree(target)
                generation = _generation(complete, where=f"{self._remote.url}/{name}/{COMPLETE_FILE}")
                with written_aside(target) as aside:
                    for part in _PARTS:
                        self._remote.get(f"{name}/{generation}/{part}", aside / part)
                    (aside / COMPLETE_FILE).write_bytes(complete)
            trial = self.read_trial(number)
            if self._with_models and trial.state == "complete" and not trial.has_model:
                self._remote.get(self._remote_model(trial), trial.model_file)
            return True


class _Sender:
    """Sends a checkpoint file whenever it has changed; a failure costs epochs, should the worker die, and no more."""

    def __init__(self, remote: Remote, file: Path, name: str) -> None:
        self._remote, self._file, self._name = remote, file, name
        self._sent, self._failed = 0, False

    def send_if_new(self) -> None:
        try:
            changed = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._sent:
            return
        try:
            self._remote.put(self._file, self._name)
            self._sent, self._failed = changed, False
        except LostError as error:
            if not self._failed:
                _log.warning("a checkpoint can't be sent: %s", error)
            self._failed = True


def _generation(complete: bytes, *, where: str) -> int:
    """The owner that a trial's `complete.json` names."""
    fields = parse_json(complete, where=where)
    if misfit := find_misfit(fields, {"generation": int}):
        raise InputError(f"{where} must name the trial's generation, but {misfit}. Restore it or remove its folder.")
    generation: int = fields["generation"]
    return generation


def _fetch(remote: Remote, root: Path, name: str) -> bool:
    """Fetches a file into a copy; removes it there if it is nowhere else."""
    if remote.get(name, root / name):
        return True
    (root / name).unlink(missing_ok=True)
    return False
