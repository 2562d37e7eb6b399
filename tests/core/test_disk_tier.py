"""Activations on disk: who uses what is known to the index, though it is not written at every use."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.activations import Activations, BusyError, Kind, MemoryTier
from core.disk_tier import DiskTier
from core.errors import InputError

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


def test_a_lower_limit_holds_for_what_is_there_already(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, CPU, 10**6)
    for key in "abc":
        fill(tier, key)
    assert tier.find("b", KIND) is not None
    tier._counted = 0.0
    tier._note_use("b")

    DiskTier(tmp_path, CPU, 2 * KIND.size)
    assert len(uses(tmp_path)) == 2
    DiskTier(tmp_path, CPU, 2 * KIND.size - 1)

    assert [file.name for file in tmp_path.glob("*.act")] == ["b.act"], "what is used most stays longest"
    assert uses(tmp_path).keys() == {"b"}


@pytest.fixture(params=["at once", "item by item"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets are read whole, large ones as they are asked for."""
    if request.param == "item by item":
        monkeypatch.setattr("core.disk_tier._AT_ONCE", 0)


@pytest.mark.usefixtures("_either_way")
def test_a_set_gives_back_what_was_put_in_any_order(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, CPU, 10**6)
    fill(tier, "a")
    found = DiskTier(tmp_path, CPU, 10**6).find("a", KIND)
    assert found is not None
    batches = list(found.batches(np.array([3, 0, 2]), 2))
    assert [batch.tolist() for batch in batches] == [[[9, 10, 11], [0, 1, 2]], [[6, 7, 8]]]


@pytest.mark.usefixtures("_either_way")
def test_a_set_that_was_cut_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, CPU, 10**6)
    fill(tier, "a")
    found = tier.find("a", KIND)
    assert found is not None
    os.truncate(tmp_path / "a.act", 20)
    with pytest.raises(InputError, match="must stay as they were written, but"):
        list(found.batches(np.arange(4), 2))


DIE = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from core.disk_tier import DiskTier
from tests.core.test_disk_tier import KIND
with DiskTier(Path(sys.argv[1]), torch.device("cpu"), 100).fill("a", KIND) as filling:
    filling.put(np.arange(2), torch.zeros(2, 3))
    os.kill(os.getpid(), signal.SIGKILL)
"""
ROOT = Path(__file__).resolve().parents[2]


def test_the_room_of_a_process_that_was_killed_is_free_for_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "a.lock").exists()
    tier = DiskTier(tmp_path, CPU, KIND.size)  # room for one set
    fill(tier, "b")
    assert tier.find("b", KIND) is not None
    assert uses(tmp_path) == {"b": 1}
    assert {file.name for file in tmp_path.iterdir()} <= {"b.act", "index.json", ".lock"}, "the limit is the folder's"


def test_a_set_that_is_begun_again_leaves_nothing_of_the_first_try(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], cwd=ROOT, check=False, capture_output=True)
    tier = DiskTier(tmp_path, CPU, KIND.size)
    fill(tier, "a")
    assert tier.find("a", KIND) is not None
    assert {file.name for file in tmp_path.iterdir()} <= {"a.act", "index.json", ".lock"}


def test_what_another_process_computes_is_not_kept_a_second_time(tmp_path: Path) -> None:
    one, other = DiskTier(tmp_path, CPU, 10**6), DiskTier(tmp_path, CPU, 10**6)
    both = Activations([other, MemoryTier(CPU, 10**6)])
    filling = one.fill("a", KIND)
    assert filling is not None
    with filling as target:
        with pytest.raises(BusyError):
            other.fill("a", KIND)
        assert both.fill("a", KIND) is None
        target.put(np.arange(4), torch.zeros(4, 3))
    assert both.find("a", KIND) is not None
    assert both.held == 0


@pytest.mark.parametrize("call", ["open", "write"])
def test_a_full_disk_ends_the_remembering_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tier = DiskTier(tmp_path, CPU, 10**6)
    if call == "open":
        monkeypatch.setattr("core.disk_tier.written_aside", full)
    else:
        monkeypatch.setattr("os.pwrite", full)
    fill(tier, "a")
    monkeypatch.undo()
    assert tier.find("a", KIND) is None
    assert tier.fill("b", KIND) is None
    assert caplog.text.count("no more activations are remembered") == 1
    assert not list(tmp_path.glob("*.act"))


def test_a_folder_that_cannot_hold_locks_ends_the_remembering_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(lock: object, timeout: float | None = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tier = DiskTier(tmp_path, CPU, 10**6)
    monkeypatch.setattr("filelock.FileLock.acquire", full)
    assert tier.fill("a", KIND) is None
    assert tier.find("a", KIND) is None


def test_memory_that_others_have_taken_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*shape: object, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    tier = MemoryTier(CPU, 10**6)
    monkeypatch.setattr("torch.empty", full)
    assert tier.fill("a", KIND) is None
    monkeypatch.undo()
    filling = tier.fill("a", KIND)
    assert filling is not None
    with filling as target:
        target.put(np.arange(4), torch.zeros(4, 3))
    assert tier.held == KIND.size
    tier.clear()
    assert (tier.held, tier.find("a", KIND)) == (0, None)
