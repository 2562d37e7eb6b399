"""Reads files of tensors that may come from anywhere; none of them can run code."""

import errno
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError, shorten

_CLASSIFIER = "backbone."
# What DataParallel, torch.compile and our own classifiers put before every name.
WRAPPERS = ("module.", "_orig_mod.", _CLASSIFIER)


def read_weight_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file, or a PyTorch file with a state dict in it or under ``state_dict`` or ``model``.

    Returns:
        The tensors by their names in the bare model, and the metadata of a safetensors file.

    Raises:
        InputError: The file is missing, of another kind, or would run code when read.
    """
    if not path.is_file():
        raise InputError(
            f"`weights` must be auto, none or a file, but got weights={str(path)!r}, which is no file. Check the path."
        )
    try:
        content, facts = _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of those two the file is to blame: it tells of places it hasn't
            raise
        raise _damaged(path, error) from error
    # No library says what it raises for bytes of another kind: UnpicklingError, RuntimeError, EOFError, KeyError, …
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"`weights` must hold named tensors and nothing else, but {path} doesn't. Save a state dict.")
    return _unwrapped(content), facts


def names_in_classifier(path: Path) -> list[str]:
    """The names in the bare model of a safetensors file's tensors, if it has the form of our own trials' classifiers.

    Returns:
        None of them if it hasn't.
    """
    from safetensors import safe_open

    if not _is_safetensors(path):
        return []
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    return [name.removeprefix(_CLASSIFIER) for name in names] if all(n.startswith(_CLASSIFIER) for n in names) else []


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"`weights` must be a safetensors file or a PyTorch file of tensors alone, but {path} is "
        f"neither ({_reason(error)}). Save the state dict with safetensors or torch.save."
    )


def _reason(error: Exception) -> str:
    """What is wrong with a file, in words: PyTorch's own recommend to run a pickle's code, or are a bare number."""
    if type(error).__name__ == "UnpicklingError":
        return "it is of another kind, or would run code when read"
    if type(error) is RuntimeError:
        return "it is cut short or damaged"
    if type(error).__name__ == "SafetensorError" or isinstance(error, OSError):
        return shorten(str(error).strip().splitlines()[0])
    return "its bytes are of another kind"


def _is_safetensors(path: Path) -> bool:
    """Tells by the content, as names mislead: the length of a header in 8 bytes, then the header in JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[Any, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def _read_torch(path: Path) -> Any:
    """Reads with `weights_only`, which refuses a pickle that names code before anything of it runs."""
    # An open file, because torch.load takes a path's suffix for its kind.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a pickle's protocol, before a refusal that says it all
        content = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return content


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # In whatever order they were put on: DataParallel around torch.compile, or the other way round.
    while wrapper := next((each for each in WRAPPERS if all(name.startswith(each) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    # Copied, because tensors of a PyTorch file may share memory, which a safetensors file cannot.
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
