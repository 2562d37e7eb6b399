"""A run's resumable state at the end of an epoch, as safetensors and never as pickle.

Everything random in a run is derived from (seed, trial, epoch), so no generator's state needs saving: a resumed run
repeats nothing but the epoch it was interrupted in, and gives the same numbers as an undisturbed one.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.config import TrainConfig
from core.errors import InputError
from core.files import read_tensors_with_metadata, write_tensors

_MODEL, _BEST, _OPTIMIZER, _SCALER = "model.", "best.", "optimizer.", "scaler"


class CheckpointError(InputError):
    """A checkpoint that a run cannot go on from."""


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
) -> None:
    """Writes everything that a run needs to go on, aside and renamed."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    tensors |= {_BEST + name: tensor for name, tensor in (state.best_model | state.best_tensors).items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{slot}": tensor for slot, tensor in slots.items()}
    metadata = {
        "config": json.dumps(config.to_dict()),
        "history": json.dumps(state.history),
        "best_epoch": str(state.best_epoch),
        "best_tensors": json.dumps(list(state.best_tensors)),
        "elapsed_s": str(state.elapsed_s),
        _SCALER: json.dumps(scaler.state_dict()),
    }
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path,
    *,
    config: TrainConfig,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> RunState:
    """Brings `model`, `optimizer` and `scaler` back to the end of the last epoch.

    Raises:
        CheckpointError: The file is damaged or of another config.
    """
    try:
        tensors, metadata = read_tensors_with_metadata(path)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    if metadata.get("config") != json.dumps(config.to_dict()):
        raise CheckpointError(f"{path} must be of the same config as the run, but is not. Remove it to start afresh.")
    model.load_state_dict(_under(_MODEL, tensors))
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under(_OPTIMIZER, tensors).items():
        index, slot = name.split(".")
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    _lay_out_as_parameters(optimizer)
    scaler.load_state_dict(json.loads(metadata[_SCALER]))
    best = _under(_BEST, tensors)
    best_tensors = {name: best.pop(name) for name in json.loads(metadata["best_tensors"])}
    return RunState(
        history=json.loads(metadata["history"]),
        best_epoch=int(metadata["best_epoch"]),
        best_model=best,
        best_tensors=best_tensors,
        elapsed_s=float(metadata["elapsed_s"]),
    )


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives each moment the memory layout of its parameter.

    Files hold tensors row by row, kernels are channels_last here, and fused optimisers walk both by address without
    looking at strides: a moment in the other layout would be applied to the wrong weights, in silence.
    """
    for parameter, slots in optimizer.state.items():
        for name, moment in slots.items():
            if moment.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
