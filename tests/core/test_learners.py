"""The learning part is compiled once a depth, whatever the values; where it can't be compiled it is trained as it is.

Each test has a process of its own: Dynamo changes how Python runs, and the other tests are to run as users run it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.learners import compiler_for

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import dataclasses, json, logging, sys
import numpy as np, torch
from core.archs import resolve_arch
from core.config import TrainConfig
from core.learners import _Compiled
from core.trainer import TrainData, Trainer
from tests.doubles import ArraySource

graphs = []

def counting(graph, inputs):
    graphs.append(graph)
    return graph.forward

def failing(graph, inputs):
    raise OSError("no C compiler")

def compiler(backend):
    return lambda learner: torch.compile(learner, backend=backend, fullgraph=True)

def trainer(compiler, name="test_efficientnet"):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 3
    source = ArraySource(torch.from_numpy(rng.integers(0, 255, (80, 3, 37, 37)).astype(np.uint8)), labels)
    data = TrainData(
        source=source, labels=labels, train_rows=np.arange(64), val_rows=np.arange(64, 80), classes=("a", "b", "c")
    )
    arch = dataclasses.replace(resolve_arch(name), image_size=32)
    return Trainer(arch=arch, weights=None, data=data, device=torch.device("cpu"), seed=0, compiler=compiler)

def losses(trainer, **values):
    fixed = {"arch": trainer.arch.timm_name, "image_size": 32, "epochs": 1}
    result = trainer.train(TrainConfig.from_dict(fixed | values), lambda epoch: None)
    return [row["train_loss"] for row in result.history]
"""
VALUES = """
compiled, plain = trainer(compiler(counting)), trainer(None)
deepest = plain.model.max_unfreeze_depth
same = []
for number in range(2 * (deepest + 1)):
    values = {
        "unfreeze_depth": number % (deepest + 1),
        "batch_size": (16, 24, 32)[number % 3],  # 64 images leave 16 behind two batches of 24
        "drop_rate": 0.01 * number,
        "augment_strength": (0.5, 1.5)[number // (deepest + 1)],
        "label_smoothing": 0.01 * number,
        "weight_decay": 0.001 * (number + 1),
        "lr": 1e-3 * (number + 1),
    }
    same.append(losses(compiled, **values) == losses(plain, **values))
print(json.dumps({"same": all(same), "graphs": len(graphs), "depths": deepest + 1}))
"""
PARTS = """
compiled, plain = trainer(compiler(counting)), trainer(None)
# PyTorch asks on the CPU whether there are 16 images, for a kernel that has to pay: no part is smaller.
wanted = TrainConfig(arch="test_efficientnet", image_size=32, lr=1e-3, batch_size=64, unfreeze_depth=1, drop_rate=0.3)
same = []
for parts in (1, 2, 4):
    ours, theirs = (
        each.prepare(wanted, parts=parts).train_rows_in_order(each.data.train_rows, 0)[0] for each in (compiled, plain)
    )
    same.append(bool((ours == theirs).all()))
print(json.dumps({"same": all(same), "graphs": len(graphs)}))
"""
PATHS = """
compiled, plain = trainer(compiler(counting), "test_convnext"), trainer(None, "test_convnext")
same = []
for drop_path in (0.1, 0.0, 0.5, 0.3):
    values = {"unfreeze_depth": 2, "batch_size": 16, "lr": 1e-3, "drop_path": drop_path}
    same.append(losses(compiled, **values) == losses(plain, **values))
print(json.dumps({"same": all(same), "graphs": len(graphs)}))
"""
DEPTHS = """
def half(columns):
    weight = torch.randn(columns, 3)

    def second_half(inputs, drawn):
        return (inputs * drawn) @ weight

    return second_half

for columns in range(1, 13):
    _Compiled(half(columns), compiler(counting), depth=columns)(torch.randn(4, columns), torch.rand(4, columns))
print(json.dumps({"graphs": len(graphs)}))
"""
FAILURE = """
logging.basicConfig(stream=sys.stderr)
values = {"unfreeze_depth": 2, "batch_size": 16, "lr": 1e-3, "drop_rate": 0.3}
print(json.dumps({"same": losses(trainer(compiler(failing)), **values) == losses(trainer(None), **values)}))
"""


def run(script: str) -> tuple[dict[str, Any], str]:
    """What a script printed as JSON, and its log."""
    command = [sys.executable, "-c", SETUP + script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_one_graph_a_depth_serves_all_values_and_changes_no_number() -> None:
    found, _ = run(VALUES)
    assert found["same"]
    assert 0 < found["graphs"] <= found["depths"]


def test_the_graph_of_whole_batches_serves_parts_of_them() -> None:
    found, _ = run(PARTS)
    assert found == {"same": True, "graphs": 1}


@pytest.mark.slow
def test_one_graph_serves_all_rates_of_stochastic_depth() -> None:
    found, _ = run(PATHS)
    assert found == {"same": True, "graphs": 2}, "one without it, and one for all rates"


def test_more_depths_than_dynamo_keeps_graphs_of_one_function() -> None:
    found, log = run(DEPTHS)
    assert found["graphs"] == 12, "Dynamo keeps eight graphs of one function"
    assert "without torch.compile" not in log


def test_what_cannot_be_compiled_is_trained_as_it_is_and_said_once() -> None:
    found, log = run(FAILURE)
    assert found["same"]
    assert log.count("depth 2 is trained without torch.compile") == 1
    assert "no C compiler" in log


def test_a_cpu_compiles_nothing() -> None:
    assert compiler_for(torch.device("cpu")) is None
