"""Unpacks archives that nobody vouches for: whole or not at all, inside their folder, no larger than they say.

Only zip, because no public source needs another.
"""

import errno
import filecmp
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from core import cli
from core.errors import InputError, few, one_line, shorten

_MOST_MEMBERS = 1_000_000
_MOST_RATIO = 200  # images hardly shrink at all, tables by 10; deflate itself ends at 1,032
_SMALL = 100_000_000  # bytes that are let through at any ratio
_CHUNK = 1 << 20  # bytes
_LONGEST_PART = 255  # bytes, of common file systems
_LONGEST_PATH = 1_024  # bytes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # bit of `flag_bits`
_UTF8 = 0x800  # likewise
_FORBIDDEN = re.compile(r"^[A-Za-z]:|[\\\x00-\x1f\x7f]")
_MAC_LITTER = "__MACOSX"
_BAD_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # two that differ by case, for instance

_Members = dict[str, zipfile.ZipInfo]


class ArchiveError(InputError):
    """An archive is damaged or hostile; another copy may not be."""


def list_members(archive: Path) -> list[str]:
    """The files of an archive as POSIX paths that are safe to write below a folder; litter of Macs left out.

    Raises:
        ArchiveError: It is damaged or hostile.
    """
    with _opened(archive) as opened:
        return list(_check(archive, opened))


def unpack(archive: Path, target: Path) -> int:
    """Unpacks a zip archive into a folder, with a progress bar.

    It is written into a hidden folder in `target` first, so that what breaks leaves nothing. Files that are there
    already with the same bytes stay. One process at a time may unpack one archive into one folder.

    Args:
        archive: A zip file; stored or deflated members, not encrypted.
        target: Folder to unpack into; made if it isn't there.

    Returns:
        The number of its files.

    Raises:
        ArchiveError: It is damaged or hostile.
        InputError: It is too large for the disk, or other files of its names are there. In all cases nothing has been
            written.
    """
    target.mkdir(parents=True, exist_ok=True)
    aside = target / f".{shorten(archive.name, 100)}.tmp"
    if aside.exists():  # of a process that was killed
        shutil.rmtree(aside)
    try:
        with _opened(archive) as opened:
            members = _check(archive, opened)
            _check_room(archive, target, members)
            with cli.progress(f"unpacking {archive.name}", len(members)) as bar:
                for path, info in members.items():
                    _write(archive, opened, info, aside / path)
                    bar.advance()
        _move(aside, target, list(members))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return len(members)


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive; whatever the reader trips over, also while its members are read, becomes one sentence."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except InputError:
        raise
    # Damaged bytes make the reader raise struct.error, zlib.error, EOFError, RuntimeError, NotImplementedError, …
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, *_BAD_NAME):
            raise  # the disk's; EINVAL is a seek to where no file has bytes
        reason = shorten(one_line(str(error))) or type(error).__name__
        raise ArchiveError(f"{archive} must be a whole zip file, but it isn't ({reason}). Fetch it again.") from error


def _check(archive: Path, opened: zipfile.ZipFile) -> _Members:
    """The files by their paths, all that is wrong with them told at once."""
    infos = opened.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise ArchiveError(f"{archive} must have at most {_MOST_MEMBERS:,} members, but has {len(infos):,}. Split it.")
    packed, declared = archive.stat().st_size, sum(info.file_size for info in infos)
    if declared > max(_SMALL, _MOST_RATIO * packed):
        raise ArchiveError(
            f"{archive} must grow at most {_MOST_RATIO} times, but it would grow from {packed / 1e6:,.1f} MB to "
            f"{declared / 1e6:,.0f} MB. It is made to fill disks: don't use it."
        )
    members: _Members = {}
    faults: dict[str, list[str]] = {}
    for info in infos:
        name = _name(info)
        path = "/".join(part for part in name.removesuffix("/").split("/") if part != ".")
        if _MAC_LITTER in path.split("/"):
            continue
        fault = _fault(info, name, path) or ("stand there twice" if path in members else "")
        if fault:
            faults.setdefault(fault, []).append(name)
        elif not name.endswith("/"):
            members[path] = info
    folders = {str(parent) for path in members for parent in PurePosixPath(path).parents}
    if both := sorted(folders & members.keys()):
        faults["are files and folders at once"] = both
    if faults:
        told = "; ".join(f"{len(names):,} {fault} ({few(names)})" for fault, names in faults.items())
        raise ArchiveError(
            f"{archive} must hold nothing but plain files inside its folder, but of its members {told}. Don't use it, "
            "or have its maker pack it again."
        )
    return members


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name; Macs write UTF-8 without saying so, which the reader takes for code page 437."""
    if info.flag_bits & _UTF8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode("utf-8", "backslashreplace")


def _fault(info: zipfile.ZipInfo, name: str, path: str) -> str:
    """What forbids unpacking a member, as a predicate; empty if nothing does."""
    # A name that isn't UTF-8 has got backslashes by now.
    parts = path.split("/")
    if _FORBIDDEN.search(name) or {"", ".."} & set(parts):
        return "have names that leave the folder or are not portable"
    if max(len(part.encode()) for part in parts) > _LONGEST_PART or len(path.encode()) > _LONGEST_PATH:
        return "have names that are too long"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "are links or devices"
    if info.flag_bits & _ENCRYPTED:
        return "are encrypted"
    if info.compress_type not in _METHODS:
        return "are packed with a method other than deflate"
    return ""


def _check_room(archive: Path, target: Path, members: _Members) -> None:
    needed, free = sum(info.file_size for info in members.values()), shutil.disk_usage(target).free
    if needed > free:
        raise InputError(
            f"The disk of {target} must have {needed / 1e6:,.0f} MB free to unpack {archive.name}, but has "
            f"{free / 1e6:,.0f} MB. Make room or choose another target; then run it again."
        )


def _write(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Writes one member; the reader compares its CRC at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(info) as source, path.open("xb") as file:
        # The room was checked for the size that is declared: at the first byte more it ends.
        while size <= info.file_size and (chunk := source.read(_CHUNK)):
            size += file.write(chunk)
    if size != info.file_size:
        raise ArchiveError(
            f"Every member of {archive} must have the size that it declares, but {few([info.orig_filename])} declares "
            f"{info.file_size:,} bytes and has {'more' if size > info.file_size else f'{size:,}'}. Fetch it again."
        )


def _move(aside: Path, target: Path, paths: list[str]) -> None:
    """Moves the files to their places once it is sure that all of them can be."""
    root = target.resolve()
    folders = {PurePosixPath(path).parent for path in paths}
    folders |= {parent for folder in folders for parent in folder.parents}
    taken = [str(folder) for folder in folders if os.path.lexists(target / folder) and not (target / folder).is_dir()]
    taken += [path for path in paths if os.path.lexists(target / path) and not _same(aside / path, target / path)]
    if taken:
        raise InputError(
            f"What is unpacked must not overwrite other files, but in {target} there are {len(taken):,} of the same "
            f"names: {few(sorted(taken))}. Move them away or choose another target."
        )
    if astray := [str(folder) for folder in folders if not (target / folder).resolve().is_relative_to(root)]:
        raise InputError(
            f"What is unpacked must stay in {target}, but these of its folders are links to elsewhere: "
            f"{few(sorted(astray))}. Remove the links or choose another target."
        )
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / path, target / path)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
