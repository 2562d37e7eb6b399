"""NumPy archives from strangers: arrays are read as their headers declare them, in pieces, and never unpickled."""

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InputError, few, one_line, shorten

_SUFFIX = ".npy"
_LONGEST_HEADER = 1024  # bytes; NumPy writes 128 for an array of a plain type
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Array:
    """What the header of an array in an archive declares, checked against the size of its member.

    Attributes:
        name: Its name in the archive.
        shape: Its dimensions, none negative.
        dtype: A type without Python objects.
        start: Bytes before its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class Npz:
    """An open archive. All that its methods raise for bad content is `InputError`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._zip = archive
        members = archive.namelist()
        self.names = [member.removesuffix(_SUFFIX) for member in members if member.endswith(_SUFFIX)]
        if len(set(members)) < len(members):
            raise _damaged(path, f"several arrays have one name: {few(members)}")

    def header(self, name: str) -> Array:
        """What an array is declared to be; its values are not read.

        Raises:
            InputError: It is damaged, or cannot be read without unpickling or without holding all of it.
        """
        with _damage_told(self.path), self._zip.open(name + _SUFFIX) as member:
            # A longer header would be a bomb: NumPy looks at its length after having read it.
            file = io.BytesIO(member.read(_LONGEST_HEADER))
            version = np.lib.format.read_magic(file)
            if version not in _HEADER_READERS:
                raise _damaged(self.path, f"{name} is of npy version {version}")
            with warnings.catch_warnings(action="error"):  # what NumPy warns of here, it has guessed
                shape, fortran_order, dtype = _HEADER_READERS[version](file, max_header_size=_LONGEST_HEADER)
            size = self._zip.getinfo(name + _SUFFIX).file_size
        if dtype.hasobject:
            raise InputError(
                f"`{name}` must hold numbers, but in {self.path} it holds pickled Python objects, which could run any "
                "program and are never loaded. Save it again as an array of numbers."
            )
        array = Array(name, tuple(int(length) for length in shape), dtype, file.tell())
        if min(array.shape, default=0) < 0 or array.start + array.nbytes != size:
            raise _damaged(self.path, f"{name} is declared as {array}, but has {size - array.start:,} bytes")
        if fortran_order and sum(length > 1 for length in array.shape) > 1:
            raise InputError(
                f"`{name}` must be stored row by row, but in {self.path} it is in Fortran's order. Save it again with "
                "numpy.ascontiguousarray."
            )
        return array

    def read(self, array: Array) -> npt.NDArray[Any]:
        """All values of a small array.

        Raises:
            InputError: It is damaged.
        """
        with _damage_told(self.path), self._zip.open(array.name + _SUFFIX) as member:
            content = member.read()[array.start :]
            return np.frombuffer(content, array.dtype).reshape(array.shape)

    def rows(self, array: Array) -> Iterator[npt.NDArray[Any]]:
        """The rows of a large array, one after the other; only one of them is in memory.

        Raises:
            InputError: It is damaged. A wrong checksum shows only at the last row.
        """
        row = prod(array.shape[1:]) * array.dtype.itemsize
        with _damage_told(self.path), self._zip.open(array.name + _SUFFIX) as member:
            member.read(array.start)
            for _ in range(array.shape[0]):
                yield np.frombuffer(member.read(row), array.dtype).reshape(array.shape[1:])


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Opens an archive.

    Raises:
        InputError: It is none, or damaged.
    """
    with _damage_told(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield Npz(path, archive)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turns whatever zipfile, its decompressors and NumPy trip over into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: Path, why: str) -> InputError:
    reason = shorten(one_line(why))
    return InputError(f"An npz file must be whole, but {path} cannot be read ({reason}). Download or save it again.")
