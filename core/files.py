"""Files that are whole or absent: written aside, synced, renamed. JSON, CSV and safetensors only, never pickle."""

import csv
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError, few, shorten

_ASIDE = ".tmp"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end; on an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: in containers several have the same.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_ASIDE}")
    try:
        yield aside
        if aside.is_file():
            _sync(aside)
        os.replace(aside, path)
        if os.name == "posix":  # elsewhere folders can't be opened
            _sync(path.parent)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until the disk holds what has been written, which outlasts a power cut."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, older_than_s: float) -> None:
    """Removes what processes that were killed had been writing aside in a folder.

    Args:
        folder: Where to look, not below it.
        older_than_s: Younger ones may still be being written by others.
    """
    for path in folder.glob(f".*{_ASIDE}"):
        with suppress(FileNotFoundError):  # its writer may be at work after all
            if time.time() - path.stat().st_mtime >= older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames it; NaN is refused, because JSON has none."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON, in which all numbers are finite.

    Raises:
        InputError: The file is not JSON, which a rename cannot cause: somebody edited or cut it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    # Numbers of thousands of digits are a ValueError too, lists within lists within lists the other.
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} must be JSON, but it is damaged ({shorten(str(error))}). Restore it or remove its folder."
        ) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shorten(text, 20)} is too large")
    return value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with equal keys as CSV with a header, aside and renamed."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV with a header that `write_csv` wrote.

    Raises:
        InputError: The file is damaged: no CSV, or with rows of other lengths than its header.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [dict(zip(header, values, strict=True)) for values in reader]
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} must be CSV, but it is damaged ({shorten(str(error))}). Restore it.") from error
    if len(set(header)) < len(header):
        raise InputError(f"{path} must have each column once, but it is damaged: {few(header)}. Restore it.")
    return rows


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array as npy without objects, aside and renamed."""
    with written_aside(path) as aside, aside.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, aside and renamed."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Not safetensors' own writer, whose error for a full disk is not an OSError and passes for a damaged file.
    content = save(contiguous, metadata=dict(metadata or {}))
    with written_aside(path) as aside:
        aside.write_bytes(content)


def read_tensors(path: Path) -> dict[str, Any]:
    """Reads named tensors onto the CPU.

    Raises:
        InputError: The file is damaged.
    """
    return read_tensors_with_metadata(path)[0]


def read_tensors_with_metadata(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads named tensors onto the CPU, and the text that was stored with them.

    Raises:
        InputError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(
            f"{path} must be a safetensors file, but is damaged ({error}). Restore or remove it."
        ) from error
