"""What this machine computes with: device, precision, cores, memory."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import re
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError

if TYPE_CHECKING:
    import torch

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# Names of what a control group may take and has taken, and of its pages of files in `memory.stat`.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
_NO_LIMIT = 1 << 60  # v1 writes the largest number of whole pages where there is none

# What a lack of memory is called by whoever has no type of error for it; cuBLAS takes room for itself.
_NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

DEVICES = ("auto", "cpu", "cuda", "mps")
_CARD = re.compile(r"cuda:(0|[1-9][0-9]*)")  # as PyTorch writes it; there is one processor, and one mps


def available_cores() -> int:
    """Cores that this process may use, which in a container or under Slurm are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name stands for; ``auto`` takes CUDA, then mps, then the CPU.

    A card that is named by its number becomes the process's current one: streams and recordings that don't say where
    they belong, PyTorch's and FFCV's, would else be another card's.

    Raises:
        InputError: The name is unknown, or this machine has no such device.
    """
    import torch

    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = name.partition(":")
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if has[kind]))
    if name not in has and not _CARD.fullmatch(name):
        raise InputError(
            f"`--device` must be one of {', '.join(DEVICES)} or cuda:N, but got --device={name}. Choose one."
        )
    there = ", ".join(kind for kind, present in has.items() if present)
    if not has[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise InputError(f"`--device` must be a device of this machine ({there}), but got --device={name}. Choose one.")
    if kind == "cuda" and index:
        torch.cuda.set_device(int(index))
    return torch.device(name)


def compute_dtype(device: torch.device) -> torch.dtype:
    """The precision that forward and backward passes run in.

    bf16 where the card has it natively (compute capability 8 and up), fp16 on older cards, else float32: the CPU keeps
    float32 so that the same trial gives the same numbers on any of them.
    """
    import torch

    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where the device has it, nothing elsewhere."""
    import torch

    dtype = compute_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or in the machine for the CPU and mps (which shares the machine's).

    A container's or a job's limit counts where the system tells of one.
    """
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, left_in_group()))


def left_in_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes that the control groups (v1 or v2) of this process may still take; infinite without a limit.

    Args:
        root: Where the system shows all groups; in a container its own lies at the root.
        own: Where it says which of them are those of this process.
    """
    left = _left(root, _V2)
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, files = (root / "memory", _V1) if controllers else (root, _V2)
            # Those above it have limits, too: Slurm limits a job, and a process lies in the group of a step of it.
            group = Path(os.path.normpath(path)).relative_to("/")
            left = min([left, *(_left(top / each, files) for each in (group, *group.parents))])
    return left


def _left(group: Path, names: tuple[str, str, str]) -> float:
    """Bytes that one control group may still take."""
    most, taken, files = names
    try:
        limit = (group / most).read_text().strip()
        if limit == "max" or int(limit) >= _NO_LIMIT:
            return math.inf
        used = int((group / taken).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(stat.get(files, 0)))  # pages of files that make room
    except (OSError, ValueError):  # another kind of system, or the machine's own group, which has no limit
        return math.inf


def keep_freed_memory(device: torch.device) -> None:
    """Lets this process keep the memory that tensors on the CPU give back, and hand it to the next ones.

    glibc maps each block above 32 MB anew and unmaps it when it is freed. Every batch then pays for page faults on
    hundreds of MB of activations, which on a CPU takes longer than the arithmetic (docs/decisions/0010). No number
    changes by it. Does nothing for other devices, whose allocators keep memory anyway, and without glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)  # blocks of any size come from the heap
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # which never shrinks


def give_back_memory(device: torch.device) -> None:
    """Gives the system what this process has freed and kept, so that it counts as free for whatever comes next."""
    import torch

    gc.collect()  # models and optimisers refer to themselves
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a run needs more memory than there is.

    Only CUDA's allocator has a type of its own for it; the CPU's, mps and CUDA's libraries raise a plain RuntimeError.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def describe_device(device: torch.device) -> str:
    """The device in words, for logs and reports."""
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {str(compute_dtype(device)).removeprefix('torch.')}"
    return f"{device.type}, {available_cores()} cores, float32"
