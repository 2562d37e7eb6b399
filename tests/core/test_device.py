import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.cache import cache_folder
from core.device import (
    autocast,
    available_cores,
    compute_dtype,
    describe_device,
    free_memory,
    is_out_of_memory,
    left_in_group,
    resolve_device,
)
from core.durations import in_words
from core.errors import InputError

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def test_auto_is_a_device_that_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["toaster", "cuda:x", "cuda:-1", "cuda:", "cuda:01", "cpu:3", "mps:1", ""])
def test_an_unknown_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(InputError, match=f"must be one of auto, cpu, cuda, mps or cuda:N, but got --device={name}"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"must be a device of this machine \(cpu"):
        resolve_device("cuda")


def test_a_card_that_is_named_by_its_number_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cuda") == torch.device("cuda")
    assert current == [1]


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "MPS backend out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_a_lack_of_memory_is_known_by_its_words_where_it_has_no_type(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(ValueError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_the_cpu_computes_in_single_precision() -> None:
    assert compute_dtype(CPU) == torch.float32
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.gpu
def test_a_card_computes_in_half_precision() -> None:
    with autocast(torch.device("cuda")):
        product = torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")
    assert product.dtype == compute_dtype(torch.device("cuda")) in (torch.bfloat16, torch.float16)


def test_cores_are_those_that_the_process_may_use() -> None:
    assert available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 400\ninactive_file 250\n"}, 550),
        ({"memory.max": "1000\n", "memory.current": "1300\n", "memory.stat": "anon 1300\n"}, 0),
        ({"memory.max": "max\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_control_group_leaves_what_its_limit_allows(files: dict[str, str], left: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert left_in_group(tmp_path) == left


@pytest.mark.parametrize(
    ("own", "folder", "names", "none"),
    [
        ("0::/slurm/job_7/step_0", "slurm", ("memory.max", "memory.current", "inactive_file"), "max"),
        (
            "9:name=systemd:/x\n4:cpu,memory:/slurm/job_7/step_0\n0::/",
            "memory/slurm",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "9223372036854771712",
        ),
    ],
    ids=["v2", "v1"],
)
def test_the_least_of_what_a_jobs_group_and_those_around_it_allow_counts(
    own: str, folder: str, names: tuple[str, str, str], none: str, tmp_path: Path
) -> None:
    most, taken, files = names
    for group, limit in (("", "9000"), ("job_7", "1000"), ("job_7/step_0", none)):
        (tmp_path / folder / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / group / most).write_text(f"{limit}\n")
        (tmp_path / folder / group / taken).write_text("700\n")
        (tmp_path / folder / group / "memory.stat").write_text(f"{files} 250\n")
    (tmp_path / "own").write_text(own)
    assert left_in_group(tmp_path, tmp_path / "own") == 550
    (tmp_path / "own").write_text("0::/../elsewhere\n")
    assert left_in_group(tmp_path, tmp_path / "own") == math.inf


def test_free_memory_is_less_than_all_of_it() -> None:
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


FAULTS = """
import resource, torch
from core.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(64_000_000, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
keep_freed_memory(torch.device("cpu"))
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc maps large blocks anew each time")
def test_memory_that_is_freed_is_handed_out_again_without_page_faults() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before, kept = map(int, told.split())
    # 20 blocks of 64 MB are at least 640 huge pages or 312,500 small ones. Kept ones come to rest after a few rounds.
    assert before > 500
    assert kept < 50


KEPT = """
import psutil, torch
from core.device import give_back_memory, keep_freed_memory
cpu = torch.device("cpu")
keep_freed_memory(cpu)
blocks = [torch.ones(25_000_000) for _ in range(8)]
del blocks
kept = psutil.Process().memory_info().rss
give_back_memory(cpu)
print(kept - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_memory_that_was_kept_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 700_000_000, "of 800 MB"


def test_a_device_is_described() -> None:
    assert describe_device(CPU).startswith("cpu, ")


def test_the_cache_lies_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "here"))
    assert cache_folder("pixels") == tmp_path / "here" / "pixels"
    monkeypatch.delenv("DERMATUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("pixels") == tmp_path / "xdg" / "dermatune" / "pixels"
    assert (tmp_path / "xdg" / "dermatune" / "pixels").is_dir()


def test_a_cache_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="Set DERMATUNE_CACHE to a folder that is"):
        cache_folder("pixels")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (8.4, "8 s"),
        (89, "89 s"),
        (720, "12 min"),
        (12600, "3.5 h"),
        (181440, "2.1 days"),
        (86400 * 150, "5 months"),
        (86400 * 365.25 * 4, "4.0 years"),
        (3.4e21, "more than 100 years"),
    ],
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
