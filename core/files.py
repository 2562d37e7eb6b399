"""Files that are whole or absent: written aside, synced, renamed. JSON, CSV and safetensors only, never pickle."""

import csv
import errno
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError, few, shorten

LEFTOVER_S = 3600.0  # a file aside that nobody has written to for so long is a dead process's
_ASIDE = ".tmp"
_MOST_LEVELS = 50  # of JSON; ours has six


@contextmanager
def written_aside(
    path: Path, *, replacing: AbstractContextManager[object] | None = None, durable: bool = True
) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end; on an error nothing is left behind.

    Args:
        path: What to write.
        replacing: Entered for the moment in which the old gives way to the new; may refuse it by raising.
        durable: Whether to wait until the disk has it, so that a power cut doesn't undo it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: in containers several have the same.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_ASIDE}")
    try:
        yield aside
        if durable and aside.is_file():
            _sync(aside)
        with replacing or nullcontext():
            os.replace(aside, path)
        if durable and os.name == "posix":  # elsewhere folders can't be opened
            _sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk doesn't say which one it is
            error.filename = str(path)
        raise
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until the disk holds what has been written, which outlasts a power cut."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # some mounts can't, of a folder
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, older_than_s: float) -> None:
    """Removes what processes that were killed had been writing aside in a folder.

    Args:
        folder: Where to look, not below it.
        older_than_s: Younger ones may still be being written by others.
    """
    for path in leftovers(folder, older_than_s=older_than_s):
        with suppress(FileNotFoundError):  # its writer may be at work after all
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_leftovers_of(path: Path) -> None:
    """Removes what processes that were killed had been writing aside for `path`, which nobody else writes now."""
    for aside in path.parent.glob(f".{path.name}.*{_ASIDE}"):
        aside.unlink(missing_ok=True)


def leftovers(folder: Path, *, older_than_s: float) -> list[Path]:
    """What processes that were killed had been writing aside in a folder; see `remove_leftovers`."""
    found = []
    for path in folder.glob(f".*{_ASIDE}"):
        with suppress(FileNotFoundError):  # its writer has just renamed it
            found.append((path, path.lstat().st_mtime))
    if not found:
        return []
    # By the clock that dates them, which on a server may be minutes from ours.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".now") as probe:
        now = os.stat(probe.name).st_mtime
    return [path for path, written in found if now - written >= older_than_s]


def can_lie_at(file: Path) -> bool:
    """Whether a file can be written somewhere: its folder is there and may be written to."""
    return file.parent.is_dir() and os.access(file.parent, os.W_OK)


def check_place(out: Path) -> None:
    """Refuses a place for a result, before any work is done for it.

    Raises:
        InputError: Its folder is absent or not writable.
    """
    if not can_lie_at(out):
        raise InputError(
            f"`--out` must be in a folder that can be written to, but got --out {out}. Choose another place."
        )


def check_new_tensors(out: Path) -> None:
    """Refuses a place for a file of tensors, before any work is done for it.

    Raises:
        InputError: It isn't named ``.safetensors``, or its folder is absent or not writable.
    """
    if out.is_dir() or out.suffix != ".safetensors":
        raise InputError(f"`--out` must name a file *.safetensors, but got --out {out}. Name one.")
    check_place(out)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Writes JSON aside and renames it."""
    with written_aside(path, durable=durable) as aside:
        aside.write_bytes(to_json(value))


def to_json(value: Any) -> bytes:
    """A JSON file's content; NaN is refused, because JSON has none."""
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """Reads JSON, in which all numbers are finite.

    Raises:
        InputError: The file is not JSON, which a rename cannot cause: somebody edited or cut it.
    """
    return parse_json(path.read_bytes(), where=str(path))


def parse_json(content: bytes, *, where: str) -> Any:
    """Reads JSON in UTF-8, in which all numbers are finite.

    Args:
        content: What was read.
        where: The file that it is from, for messages.

    Raises:
        InputError: It is not JSON.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if r"\ud" in text.lower():  # half a character, which nothing of ours could write again
            json.dumps(value, ensure_ascii=False).encode()
        if _is_deep(value):
            raise ValueError(f"lists within lists, more than {_MOST_LEVELS} of them")
    # Numbers of thousands of digits are a ValueError too; the other comes of lists within lists within lists.
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} must be JSON, but it is damaged ({shorten(str(error))}). Restore it or remove its folder."
        ) from error
    return value


def _is_deep(value: Any) -> bool:
    """Whether a value has so many levels that writing it might need more stack than there is."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [child for each in level if isinstance(each, dict | list) for child in _children(each)]
    return bool(level)


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


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
            rows = []
            for values in reader:
                if len(values) != len(header):
                    raise ValueError(f"line {reader.line_num} has {len(values)} values, the header {len(header)}")
                rows.append(dict(zip(header, values, strict=True)))
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
    with _open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def read_metadata(path: Path) -> dict[str, str]:
    """The text that was stored with named tensors, without them.

    Raises:
        InputError: The file is damaged.
    """
    with _open_tensors(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb"):  # what may not be read, safetensors would call absent
        pass
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(
            f"{path} must be a safetensors file, but is damaged ({error}). Restore or remove it."
        ) from error
