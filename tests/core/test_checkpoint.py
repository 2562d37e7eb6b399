"""A checkpoint that isn't whole is refused, so that its trial starts afresh."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import CheckpointError, RunState, load_checkpoint, save_checkpoint
from core.config import TrainConfig
from core.files import read_tensors_with_metadata, write_tensors
from core.optim import build_optimizer

HISTORY = [{"epoch": 0, "val_recall": 0.5, "val_recall_a": float("nan")}]
Change = Callable[[dict[str, Any], dict[str, str]], object]


class Run:
    """A model in the middle of its training."""

    def __init__(self, optimizer: str = "adamw") -> None:
        self.config = TrainConfig(arch="a", image_size=32, lr=0.01, epochs=3, optimizer=optimizer)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        self.optimizer = build_optimizer(self.config, self.model)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        self.optimizer.step()

    def parts(self) -> dict[str, Any]:
        return {"config": self.config, "model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self, path: Path) -> Path:
        state = RunState(history=HISTORY, best_epoch=0, elapsed_s=1.5)
        state.best_model = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        state.best_tensors = {"val_probs": torch.rand(5, 2), "prior": torch.rand(2, dtype=torch.float64)}
        save_checkpoint(path, state=state, **self.parts())
        return path

    def load(self, path: Path) -> RunState:
        return load_checkpoint(path, **self.parts())


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_run_goes_on_with_the_numbers_of_one_that_was_not_interrupted(tmp_path: Path, optimizer: str) -> None:
    first = Run(optimizer)
    path = first.save(tmp_path / "run.safetensors")
    second = Run(optimizer)
    state = second.load(path)
    assert (len(state.history), state.best_epoch, state.elapsed_s) == (1, 0, 1.5)
    first.step(), second.step()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def drop(name: str) -> Change:
    return lambda tensors, facts: (tensors.pop(name, None), facts.pop(name, None))


def tell(name: str, value: Any) -> Change:
    return lambda tensors, facts: facts.update({name: value if isinstance(value, str) else json.dumps(value)})


def put(name: str, tensor: torch.Tensor) -> Change:
    return lambda tensors, facts: tensors.update({name: tensor})


CHANGES = {
    "no model": drop("model.0.weight"),
    "a model of another shape": put("model.0.weight", torch.ones(9, 9)),
    "a model of another type": put("model.0.weight", torch.ones(4, 3, dtype=torch.float16)),
    "a tensor too many": put("model.9.weight", torch.ones(1)),
    "no best model": drop("best.0.bias"),
    "no probabilities": drop("best.val_probs"),
    "probabilities that are a vector": put("best.val_probs", torch.ones(5)),
    "probabilities of another type": put("best.val_probs", torch.ones(5, 2, dtype=torch.bfloat16)),
    "no history": drop("history"),
    "a history that is no JSON": tell("history", "["),
    "a history that is deep": tell("history", "[" * 100_000),
    "a history of other columns": tell("history", [*HISTORY, {"epoch": 1, "val_recall": 0.5}]),
    "a history of text": tell("history", [{"epoch": 0, "val_recall": "0.5"}]),
    "a history of other epochs": tell("history", [{**HISTORY[0], "epoch": 7}]),
    "a history that is over": tell("history", [{**HISTORY[0], "epoch": epoch} for epoch in range(3)]),
    "an empty history": tell("history", []),
    "a best epoch to come": tell("best_epoch", "1"),
    "a best epoch of 5,000 digits": tell("best_epoch", "9" * 5000),
    "no time": tell("elapsed_s", "nan"),
    "no scaler": drop("scaler"),
    "a moment of another shape": put("optimizer.0.exp_avg", torch.ones(1)),
    "a moment of whole numbers": put("optimizer.0.exp_avg", torch.ones(4, 3, dtype=torch.int64)),
    "half of the moments": drop("optimizer.0.exp_avg_sq"),
    "moments of no parameter": put("optimizer.99.exp_avg", torch.ones(1)),
    "moments of a parameter below 0": put("optimizer.-1.exp_avg", torch.ones(2)),
    "moments of nothing": put("optimizer.x", torch.ones(1)),
    "another optimiser's": put("optimizer.0.momentum_buffer", torch.ones(4, 3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path, name: str) -> None:
    run = Run()
    path = run.save(tmp_path / "run.safetensors")
    tensors, facts = read_tensors_with_metadata(path)
    CHANGES[name](tensors, facts)
    write_tensors(path, tensors, facts)
    with pytest.raises(CheckpointError, match=r"must be the whole state of a run, but it is damaged \(.*Remove it"):
        run.load(path)


def test_a_checkpoint_of_before_a_field_was_there_goes_on(tmp_path: Path) -> None:
    run = Run()
    path = run.save(tmp_path / "run.safetensors")
    tensors, facts = read_tensors_with_metadata(path)
    fields = json.loads(facts["config"])
    assert fields.pop("cutmix") == 0.0
    write_tensors(path, tensors, {**facts, "config": json.dumps(fields)})
    assert len(run.load(path).history) == 1
    run.config = dataclasses.replace(run.config, cutmix=0.5)
    with pytest.raises(CheckpointError, match="must be of the same config as the run"):
        run.load(path)


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    run = Run()
    path = run.save(tmp_path / "run.safetensors")
    run.config = dataclasses.replace(run.config, lr=0.02)
    with pytest.raises(CheckpointError, match="must be of the same config as the run"):
        run.load(path)
