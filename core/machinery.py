"""What besides its inputs decides the last bits of an activation: the code, the machine, the precision."""

import functools
import hashlib
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from core.device import compute_dtype, cpu_name


def machinery(device: torch.device, modules: Sequence[str]) -> list[str]:
    """Facts that differ wherever the same input might give other bits.

    Args:
        device: Where activations are computed.
        modules: Names of imported modules of ours that compute them.
    """
    return [_code(tuple(modules)), _machine(device), str(compute_dtype(device))]


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {cudnn}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{device.type} {platform.machine()} {cpu_name()} {capability} {torch.get_num_threads()}"


@functools.cache
def _code(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256(f"{torch.__version__} {version('timm')}".encode())
    for name in modules:
        digest.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return digest.hexdigest()
