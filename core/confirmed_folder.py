"""What confirming a study's trials leaves in its folder: its one reader and writer.

    STUDY/confirmed/
        folds.csv                 image, label, group, fold: the rows of every array here, in this order
        summary.json              what it found
        running/                  the state of the run under way
        trial-0012/               oof_probs.npy, complete.json
        trial-0012/fold-0-seed-0/ one run: probs.npy of its held-out rows, model.safetensors if asked for, complete.json

A run is written aside and renamed. A run, and a trial, count once their `complete.json` is there.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from core.confirmed import OOF_FILE, PROBS_FILE, ConfirmedRun, ConfirmedTrial, complete_fields, damaged
from core.errors import InputError
from core.files import (
    read_csv,
    read_json,
    remove_leftovers,
    write_array,
    write_csv,
    write_json,
    write_tensors,
    written_aside,
)
from core.trials import COMPLETE_FILE, MODEL_FILE

_TRIAL_FOLDER = re.compile(r"trial-(\d{4,9})")
_FOLD_COLUMNS = {"image", "label", "group", "fold"}


class ConfirmedFolder:
    """What has been confirmed of one study.

    Args:
        root: `STUDY/confirmed`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other commands out. The system lets them in once this process has ended, however it ends.

        Raises:
            InputError: Another one is at work, or the folder is a link.
        """
        if self.root.is_symlink():
            raise damaged(self.root, "it is a link, and writing into it would change another folder")
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / ".lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(
                f"The trials of {self.root.parent.name} must be confirmed by one command at a time, but another is at "
                "it. Wait for its end, or name other studies with --study."
            ) from error
        try:
            for folder in (self.root, self.running, *self.root.glob("trial-*")):
                remove_leftovers(folder, older_than_s=0)  # nobody else writes here
            yield
        finally:
            lock.release()

    def read_folds(self) -> list[dict[str, str]]:
        """Rows of image, label, group, fold; none before anything was confirmed.

        Raises:
            InputError: `folds.csv` is damaged.
        """
        path = self.root / "folds.csv"
        rows = read_csv(path) if path.is_file() else []
        if rows and (set(rows[0]) != _FOLD_COLUMNS or not all(row["fold"].isdecimal() for row in rows)):
            raise damaged(path, "it must have the columns image, label, group and fold, a number")
        return rows

    def write_folds(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Says which row is held out in which fold."""
        write_csv(self.root / "folds.csv", rows)

    def read_summary(self) -> Any:
        """What was found, whatever shape somebody may have given it; empty before that."""
        path = self.root / "summary.json"
        return read_json(path) if path.is_file() else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replaces what was found."""
        write_json(self.root / "summary.json", summary)

    def trial_folder(self, number: int) -> Path:
        """Where a trial lies."""
        return self.root / f"trial-{number:04d}"

    def run_folder(self, number: int, fold: int, seed: int) -> Path:
        """Where a run lies; folds and seeds are counted from 0."""
        return self.trial_folder(number) / f"fold-{fold}-seed-{seed}"

    @property
    def running(self) -> Path:
        """Where the state of the run under way is kept."""
        return self.root / "running"

    def checkpoint_file(self, number: int, fold: int, seed: int) -> Path:
        """The resumable state of a run."""
        return self.running / f"trial-{number:04d}-fold-{fold}-seed-{seed}.safetensors"

    def read_run(self, number: int, fold: int, seed: int) -> ConfirmedRun | None:
        """A run that is whole; None for one that isn't there.

        Raises:
            InputError: It is damaged.
        """
        folder = self.run_folder(number, fold, seed)
        return ConfirmedRun.read(folder) if (folder / COMPLETE_FILE).is_file() else None

    def write_run(self, run: ConfirmedRun, probs_NC: npt.NDArray[np.float32], model: Mapping[str, Any] | None) -> None:
        """Writes a run into its `folder`, whole or not at all, in place of one that was there.

        A trial that is confirmed stays so beside a run that is new, such as one of a further seed.

        Args:
            run: What is known of it.
            probs_NC: Probabilities of the held-out rows.
            model: State dict, or None to keep no weights.
        """
        with written_aside(run.folder, replacing=_in_place_of(run.folder)) as aside:
            aside.mkdir()
            write_array(aside / PROBS_FILE, probs_NC)
            if model is not None:
                write_tensors(aside / MODEL_FILE, model)
            write_json(aside / COMPLETE_FILE, complete_fields(run))

    def write_trial(self, trial: ConfirmedTrial, oof_probs_SNC: npt.NDArray[np.float32]) -> None:
        """Writes what a trial's runs amount to into its `folder`, in place of what fewer of them did."""
        (trial.folder / COMPLETE_FILE).unlink(missing_ok=True)  # or it would speak of other probabilities
        write_array(trial.folder / OOF_FILE, oof_probs_SNC)
        write_json(trial.folder / COMPLETE_FILE, complete_fields(trial))

    @property
    def has_trials(self) -> bool:
        """Whether any has been confirmed."""
        return any(self.root.glob(f"trial-*/{COMPLETE_FILE}"))

    def read_trial(self, number: int) -> ConfirmedTrial | None:
        """A trial that is whole; None for one that isn't.

        Raises:
            InputError: It is damaged, or of a newer version.
        """
        folder = self.trial_folder(number)
        return ConfirmedTrial.read(folder, number) if (folder / COMPLETE_FILE).is_file() else None

    def read_trials(self) -> list[ConfirmedTrial]:
        """All trials that are whole, by number.

        Raises:
            InputError: One is damaged, or of a newer version.
        """
        matches = [_TRIAL_FOLDER.fullmatch(path.name) for path in self.root.glob("trial-*")]
        trials = [self.read_trial(number) for number in sorted(int(match[1]) for match in matches if match)]
        return [trial for trial in trials if trial is not None]


@contextmanager
def _in_place_of(folder: Path) -> Iterator[None]:
    """The moment in which a run's folder gets its name."""
    if folder.is_dir():
        # First the trial and then the run stop counting, so that nobody killed in between leaves what speaks of a run
        # that isn't here, or half of one that counts.
        for speaking_of_it in (folder.parent, folder):
            (speaking_of_it / COMPLETE_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)
    yield
