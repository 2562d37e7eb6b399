"""Fetches a public image set: its licence first, then its files, resumed where they stopped, verified and unpacked.

In TARGET it keeps the set, CHECKSUMS.sha256 of all that was fetched, and the hidden folder ``.downloads`` with what is
under way and a list of what is done, by which the same command finds that nothing is missing.
"""

import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core import cli
from core.archives import ArchiveError, list_members, unpack
from core.dataverse import look_up
from core.download_catalogue import CATALOGUE, Collection, RemoteFile, mirrored
from core.errors import InputError, few
from core.files import read_json, write_json, written_aside
from core.listing import may_be_data
from core.resuming import ResumingDownloader, WrongBytesError
from core.transfer import Patience, UnreachableError

_MIRROR = "DERMATUNE_MIRROR"
_DOWNLOADS = ".downloads"
_CHECKSUMS = "CHECKSUMS.sha256"
_LINE = re.compile(r"^([0-9a-f]{64}) [ *](\S.*)$", re.MULTILINE)  # as sha256sum writes them


def download(name: str, target: Path, *, base_url: str | None = None) -> list[Path]:
    """Downloads an image set of the catalogue into a folder; what is there already is not fetched again.

    Args:
        name: One of `core.download_names.NAMES`.
        target: Folder to download into; made if it isn't there.
        base_url: Address of a mirror that has every file as ``<set>/<file>``; by default that of the environment
            variable ``DERMATUNE_MIRROR``, else the public sources.

    Returns:
        What the set consists of: folders and files below `target`.

    Raises:
        InputError: There is no such set, the folder holds another one, its source can't be reached or serves wrong
            bytes, or the disk is too small.
    """
    if name not in CATALOGUE:
        raise InputError(
            f"`--download` must be one of {', '.join(CATALOGUE)}, but got {few([name])}. Give one of them."
        )
    mirror = os.environ.get(_MIRROR, "") if base_url is None else base_url
    if mirror and not mirror.startswith(("http://", "https://")):
        raise InputError(f"`{_MIRROR}` must start with http:// or https://, but got {few([mirror])}. Mend or unset it.")
    collection = CATALOGUE[name]
    return fetch(mirrored(collection, mirror) if mirror else collection, target)


def fetch(collection: Collection, target: Path, *, patience: Patience | None = None) -> list[Path]:
    """Downloads any collection; `download` says how."""
    if target.exists() and not target.is_dir():
        raise InputError(f"The target of `--download` must be a folder, but {target} is a file. Give another one.")
    patience = patience or Patience()
    place = _Target(target.absolute(), collection.name)
    place.refuse_other_sets(collection.files)
    _announce(collection, target)
    with place.locked():
        missing = [file for file in collection.files if not place.parts_of(file)]
        if missing and collection.dataverse:
            collection = look_up(collection, patience)
            missing = [file for file in collection.files if not place.parts_of(file)]
        for file in collection.files:
            _tell(file, place.parts_of(file))
        place.check_room(missing)
        for file in missing:
            place.add(file, patience)
        if not missing:
            cli.write("everything is there, nothing is fetched")
        return [place.root / part for file in collection.files for part in place.parts_of(file)]


def _announce(collection: Collection, target: Path) -> None:
    for label, text in (
        ("set", collection.title),
        ("licence", collection.licence),
        ("cite", collection.citation),
        ("from", collection.page),
        ("to", str(target)),
    ):
        cli.write(f"{label:<8} {text}")


def _tell(file: RemoteFile, parts: list[str]) -> None:
    if parts:
        cli.write(f"there    {file.name}: {few(parts)}")
        return
    size = f"about {file.megabytes:,.0f} MB" if file.megabytes >= 1 else "under 1 MB" if file.megabytes else "any size"
    proof = f"{file.checksum.split(':')[0]} as published" if file.checksum else "no published checksum"
    cli.write(f"fetch    {file.name}, {size}, {proof}, from {file.urls[0]}")


class _Target:
    """The folder that is downloaded into, and what it has been told of.

    Args:
        root: Its absolute path.
        name: Name of the collection.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._name = name
        self._downloads = root / _DOWNLOADS
        self._list = self._downloads / f"{name}.json"

    def refuse_other_sets(self, files: Sequence[RemoteFile]) -> None:
        """Refuses a folder with other data in it: two sets in one folder are read as one, or not at all.

        Args:
            files: What the set consists of; these may have been put there by hand.

        Raises:
            InputError: Another set was downloaded to it, or it holds what may be data before the first download.
        """
        rule = f"The target of `--download {self._name}` must be a folder without other sets"
        lists = {name: self._downloads / f"{name}.json" for name in CATALOGUE if name != self._name}
        if others := [name for name, file in lists.items() if file.exists()]:
            raise InputError(f"{rule}, but {few(others)} was downloaded to {self.root}. Give a new folder.")
        if self._downloads.is_dir() or not self.root.is_dir():
            return
        ours = {_CHECKSUMS, *(file.name for file in files), *(file.folder for file in files)}
        there = sorted(set(os.listdir(self.root)) - ours)
        if strange := [name for name in there if may_be_data(self.root / name)]:
            raise InputError(f"{rule}, but {self.root} already has {few(strange)}. Give a new folder.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes away, which would append to the same parts."""
        from filelock import FileLock, Timeout

        self._downloads.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._downloads / "lock", timeout=0):
                for stray in self._downloads.glob("tmp*"):  # pooch's, of a process that was killed
                    stray.unlink()
                yield
        except Timeout as error:
            raise InputError(
                f"One download at a time may write to {self.root}, but another is running. Wait for it or choose "
                "another target."
            ) from error

    def parts_of(self, file: RemoteFile) -> list[str]:
        """What a file that is done became, relative to the root; empty if it must be fetched."""
        entry = self._read_list().get(file.name)
        parts = entry.get("parts") if isinstance(entry, dict) else None
        known = isinstance(parts, list) and all(isinstance(part, str) and (self.root / part).exists() for part in parts)
        return list(parts) if parts and known else []

    def check_room(self, missing: list[RemoteFile]) -> None:
        """Refuses to start what can't end: an archive and what comes out of it lie there together for a while."""
        largest = max((file.megabytes for file in missing if file.is_archive), default=0.0)
        held = sum(part.stat().st_size for part in self._downloads.glob("*.part")) / 1e6
        needed = sum(file.megabytes for file in missing) + largest - held
        free = shutil.disk_usage(self.root).free / 1e6
        if needed > free:
            raise InputError(
                f"The disk of {self.root} must have about {needed:,.0f} MB free, but has {free:,.0f} MB. Make room or "
                "choose another target."
            )

    def add(self, file: RemoteFile, patience: Patience) -> None:
        """Fetches a file, verifies it, unpacks it if it is an archive, and lists it as done."""
        import pooch

        checksums = self._read_checksums()
        pinned = f"sha256:{checksums[file.name]}" if file.name in checksums and not file.checksum else ""
        try:
            fetched = self._adopt(file) or self._fetch(file, file.checksum or pinned, patience)
        except WrongBytesError as error:
            way_out = f" If its publisher has changed it on purpose, remove its line from {self.root / _CHECKSUMS}."
            raise InputError(f"{error}{way_out if pinned else ''}") from error
        sha256 = pooch.file_hash(str(fetched), alg="sha256")
        parts, count = self._place(file, fetched)
        self._write_checksums({**checksums, file.name: sha256})
        write_json(self._list, {**self._read_list(), file.name: {"parts": parts, "files": count}})
        proof = file.checksum or (f"{pinned}, as the first time" if pinned else f"sha256:{sha256}, noted")
        cli.write(f"done     {file.name}: {count:,} {'file' if count == 1 else 'files'}, {proof}")

    def _adopt(self, file: RemoteFile) -> Path | None:
        """A file that somebody has put into its place, if it is the one that would be fetched."""
        import pooch

        place = self.root / file.name
        if file.is_archive or not file.checksum or not place.is_file():
            return None
        if not pooch.hashes.hash_matches(str(place), file.checksum):
            raise InputError(f"{place} must have {file.checksum} to be kept, but has other bytes. Move it away.")
        return place

    def _fetch(self, file: RemoteFile, checksum: str, patience: Patience) -> Path:
        import pooch

        pooch.get_logger().setLevel("WARNING")  # what it would tell has been told
        store = pooch.Pooch(path=self._downloads, base_url="", registry={file.name: checksum or None})
        part = self._downloads / f"{file.name}.part"
        failures: list[UnreachableError] = []
        for url in file.urls:
            store.urls[file.name] = url
            downloader = ResumingDownloader(part, checksum=checksum, patience=patience)
            try:
                return Path(store.fetch(file.name, downloader=downloader))
            except UnreachableError as error:
                failures.append(error)
        raise failures[0]

    def _place(self, file: RemoteFile, fetched: Path) -> tuple[list[str], int]:
        """Puts a file or an archive's members where they belong; says what is there then, and how many files."""
        if not file.is_archive:
            place = self.root / file.name
            if os.path.lexists(place) and not (place.is_file() and filecmp.cmp(fetched, place, shallow=False)):
                raise InputError(
                    f"A download must not overwrite another file, but {place} has other bytes. Move it away; what was "
                    "fetched is kept."
                )
            os.replace(fetched, place)
            return [file.name], 1
        folder = self.root / file.folder
        try:
            tops = sorted({path.split("/")[0] for path in list_members(fetched)})
            if not file.folder and (ours := {_DOWNLOADS, _CHECKSUMS} & set(tops)):
                raise ArchiveError(f"{file.name} must not write our own records, but holds {few(ours)}. Don't use it.")
            count = unpack(fetched, folder)
        except ArchiveError:
            fetched.unlink()  # or it would be found there, and refused, by every run to come
            raise
        if hasattr(os, "sync"):
            os.sync()  # the archive must not be gone before what came out of it is on the disk
        fetched.unlink()
        return [file.folder] if file.folder else tops, count

    def _read_list(self) -> dict[str, Any]:
        try:
            entries = read_json(self._list)
        except (InputError, FileNotFoundError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _read_checksums(self) -> dict[str, str]:
        try:
            text = (self.root / _CHECKSUMS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return {match[2]: match[1] for match in _LINE.finditer(text)}

    def _write_checksums(self, checksums: dict[str, str]) -> None:
        with written_aside(self.root / _CHECKSUMS) as aside:
            aside.write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sorted(checksums.items())), "utf-8")
