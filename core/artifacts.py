"""Everything under `studies/`: its one reader and writer.

    studies/
        weights/HASH.safetensors     backbones' first weights, shared by studies
        test_openings.jsonl          who opened which test split when
        STUDY/study.json             what the study is; written once
        STUDY/split.csv              image, label, group, split
        STUDY/summary.json           what its search found
        STUDY/trial-0012/            config.json, history.csv, val_probs.npy, model.safetensors, complete.json
        STUDY/running/               checkpoints of trials under way, who runs them, and which workers there are
        STUDY/set-aside/             folders of trials that are not whole
        STUDY/confirmed/             trials that were trained again over folds: core.confirmed_folder

A trial's folder is written aside and renamed, and `complete.json` lies in it last: a folder with it is whole, one
without it never counts. Files are JSON, CSV, safetensors and npy without objects: reading a folder from a colleague
cannot run code.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.durations import utc
from core.errors import InputError, one_line
from core.study_folder import STUDY_FORMAT as STUDY_FORMAT
from core.study_folder import StudyFolder as StudyFolder
from core.trials import TrialRecord as TrialRecord

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED_NAMES = ("artifacts", "ensemble", "weights", "journal.log", "journal.log.lock", "test_openings.jsonl")
_HASH = re.compile(r"[0-9a-f]{64}")
_NOTED_DIGITS = 16  # of an image's hash: 64 bits tell millions of images apart, and an opening of 1,500 takes 30 kB

_log = logging.getLogger(__name__)


class StudiesFolder:
    """The folder that `search` and `ensemble` meet in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """What a command is told to find it."""
        return str(self.root)

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
        if not _is_study_name(name):
            raise InputError(
                "A study's name must be letters, digits, '.', '_' and '-', start with a letter or digit, have at most "
                f"100 characters and not be one of {', '.join(_RESERVED_NAMES)}, but got {name!r}. Choose another."
            )
        return StudyFolder(self.root / name)

    def read_studies(self) -> list[StudyFolder]:
        """All studies that have been started here, by name; folders of other names can be none of ours."""
        names = sorted(self._names())
        for name in names:
            if not _is_study_name(name):
                _log.warning("%s has a name that no study has, and is passed over", one_line(f"{self.place}/{name}"))
        return [self.study(name) for name in names if _is_study_name(name)]

    def _names(self) -> list[str]:
        """Of the folders that have a `study.json`."""
        return [path.parent.name for path in self.root.glob("*/study.json")]

    def publish(self, path: Path) -> None:
        """Shows others a file or folder in here that is whole now. They read the same folder."""

    def names_in(self, path: Path) -> list[str]:
        """What lies in a folder in here and below it, relative to it, with slashes."""
        return sorted(inside.relative_to(path).as_posix() for inside in path.rglob("*"))

    def remove(self, path: Path) -> None:
        """Removes a file or a folder in here, or a link, for all who share it."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def age_s(self, path: Path) -> float:
        """Seconds since a file in here was written."""
        return time.time() - path.stat().st_mtime

    def sync_pictures(self) -> None:
        """Shares the pictures of the artifact store. Others read the same folder."""

    def weights_file(self, tensor_hash: str) -> Path:
        """Where backbone weights with this hash lie, shared by all studies.

        Raises:
            InputError: It is no hash.
        """
        if not _HASH.fullmatch(tensor_hash):
            raise InputError(
                f"The hash of weights must be 64 hexadecimal digits, but got {tensor_hash!r:.80}. Restore study.json."
            )
        return self.root / "weights" / f"{tensor_hash}.safetensors"

    def log_test_opening(self, test_fingerprint: str, image_hashes: Sequence[str], command: str) -> int:
        """Notes that a test split is being opened, for good.

        Args:
            test_fingerprint: Fingerprint of the test rows, their labels and groups included.
            image_hashes: Hash of each of its images' bytes, hexadecimal.
            command: Who opens it.

        Returns:
            How often this test split, or some of its images, has been opened here, this time counted in. A line that a
            power cut tore doesn't count: the split is opened only once its line is whole.
        """
        entry = opening_entry(test_fingerprint, image_hashes, command)
        path = self.root / "test_openings.jsonl"
        before = path.read_bytes() if path.exists() else b""
        with path.open("ab") as file:
            torn = before and not before.endswith(b"\n")
            file.write(b"\n" * bool(torn) + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return 1 + sum(is_opening(line, entry) for line in before.splitlines())


def _is_study_name(name: str) -> bool:
    return bool(_STUDY_NAME.fullmatch(name)) and name not in _RESERVED_NAMES


def opening_entry(test_fingerprint: str, image_hashes: Sequence[str], command: str) -> dict[str, Any]:
    """What is noted of an opening of the test split; see `StudiesFolder.log_test_opening`."""
    images = sorted({image[:_NOTED_DIGITS] for image in image_hashes})
    return {"test": test_fingerprint, "command": command, "utc": utc(), "images": images}


def is_opening(line: bytes, entry: Mapping[str, Any]) -> bool:
    """Whether a line tells of an opening of the test split that an entry is of, or of some of its images.

    The fingerprint alone would miss those from before a label was corrected. Lines of older versions have nothing else.
    """
    try:
        before = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(before, dict):
        return False
    seen = before.get("images")
    images = {each for each in seen if isinstance(each, str)} if isinstance(seen, list) else set()
    return before.get("test") == entry["test"] or not images.isdisjoint(entry["images"])
