"""Arrays in npy files from strangers: checked against the size of the file before anything is read, never unpickled."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import one_line, shorten

_LONGEST_HEADER = 1024  # bytes; NumPy writes 128 for an array of numbers
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpyError(ValueError):
    """A file is no array of numbers; the message is the reason in a few words."""


def read_npy(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Reads an array of numbers.

    Args:
        path: A file as `numpy.save` writes it.
        mapped: Leave the values in the file, from where they are read when asked for.

    Raises:
        NpyError: It is damaged, or holds something else than numbers.
        OSError: It cannot be opened.
    """
    shape, fortran_order, dtype, start = _read_header(path)
    if 0 in shape:  # which memmap refuses
        return np.empty(shape, dtype)
    values = np.memmap(path, dtype, "r", offset=start, shape=shape, order="F" if fortran_order else "C")
    return np.asarray(values) if mapped else np.array(values)


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type and place of the values, which are there."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in _HEADER_READERS:
                raise NpyError(f"npy version {version}")
            with warnings.catch_warnings(action="error"):  # what NumPy warns of here, it has guessed
                shape, fortran_order, dtype = _HEADER_READERS[version](file, max_header_size=_LONGEST_HEADER)
        # NumPy evaluates the header as Python literals and says not what that may raise.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise NpyError(shorten(one_line(str(error) or type(error).__name__))) from error
        start = file.tell()
    if dtype.kind not in "biufc":
        raise NpyError("pickled objects, which could run any program" if dtype.hasobject else f"values of type {dtype}")
    expected = start + dtype.itemsize
    for length in shape:
        if length < 0:
            raise NpyError(f"shape {shape}")
        expected = start + (expected - start) * length
    if path.stat().st_size != expected:
        raise NpyError(f"{path.stat().st_size:,} bytes where {dtype} of shape {shape} takes {expected:,}")
    return shape, fortran_order, dtype, start
