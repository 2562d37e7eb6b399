"""Archives as they should be, damaged ones and hostile ones."""

import io
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from core import archives
from core.archives import ArchiveError, list_members, unpack
from core.errors import InputError
from tests.fixtures.server import noise, zipped

GOOD = {"set/a.jpg": b"a" * 5_000, "set/deep/b.jpg": noise(0, 3_000), "readme.txt": b""}
LOCAL_HEADER = 30  # bytes before a member's name


def write(folder: Path, content: bytes) -> Path:
    path = folder / "archive.zip"
    path.write_bytes(content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def special(name: str, mode: int, content: bytes = b"/etc/passwd") -> bytes:
    """An archive whose one member has these permissions and type."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, content)
    return buffer.getvalue()


def renamed(old: str, new: bytes) -> bytes:
    """An archive whose one member has a name that the zip writer would mend or refuse; both of one length."""
    assert len(old) == len(new)
    return zipped({old: b"content"}).replace(old.encode(), new)


def with_flag(content: bytes, flag: int) -> bytes:
    """The same archive, with a bit set in every member's flags."""
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            flags = struct.unpack_from("<H", content, at + offset)[0] | flag
            content = content[: at + offset] + struct.pack("<H", flags) + content[at + offset + 2 :]
            at = content.find(signature, at + 4)
    return content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_was_packed_is_there_again(method: int, tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"

    assert unpack(write(tmp_path, zipped(GOOD, method)), target) == 3
    assert contents(target) == GOOD
    assert sorted(path.name for path in target.iterdir()) == ["readme.txt", "set"]


def test_folders_in_it_and_litter_of_macs_are_left_out(tmp_path: Path) -> None:
    members = {"set/": b"", "./set/a.jpg": b"a", "__MACOSX/set/._a.jpg": b"x", "set/__MACOSX/._b": b"x"}

    assert unpack(write(tmp_path, zipped(members)), tmp_path / "target") == 1
    assert contents(tmp_path / "target") == {"set/a.jpg": b"a"}


def test_names_in_utf8_are_read_also_when_the_archive_does_not_say_so(tmp_path: Path) -> None:
    archive = write(tmp_path, renamed("n__vus", "nävus".encode()))

    assert list_members(archive) == ["nävus"]


def test_unpacking_twice_changes_nothing(tmp_path: Path) -> None:
    archive = write(tmp_path, zipped(GOOD))
    unpack(archive, tmp_path / "target")

    assert unpack(archive, tmp_path / "target") == 3
    assert contents(tmp_path / "target") == GOOD


def test_it_joins_what_is_there(tmp_path: Path) -> None:
    own = tmp_path / "target" / "set" / "own.txt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")

    assert contents(tmp_path / "target") == {**GOOD, "set/own.txt": b"mine"}


@pytest.mark.parametrize("there", ["set/a.jpg", "set", "readme.txt/own"])
def test_other_files_of_its_names_are_never_overwritten(there: str, tmp_path: Path) -> None:
    own = tmp_path / "target" / there
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")

    with pytest.raises(InputError, match=r"must not overwrite other files, but in .* there are 1 of the same names"):
        unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")
    assert contents(tmp_path / "target") == {there: b"mine"}


def test_links_that_are_there_lead_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "set").symlink_to(tmp_path / "outside")

    with pytest.raises(InputError, match=r"must stay in .*: set, set/deep"):
        unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (zipped({"../evil": b"x"}), "names that leave the folder"),
        (zipped({"set/../../evil": b"x"}), "names that leave the folder"),
        (zipped({"/etc/evil": b"x"}), "names that leave the folder"),
        (zipped({"C:/evil": b"x"}), "names that leave the folder"),
        (zipped({"set//evil": b"x"}), "names that leave the folder"),
        (renamed("x__evil", b"..\\evil"), "names that leave the folder"),
        (renamed("x_evil", b"x\0evil"), "names that leave the folder"),
        (renamed("x_evil", b"x\nevil"), r"names that leave .*x\\nevil"),
        (renamed("x_evil", b"x\xe4evil"), r"names that leave .*x\\xe4evil"),
        (zipped({"x" * 256: b"x"}), "too long"),
        (zipped({"x/" * 600 + "y": b"x"}), "too long"),
        (special("link", stat.S_IFLNK | 0o777), "links or devices"),
        (special("device", stat.S_IFCHR | 0o666), "links or devices"),
        (special("pipe", stat.S_IFIFO | 0o666), "links or devices"),
        (zipped({"a": b"x"}, zipfile.ZIP_BZIP2), "a method other than deflate"),
        (with_flag(zipped({"a": b"x"}), 0x1), "are encrypted"),
        (zipped({"a": b"x", "a/b": b"y"}), "files and folders at once"),
        (zipped({"a": b"x", "./a": b"y"}), "stand there twice"),
    ],
)
def test_a_hostile_member_keeps_all_from_being_unpacked(content: bytes, fault: str, tmp_path: Path) -> None:
    before = contents(tmp_path)
    archive = write(tmp_path, content)

    with pytest.raises(ArchiveError, match=f"must hold nothing but plain files inside its folder, but .*{fault}"):
        unpack(archive, tmp_path / "target")
    assert contents(tmp_path) == {**before, "archive.zip": content}


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    archive = write(tmp_path, zipped({"../a": b"x", "../b": b"x", "x" * 256: b"x"}))

    with pytest.raises(
        ArchiveError, match=r"2 have names that leave .* \(\.\./a, \.\./b\); 1 have names that are too l"
    ):
        unpack(archive, tmp_path / "target")


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    archive = write(tmp_path, zipped({"zeros": bytes(110_000_000)}, zipfile.ZIP_DEFLATED))

    with pytest.raises(ArchiveError, match=r"must grow at most 200 times, but it would grow from 0\.1 MB to 110 MB"):
        unpack(archive, tmp_path / "target")


def test_what_grows_little_may_be_large_and_what_is_small_may_grow(tmp_path: Path) -> None:
    archive = write(tmp_path, zipped({"zeros": bytes(20_000_000)}, zipfile.ZIP_DEFLATED))

    assert unpack(archive, tmp_path / "target") == 1


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 2)

    with pytest.raises(ArchiveError, match="must have at most 2 members, but has 3"):
        unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")


def test_a_disk_without_room_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10_000, 9_000, 1_000))

    with pytest.raises(InputError, match=r"must have 0 MB free to unpack archive\.zip, but has 0 MB"):
        unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")
    assert contents(tmp_path / "target") == {}


@pytest.mark.parametrize(
    ("declared", "fault"), [(1_000, "Bad CRC-32 for file 'a'"), (9_000, "a declares 9,000 bytes and has 5,000")]
)
def test_a_member_must_have_the_size_that_it_declares(declared: int, fault: str, tmp_path: Path) -> None:
    content = zipped({"a": b"a" * 5_000}, zipfile.ZIP_DEFLATED)
    at = content.index(b"PK\x01\x02") + 24  # its uncompressed size in the central directory, which readers believe
    archive = write(tmp_path, content[:at] + struct.pack("<I", declared) + content[at + 4 :])

    with pytest.raises(ArchiveError, match=fault):
        unpack(archive, tmp_path / "target")
    assert contents(tmp_path / "target") == {}


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>not found</html>", zipped(GOOD)[:-30], zipped(GOOD)[50:]])
def test_what_is_no_whole_zip_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"archive\.zip must be a whole zip file, but it isn't \(.+\)\. Fetch"):
        unpack(write(tmp_path, content), tmp_path / "target")


def test_one_wrong_byte_leaves_nothing_behind(tmp_path: Path) -> None:
    content = bytearray(zipped(GOOD))
    content[content.index(b"readme.txt") - LOCAL_HEADER - 100] ^= 1  # in the second member

    with pytest.raises(ArchiveError, match=r"Bad CRC-32 for file 'set/deep/b\.jpg'"):
        unpack(write(tmp_path, bytes(content)), tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "target" / ".archive.zip.tmp" / "set"
    left.mkdir(parents=True)
    (left / "a.jpg").write_bytes(b"half")
    unpack(write(tmp_path, zipped(GOOD)), tmp_path / "target")

    assert contents(tmp_path / "target") == GOOD


@hypothesis.settings(max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    cut=st.integers(0, 40),
    near_the_end=st.booleans(),
)
def test_mutated_archives_raise_nothing_but_our_own_error(
    places: list[tuple[int, int]], method: int, cut: int, near_the_end: bool, tmp_path: Path
) -> None:
    content = bytearray(zipped({"set/a.jpg": b"a" * 300, "b": noise(0, 200)}, method))
    for place, value in places:  # the directory at the end is the part that can be misread
        content[-1 - place % 200 if near_the_end else place % len(content)] = value
    archive = write(tmp_path, bytes(content[: len(content) - cut]))
    target = tmp_path / "target"
    shutil.rmtree(target, ignore_errors=True)
    try:
        count = unpack(archive, target)
    except InputError:
        assert contents(target) == {}
    else:
        assert len(contents(target)) == count
    assert {path.name for path in tmp_path.iterdir()} == {"archive.zip", "target"}
