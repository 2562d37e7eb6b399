import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.files import leftovers, read_csv, read_json, write_csv, write_json, written_aside

numbers = st.integers(-(10**200), 10**200) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8")),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(codec="utf-8")), children),
    max_leaves=12,
)


@given(value=values)
def test_json_that_was_written_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"NaN",
        b'{"a": -Infinity}',
        b"[1e999]",
        b"9" * 5000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 60 + b"]" * 60,
        b'"\\ud800"',
        b'{"\\uDFFF": 1}',
        b"\xff",
        b'"\x00"',
        b"\x80\x04\x95",
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_json_that_nobody_could_have_written_here_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json must be JSON, but it is damaged \(.+\)\. Restore it") as told:
        read_json(tmp_path / "a.json")
    assert len(str(told.value)) < 600


def test_a_pair_of_surrogates_in_json_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps("🙂"))
    assert read_json(tmp_path / "a.json") == "🙂"


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_csv_that_was_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    dicts = [{"image": first, "a,b": second} for first, second in rows]
    write_csv(path, dicts)
    assert read_csv(path) == dicts


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n1\n", "line 2 has 1 values, the header 2"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 values"),
        (b'a,b\n"1,2\n', "unexpected end of data"),
        (b"a,b\n\xff,2\n", "can't decode"),
        (b"a,a\n1,2\n", "must have each column once"),
        (b"a\n" + b"x" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
def test_csv_that_is_damaged_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_csv(tmp_path / "a.csv")


def test_a_full_disk_is_told_with_the_file_that_was_being_written(tmp_path: Path) -> None:
    def write() -> None:
        with written_aside(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as told:
        write()
    assert told.value.filename == str(tmp_path / "a")


def test_a_file_that_its_writer_renames_meanwhile_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".a.tmp", ".b.tmp"):
        (tmp_path / name).touch()
    lstat = Path.lstat

    def renamed(path: Path) -> os.stat_result:
        if path.name == ".a.tmp":
            path.rename(tmp_path / "a")
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", renamed)
    assert leftovers(tmp_path, older_than_s=0) == [tmp_path / ".b.tmp"]
