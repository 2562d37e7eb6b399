"""The one door to onnxruntime's sessions, on the CPU. No torch here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.device import available_cores
from core.errors import InputError, one_line, shorten

if TYPE_CHECKING:
    import onnxruntime

_ERRORS_ONLY = 3  # onnxruntime's severities; it warns of devices that a machine lacks


def require(packages: Sequence[str], *, what: str) -> None:
    """Refuses work that packages are missing for.

    Args:
        packages: Names to import.
        what: What needs them, as the user wrote it.

    Raises:
        InputError: One is not installed.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"{what} must have {' and '.join(packages)} to work with, but {missing[0]} is not installed here. "
            "Install it with `pip install -e .[export]`."
        )


def open_session(path: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Opens an ONNX file for running.

    Args:
        path: The file.
        threads: How many compute; by default as many as this process has cores.

    Raises:
        InputError: It can't be read, or isn't what onnxruntime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    with telling_damage(path):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def telling_damage(path: Path) -> Iterator[None]:
    """Turns what onnxruntime raises of a file into one sentence.

    Raises:
        InputError: It can't be read, or isn't what onnxruntime can run.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # its errors share no other class
        if not (isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("onnxruntime")):
            raise
        raise InputError(
            f"{path} must be an ONNX file that onnxruntime can run, but it is damaged or of a newer version "
            f"({shorten(one_line(str(error)))}). Export the ensemble anew, or update onnxruntime."
        ) from error
