"""Sizes as people say them."""

import pytest

from core.budget import DISK, Budget
from core.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("1.5 gb", 1_500_000_000), ("500MB", 5 * 10**8), ("0", 0), ("25%", 25 * 10**9)],
)
def test_sizes_and_shares_are_read(text: str, size: int) -> None:
    assert Budget.parse("--memory", text).of(100 * 10**9) == size


@pytest.mark.parametrize("text", ["", "8", "8 apples", "-1GB", "120%", "1e3GB", "nan%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="`--disk` must be a size such as 8GB or a share"):
        Budget.parse("--disk", text)


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(InputError, match=r"at most what is free, 1.0 GB, but got --memory=2GB"):
        Budget.parse("--memory", "2GB").of(10**9)


def test_the_default_on_disk_leaves_the_most_of_it_free() -> None:
    assert DISK.of(10**9) == 4 * 10**8
    assert DISK.of(10**13) == 50 * 10**9
