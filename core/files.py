"""Files that are whole or absent: written aside, synced, renamed. JSON, CSV and safetensors only, never pickle."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import InputError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end; on an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        if aside.is_file():
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames it; NaN is refused, because JSON has none."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        InputError: The file is not JSON, which a rename cannot cause: somebody edited or cut it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be JSON, but it is damaged ({error}). Restore it or remove its folder."
        ) from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with equal keys as CSV with a header, aside and renamed."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, aside and renamed."""
    from safetensors.torch import save_file

    with written_aside(path) as aside:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, aside, metadata=dict(metadata or {}))


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
