"""A finished trial, as its folder tells it: whatever lies in there, reading ends in a record or an `InputError`."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from core.files import read_csv, read_json
from core.npy import NpyError, read_npy
from core.shapes import NUMBER, find_misfit

FORMAT = 1  # of trials; raised when an older reader could misread it
STATES = ("complete", "pruned")
MODEL_FILE = "model.safetensors"
COMPLETE_FILE = "complete.json"  # written last
_COMPLETE = {
    "format": int,
    "number": int,
    "state": str,
    "recall": NUMBER,
    "recall_interval": (NUMBER, NUMBER),
    "recall_argmax": NUMBER,
    "best_epoch": int,
    "prior": [NUMBER],
    "elapsed_s": NUMBER,
    "reason": str,
}


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One finished trial.

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
        zeros: Share of the weights that learned, biases and norms left out, which are zero.
        generation: How many owners the trial had, the one that finished it included.
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
    zeros: float = 0.0
    generation: int = 1

    @property
    def model_file(self) -> Path:
        """The weights; deleted unless the trial is among the study's best."""
        return self.folder / MODEL_FILE

    @property
    def has_model(self) -> bool:
        """Whether the weights are still kept."""
        return self.model_file.is_file()

    def history(self) -> list[dict[str, float]]:
        """One row an epoch, all numbers; NaN is the recall of a class without images.

        Raises:
            InputError: `history.csv` is absent or damaged.
        """
        path = self.folder / "history.csv"
        try:
            return [{key: float(value) for key, value in row.items()} for row in read_csv(path)]
        except (ValueError, FileNotFoundError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} must have a row of numbers for each epoch, but it is damaged: {_reason(error)}. Restore it."
            ) from error

    def val_probs(self) -> npt.NDArray[np.float32]:
        """Uncorrected probabilities (N, C) of the study's validation rows, in the order of `split.csv`.

        Raises:
            InputError: `val_probs.npy` is absent or damaged.
        """
        return read_probs(self.folder / "val_probs.npy")


def read_probs(path: Path, dimensions: int = 2) -> npt.NDArray[np.float32]:
    """Probabilities (..., N, C) from a file of a study's folder, of so many dimensions.

    Raises:
        InputError: It is absent or damaged.
    """
    try:
        probs_NC = read_npy(path)
    except (NpyError, FileNotFoundError) as error:
        raise InputError(
            f"{path} must be an array of numbers, but it is damaged: {_reason(error)}. Restore it."
        ) from error
    if probs_NC.dtype != np.float32 or probs_NC.ndim != dimensions or not ((probs_NC >= 0) & (probs_NC <= 1.001)).all():
        raise InputError(
            f"{path} must be probabilities, a row of float32 for each image, but is {probs_NC.dtype} of shape "
            f"{probs_NC.shape} with values that may be out of 0 to 1. Restore it."
        )
    return probs_NC


def complete_fields(record: TrialRecord) -> dict[str, Any]:
    """What `complete.json` says of a trial."""
    fields = dataclasses.asdict(record)
    del fields["folder"], fields["config"]
    return {"format": FORMAT, **fields}


def read_trial(folder: Path, number: int) -> TrialRecord:
    """Reads a trial's folder, which has a `complete.json`.

    Raises:
        InputError: It is damaged, of a newer version, or another trial's.
    """
    if folder.is_symlink():
        raise _damaged(folder, "it is a link, and writing into it would change another folder")
    try:
        fields, config = read_json(folder / COMPLETE_FILE), read_json(folder / "config.json")
    except FileNotFoundError as error:
        raise _damaged(folder, _reason(error)) from error
    if isinstance(fields, dict) and isinstance(fields.get("format"), int) and fields["format"] > FORMAT:
        raise InputError(
            f"A trial must be of format {FORMAT} or older, but {folder} is of a newer one. Update this project, or use "
            "another folder with --studies."
        )
    if misfit := find_misfit(fields, _COMPLETE) or find_misfit(config, {}):
        raise _damaged(folder, misfit)
    known = {name: fields[name] for name in _COMPLETE if name != "format"}
    known["prior"], known["recall_interval"] = tuple(known["prior"]), tuple(known["recall_interval"])
    # Trials of before there were leases had one owner; those of before there was L1 have told of no zeros.
    later = {"generation": fields.get("generation", 1), "zeros": fields.get("zeros", 0.0)}
    record = TrialRecord(folder=folder, config=config, **later, **known)
    if fault := _find_fault(record, number):
        raise _damaged(folder, fault)
    return record


def _find_fault(record: TrialRecord, number: int) -> str:
    """What is wrong with the values, in words; empty if nothing is."""
    if record.number != number:
        return f"it says that it is trial {record.number}"
    if record.state not in STATES:
        return f"its state is none of {', '.join(STATES)}"
    if not 0 <= record.recall <= 1 or not 0 <= record.recall_argmax <= 1:
        return f"a recall is out of 0 to 1: {record.recall:g}, {record.recall_argmax:g}"
    if record.recall_interval[0] > record.recall_interval[1]:
        return "the interval of its recall ends before it begins"
    if not all(math.isfinite(value) and value >= 0 for value in (*record.prior, record.elapsed_s, record.best_epoch)):
        return "a number is below 0"
    for name, kind in (("generation", int), ("zeros", NUMBER)):
        if misfit := find_misfit(getattr(record, name), kind):
            return f"{name}: {misfit}"
    if not 0 <= record.zeros <= 1:
        return f"the share of zeros is out of 0 to 1: {record.zeros:g}"
    return ""


def _reason(error: Exception) -> str:
    return "it is not there" if isinstance(error, FileNotFoundError) else str(error)


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder} must be a whole trial, but it is damaged: {reason}. Remove the folder.")
