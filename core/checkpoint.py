"""A run's resumable state at the end of an epoch, as safetensors and never as pickle, and when to write it.

Everything random in a run is derived from (seed, trial, epoch), so no generator's state needs saving: a resumed run
repeats nothing but the epoch it was interrupted in, and gives the same numbers as an undisturbed one; on a card up to
rounding where something is frozen (docs/decisions/0012).
"""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.averaging import WeightAverage
from core.config import TrainConfig
from core.errors import InputError, one_line, shorten
from core.files import read_metadata, read_tensors_with_metadata, write_tensors
from core.optimizer_state import load_optimizer, optimizer_tensors
from core.shapes import NUMBER, find_misfit

_MODEL, _AVERAGE, _BEST, _OPTIMIZER, _SCALER = "model.", "average.", "best.", "optimizer.", "scaler"
_BELIEFS = "beliefs"

MOST_REPEATED_S = 30.0


class CheckpointError(InputError):
    """A checkpoint that a run cannot go on from."""


class Saving:
    """Decides when a checkpoint is worth its time, from what the last one took.

    Args:
        share: Of the time between two checkpoints that the second may take.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._cost_s = 0.1  # until it has been measured: 40 MB to an ordinary disk
        self._since = time.perf_counter()

    def is_due(self) -> bool:
        """Whether the time since the last one pays for the next, or is more than may be repeated."""
        waited_s = time.perf_counter() - self._since
        return self._cost_s <= self._share * waited_s or waited_s >= MOST_REPEATED_S

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        now = time.perf_counter()
        self._cost_s, self._since = now - self._since, now


@dataclasses.dataclass(kw_only=True)
class RunState:
    """Where a run stands between two epochs.

    Attributes:
        history: One row an epoch, as `history.csv` has them.
        best_epoch: Epoch of the best validation recall so far; -1 before the first.
        best_model: State dict of that epoch, on the CPU.
        best_tensors: `val_probs` (N, C) and `prior` (C,) of that epoch.
        elapsed_s: Seconds of training and validation so far.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = -1
    best_model: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    best_tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    elapsed_s: float = 0.0

    @property
    def next_epoch(self) -> int:
        """The epoch to train next, counted from 0."""
        return len(self.history)


def save_checkpoint(
    path: Path,
    *,
    config: TrainConfig,
    state: RunState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None = None,
    beliefs_C: torch.Tensor | None = None,
) -> None:
    """Writes everything that a run needs to go on, aside and renamed."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {_AVERAGE + name: tensor for name, tensor in average.tensors.items()}
    if beliefs_C is not None:
        tensors[_BELIEFS] = beliefs_C
    tensors |= {_BEST + name: tensor for name, tensor in (state.best_model | state.best_tensors).items()}
    tensors |= {_OPTIMIZER + name: tensor for name, tensor in optimizer_tensors(optimizer).items()}
    metadata = {
        "config": json.dumps(config.to_dict()),
        "history": json.dumps(state.history),
        "best_epoch": str(state.best_epoch),
        "best_tensors": json.dumps(list(state.best_tensors)),
        "elapsed_s": str(state.elapsed_s),
        _SCALER: json.dumps(scaler.state_dict()),
    }
    write_tensors(path, tensors, metadata)


def epochs_in(path: Path) -> int:
    """Epochs that a checkpoint covers, as it says itself; 0 if there is none, or it is damaged."""
    try:
        history = json.loads(read_metadata(path)["history"]) if path.is_file() else []
    except (InputError, LookupError, ValueError, RecursionError):
        return 0
    return len(history) if isinstance(history, list) else 0


def load_checkpoint(
    path: Path,
    *,
    config: TrainConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None = None,
    beliefs_C: torch.Tensor | None = None,
) -> RunState:
    """Brings `model`, `optimizer`, `scaler`, `average` and `beliefs_C` back to the end of the last epoch.

    Raises:
        CheckpointError: The file is damaged or of another config.
    """
    try:
        tensors, metadata = read_tensors_with_metadata(path)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if not _is_of(metadata, config):
        raise CheckpointError(f"{path} must be of the same config as the run, but is not. Remove it to start afresh.")
    try:
        state = _read_state(tensors, metadata, config.epochs)
        _check_tensors(_under(_MODEL, tensors), model)
        _check_tensors(state.best_model, model)
        model.load_state_dict(_under(_MODEL, tensors))
        if average is not None:
            average.load(_under(_AVERAGE, tensors))
        if beliefs_C is not None:
            beliefs_C.copy_(tensors[_BELIEFS])
        load_optimizer(optimizer, _under(_OPTIMIZER, tensors))
        scaler.load_state_dict(json.loads(metadata[_SCALER]))
    # Of a damaged file anything may be missing or of another kind.
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} must be the whole state of a run, but it is damaged ({type(error).__name__}: "
            f"{shorten(one_line(str(error)))}). Remove it to start afresh."
        ) from error
    return state


def _is_of(metadata: Mapping[str, str], config: TrainConfig) -> bool:
    """Whether a checkpoint is of a config. Fields that came after it was written are off by default."""
    try:
        return TrainConfig.from_dict(json.loads(metadata["config"])) == config
    except (AttributeError, InputError, LookupError, TypeError, ValueError, RecursionError):
        return False


def _read_state(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], epochs: int) -> RunState:
    history = json.loads(metadata["history"])
    if misfit := find_misfit(history, [{"epoch": int, "val_recall": float}]):
        raise ValueError(f"history: {misfit}")
    if any(row.keys() != history[0].keys() or find_misfit(row, {str: NUMBER}) for row in history):
        raise ValueError("the rows of its history differ")
    best = _under(_BEST, tensors)
    best_tensors = {name: best.pop(name) for name in json.loads(metadata["best_tensors"])}
    kinds = [(best_tensors[name].ndim, best_tensors[name].dtype) for name in ("val_probs", "prior")]
    if kinds != [(2, torch.float32), (1, torch.float64)]:
        raise ValueError("val_probs and prior must be a matrix and a vector")
    state = RunState(
        history=history,
        best_epoch=int(metadata["best_epoch"]),
        best_model=best,
        best_tensors=best_tensors,
        elapsed_s=float(metadata["elapsed_s"]),
    )
    if [row["epoch"] for row in history] != list(range(len(history))) or len(history) >= epochs:
        raise ValueError("its epochs are not those of the run")
    if not 0 <= state.best_epoch < len(history) or not 0 <= state.elapsed_s < math.inf:
        raise ValueError(f"best_epoch is {state.best_epoch}, elapsed_s is {state.elapsed_s}")
    return state


def _check_tensors(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Refuses tensors that would not replace every one of the model's by one alike."""
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise ValueError("its tensors are not those of the model")


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
