"""Activations on disk: who uses what is known to the index, though it is not written at every use."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.activations import Kind
from core.disk_tier import DiskTier

CPU = torch.device("cpu")
KIND = Kind(rows=4, item=(3,), dtype=torch.float32, saved_s=100.0)


def fill(tier: DiskTier, key: str) -> None:
    filling = tier.fill(key, KIND)
    assert filling is not None
    with filling as target:
        target.put(np.arange(4), torch.arange(12.0).view(4, 3))


def uses(folder: Path) -> dict[str, int]:
    return {key: held["uses"] for key, held in json.loads((folder / "index.json").read_text())["holdings"].items()}


def test_uses_reach_the_index_with_the_next_set_or_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = DiskTier(tmp_path, CPU, 10**6)
    fill(tier, "a")
    for _ in range(3):
        assert tier.find("a", KIND) is not None
    assert uses(tmp_path) == {"a": 1}, "no use is worth a write of its own"
    fill(tier, "b")
    assert uses(tmp_path) == {"a": 4, "b": 1}
    monkeypatch.setattr("core.disk_tier._COUNT_USES_S", 0.0)
    assert tier.find("b", KIND) is not None
    assert uses(tmp_path) == {"a": 4, "b": 2}


def test_a_set_gives_back_what_was_put_in_any_order(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, CPU, 10**6)
    fill(tier, "a")
    found = DiskTier(tmp_path, CPU, 10**6).find("a", KIND)
    assert found is not None
    batches = list(found.batches(np.array([3, 0, 2]), 2))
    assert [batch.tolist() for batch in batches] == [[[9, 10, 11], [0, 1, 2]], [[6, 7, 8]]]
