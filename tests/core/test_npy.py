import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from core.npy import NpyError, read_npy


def with_header(shape: Any, descr: str = "<f4", content: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    writer = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    writer(buffer, header)
    return buffer.getvalue() + content


@given(
    values=arrays(
        dtype=st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_]),
        shape=array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    fortran=st.booleans(),
    mapped=st.booleans(),
)
def test_save_then_read_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, fortran: bool, mapped: bool
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.array(values, order="F" if fortran else "C"))
    read = read_npy(path, mapped=mapped)
    assert read.dtype == values.dtype
    assert read.shape == values.shape
    np.testing.assert_array_equal(read, values)


def test_a_mapped_array_is_not_in_memory_and_cannot_be_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6))
    mapped = read_npy(tmp_path / "a.npy", mapped=True)
    assert not mapped.flags.writeable
    assert not mapped.flags.owndata
    assert read_npy(tmp_path / "a.npy").flags.owndata


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF"),
        (b"PK\x03\x04" + bytes(60), "magic string"),
        (with_header((2, 3)), "128 bytes where float32 of shape (2, 3) takes 152"),
        (with_header((2, 3), content=bytes(25)), "153 bytes where"),
        (with_header((10**12, 10**12), content=bytes(24)), "takes 4,000,000,000,000,000,000,000,128"),
        (with_header((-1, -6), content=bytes(24)), "shape (-1, -6)"),
        (with_header((1,), "|O", bytes(8)), "pickled objects, which could run any program"),
        (with_header((1,), "<U9", bytes(36)), "values of type <U9"),
        (with_header((1,), "|V4", bytes(4)), "values of type |V4"),
        (with_header((1,), content=bytes(4))[:20], "EOF"),
        (b"\x93NUMPY\x03\x00" + bytes(200), "npy version (3, 0)"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 5000, "EOF"),
        (b"\x93NUMPY\x01\x00" + (3000).to_bytes(2, "little") + b"{" * 5000, "Header info length"),
        (b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + b"__import__('os')".ljust(118), "malformed node"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(NpyError) as told:
        read_npy(tmp_path / "a.npy")
    assert reason in str(told.value)


def test_the_second_version_of_the_format_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(with_header((2,), content=np.float32([1, 2]).tobytes(), version=(2, 0)))
    assert read_npy(tmp_path / "a.npy").tolist() == [1, 2]


def test_a_file_that_is_not_there_is_the_systems_business(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.npy"):
        read_npy(tmp_path / "a.npy")
