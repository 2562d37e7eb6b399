"""A trial that was trained again over folds, and one of its runs, as their folders tell it.

Shapes: S seeds, N training and validation rows, F folds, C classes.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.files import read_json
from core.metrics import correct_prior
from core.shapes import NUMBER, find_misfit
from core.trials import COMPLETE_FILE, FORMAT, MODEL_FILE, read_probs

PROBS_FILE, OOF_FILE = "probs.npy", "oof_probs.npy"
_RUN = {"format": int, "config": {str: object}, "epochs": int, "prior": [NUMBER], "elapsed_s": NUMBER}
_TRIAL = {
    "format": int,
    "number": int,
    "config": {str: object},
    "folds": int,
    "seeds": int,
    "epochs": int,
    "recall": NUMBER,
    "recall_interval": (NUMBER, NUMBER),
    "recall_argmax": NUMBER,
    "priors": [[[NUMBER]]],
    "elapsed_s": NUMBER,
}


@dataclass(frozen=True, kw_only=True)
class ConfirmedRun:
    """A trial's config, trained on all folds but one.

    Attributes:
        folder: Where it lies.
        config: Fields of the `TrainConfig` that ran.
        epochs: How many were trained.
        prior: Mean probability of each class on what it learned from (C,).
        elapsed_s: Seconds that it took.
    """

    folder: Path
    config: dict[str, Any]
    epochs: int
    prior: tuple[float, ...]
    elapsed_s: float

    @property
    def model_file(self) -> Path:
        """Its weights, if they were kept."""
        return self.folder / MODEL_FILE

    @property
    def has_model(self) -> bool:
        """Whether they were."""
        return self.model_file.is_file()

    def probs(self) -> npt.NDArray[np.float32]:
        """Uncorrected probabilities of the held-out rows, in the order of `folds.csv`."""
        return read_probs(self.folder / PROBS_FILE)

    @classmethod
    def read(cls, folder: Path) -> "ConfirmedRun":
        """Reads a run that is whole.

        Raises:
            InputError: It is damaged.
        """
        fields = _read_fields(folder, _RUN)
        if fault := _find_fault([*fields["prior"], fields["elapsed_s"]]):
            raise damaged(folder, fault)
        known = {name: fields[name] for name in _RUN if name != "format"}
        return cls(folder=folder, **{**known, "prior": tuple(fields["prior"])})


@dataclass(frozen=True, kw_only=True)
class ConfirmedTrial:
    """A trial that has been trained again over all folds.

    Attributes:
        number: Of the trial in its study.
        folder: Where it lies.
        config: Fields of the trial's `TrainConfig`; those of its runs differ in the seed.
        folds: F.
        seeds: S, runs of each fold.
        epochs: That each run was trained: as far as the trial's best one.
        recall: Macro recall on all rows, out of fold, after correction by the prior of the run: that of one network,
            the mean over seeds.
        recall_interval: Its 95 % interval, low and high, over lesions.
        recall_argmax: Macro recall of the plain argmax, likewise.
        priors: Class frequencies that each run learned (S, F, C).
        elapsed_s: Seconds that all its runs took.
    """

    number: int
    folder: Path
    config: dict[str, Any]
    folds: int
    seeds: int
    epochs: int
    recall: float
    recall_interval: tuple[float, float]
    recall_argmax: float
    priors: tuple[tuple[tuple[float, ...], ...], ...]
    elapsed_s: float

    def oof_probs(self) -> npt.NDArray[np.float32]:
        """Uncorrected probabilities (S, N, C) out of fold, rows in the order of `folds.csv`.

        Raises:
            InputError: They are damaged.
        """
        probs_SNC = read_probs(self.folder / OOF_FILE, dimensions=3)
        if len(probs_SNC) != self.seeds:
            raise damaged(self.folder, f"it has probabilities of {len(probs_SNC)} seeds instead of {self.seeds}")
        return probs_SNC

    def corrected(self, fold_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The same (S, N, C), each corrected by the prior of its run.

        Args:
            fold_N: The fold in which each row was held out.

        Raises:
            InputError: They are damaged, or of other rows.
        """
        probs_SNC, priors_SFC = self.oof_probs(), np.asarray(self.priors)
        if probs_SNC.shape[1:] != (len(fold_N), priors_SFC.shape[2]) or fold_N.max() >= priors_SFC.shape[1]:
            raise damaged(self.folder, "it is of other rows than those in folds.csv")
        return np.stack([correct_prior(p, prior_FC[fold_N]) for p, prior_FC in zip(probs_SNC, priors_SFC, strict=True)])

    @classmethod
    def read(cls, folder: Path, number: int) -> "ConfirmedTrial":
        """Reads a trial that is whole.

        Raises:
            InputError: It is damaged, of a newer version, or another trial's.
        """
        fields = _read_fields(folder, _TRIAL)
        if fields["number"] != number:
            raise damaged(folder, f"it says that it is trial {fields['number']}")
        interval = tuple(fields["recall_interval"])
        priors = tuple(tuple(map(tuple, of_seed)) for of_seed in fields["priors"])
        numbers = [fields["elapsed_s"], *(share for of_seed in priors for prior in of_seed for share in prior)]
        if fault := _find_fault(numbers, [fields["recall"], fields["recall_argmax"], *interval]):
            raise damaged(folder, fault)
        lengths = {len(of_seed) for of_seed in priors}
        if (
            len(priors) != fields["seeds"]
            or lengths != {fields["folds"]}
            or len({len(p) for s in priors for p in s}) != 1
        ):
            raise damaged(folder, "its priors aren't one for each seed and fold, or are of different lengths")
        known = {name: fields[name] for name in _TRIAL if name != "format"}
        return cls(folder=folder, **{**known, "recall_interval": interval, "priors": priors})


def complete_fields(record: ConfirmedRun | ConfirmedTrial) -> dict[str, Any]:
    """What `complete.json` says."""
    fields = dataclasses.asdict(record)
    del fields["folder"]
    return {"format": FORMAT, **fields}


def damaged(path: Path, reason: str) -> InputError:
    """What to say of something that nobody of ours has written."""
    return InputError(f"{path} must be what search.confirm wrote, but it is damaged: {reason}. Remove it.")


def _read_fields(folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """What `complete.json` says, of the shape that it must have."""
    fields: dict[str, Any] = read_json(folder / COMPLETE_FILE)
    if isinstance(fields, dict) and isinstance(fields.get("format"), int) and fields["format"] > FORMAT:
        raise InputError(
            f"What is confirmed must be of format {FORMAT} or older, but {folder} is of a newer one. Update this "
            "project."
        )
    if misfit := find_misfit(fields, shape):
        raise damaged(folder, misfit)
    return fields


def _find_fault(numbers: Sequence[float], shares: Sequence[float] = ()) -> str:
    """What is wrong with the values, in words; empty if nothing is."""
    if not all(math.isfinite(value) and value >= 0 for value in numbers):
        return "a number is below 0"
    return "" if all(0 <= share <= 1 for share in shares) else "a recall is out of 0 to 1"
