"""Activations on disk, shared by all processes of a machine.

A folder holds one file a set, `<key>.act`, items in the order of their places and nothing else, and `index.json`, which
says what each is like. The index is read and written under a lock; the files are whole or absent.
"""

import dataclasses
import errno
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import filelock
import torch

from core.activations import BusyError, Filling, InMemory, Kind, Places, Remembered, Tier
from core.errors import InputError
from core.files import remove_leftovers, remove_leftovers_of, written_aside
from core.ledger import Holding, Ledger
from core.shapes import NUMBER, find_misfit

_log = logging.getLogger(__name__)

# Writing a gigabyte and reading it again takes a slow disk about this long: what saves less is computed anew.
_LEAST_SAVED_S_PER_GB = 5.0
_LEFTOVER_S = 24 * 3600  # a file aside that nobody has written to for so long is a dead process's
_COUNT_USES_S = 10.0
# Bytes: a smaller set is read in one go, because its batches are used up faster than they are read.
_AT_ONCE = 64 * 2**20
_INDEX = {"clock": NUMBER, "holdings": {str: {"size": int, "saved_s": NUMBER, "uses": int, "priority": NUMBER}}}


def room_for_activations(folder: Path) -> int:
    """Bytes that are free where activations lie, or taken by activations, which could go."""
    return shutil.disk_usage(folder).free + sum(_sizes(folder).values())


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each set that is there, by key; another process may remove one while we look."""
    sizes = {}
    for file in folder.glob("*.act"):
        with suppress(OSError):
            sizes[file.stem] = file.stat().st_size
    return sizes


class DiskTier(Tier):
    """Files of a folder.

    Args:
        folder: Where; only sets of activations lie there.
        device: Where items are wanted.
        limit: Bytes.
    """

    def __init__(self, folder: Path, device: torch.device, limit: int) -> None:
        self._folder, self._device, self._limit = folder, device, limit
        self._gave_up = False
        self._uses: Counter[str] = Counter()  # that the index doesn't know of yet
        self._counted = time.monotonic()
        remove_leftovers(folder, older_than_s=_LEFTOVER_S)
        if sum(_sizes(folder).values()) > limit:  # which was higher before
            self._shrink()

    def _shrink(self) -> None:
        try:
            with self._ledger() as ledger:
                for key in ledger.shrink():
                    self._file(key).unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def find(self, key: str, kind: Kind) -> Remembered | None:
        try:
            return self._find(key, kind)
        except OSError as error:
            self._give_up(error)
            return None

    def _find(self, key: str, kind: Kind) -> Remembered | None:
        file = self._file(key)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != kind.size:
            os.close(descriptor)
            _log.warning("%s is damaged and will be computed anew", file)
            self._remove(key)
            return None
        found = _OnDisk(descriptor, kind, self._device)
        self._note_use(key)
        return found

    def _note_use(self, key: str) -> None:
        """Counts a use. The index is written now and then only: that takes longer than an epoch of a head alone."""
        self._uses[key] += 1
        if time.monotonic() - self._counted >= _COUNT_USES_S:
            with self._ledger():  # which adds them
                pass

    def fill(self, key: str, kind: Kind) -> AbstractContextManager[Filling] | None:
        if self._gave_up or kind.saved_s < _LEAST_SAVED_S_PER_GB * kind.size / 1e9:
            return None
        try:
            return self._fill(key, kind)
        except OSError as error:
            self._give_up(error)
            return None

    def _fill(self, key: str, kind: Kind) -> AbstractContextManager[Filling] | None:
        turn = self._turn(key)
        try:
            turn.acquire(timeout=0)
        except filelock.Timeout as error:
            raise BusyError from error
        try:
            if self._file(key).is_file():  # another process has finished it meanwhile; it is found next time
                raise BusyError
            remove_leftovers_of(self._file(key))  # whoever began it before is dead, as its turn is ours
            with self._ledger() as ledger:
                ledger.holdings.pop(key, None)
                leaving = ledger.admit(key, kind.holding())
                for other in leaving or ():
                    self._file(other).unlink(missing_ok=True)
        except BaseException:
            self._let_go(key, turn)
            raise
        if leaving is None:
            self._let_go(key, turn)
            return None
        return self._filling(key, kind, turn)

    def _turn(self, key: str) -> filelock.BaseFileLock:
        """Held by the process that computes a set; the system lets go of it when that dies."""
        return filelock.FileLock(self._folder / f"{key}.lock")

    @contextmanager
    def _filling(self, key: str, kind: Kind, turn: filelock.BaseFileLock) -> Iterator[Filling]:
        begun = theirs = False  # whether an error is one of who fills, and not of the disk
        try:
            with written_aside(self._file(key)) as aside, aside.open("wb", buffering=0) as out:
                filling = _FillingFile(kind, out.fileno())
                begun = theirs = True
                yield filling
                theirs = False
                if filling.error is not None:
                    raise filling.error
                assert not len(filling.missing), f"{len(filling.missing)} places of {key} are missing"
        except OSError as error:
            if theirs:
                raise
            self._give_up(error)
            if not begun:
                yield _FillingNothing(kind.rows)
        finally:
            try:
                with self._ledger() as ledger:
                    if key in ledger.holdings and not self._file(key).is_file():
                        del ledger.holdings[key]
            except OSError as error:
                self._give_up(error)
            self._let_go(key, turn)

    def _let_go(self, key: str, turn: filelock.BaseFileLock) -> None:
        """Lets other processes compute a set."""
        # While it is still ours: removed later, it could be another process's already, and two would have it.
        with suppress(OSError):  # Windows keeps a lock's file while anybody has it open.
            (self._folder / f"{key}.lock").unlink(missing_ok=True)
        turn.release()

    def _give_up(self, error: OSError) -> None:
        """Stops writing, because the disk can take no more."""
        if not self._gave_up:
            _log.warning("no more activations are remembered in %s: %s", self._folder, error.strerror)
        self._gave_up = True

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.act"

    def _remove(self, key: str) -> None:
        with self._ledger() as ledger:
            ledger.holdings.pop(key, None)
            self._file(key).unlink(missing_ok=True)

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        """The ledger of the folder, locked while it is in use and written afterwards."""
        index = self._folder / "index.json"
        with filelock.FileLock(self._folder / ".lock"):
            ledger = self._read(index)
            for key, uses in self._uses.items():
                for _ in range(uses if key in ledger.holdings else 0):
                    ledger.touch(key)
            self._uses.clear()
            self._counted = time.monotonic()
            yield ledger
            content = {
                "clock": ledger.clock,
                "holdings": {key: dataclasses.asdict(holding) for key, holding in ledger.holdings.items()},
            }
            # Not synced: an index that is lost in a power cut is made anew from the files.
            aside = index.with_suffix(".json.tmp")
            try:
                aside.write_text(json.dumps(content), encoding="utf-8")
                os.replace(aside, index)
            except OSError as error:
                self._give_up(error)

    def _is_being_made(self, key: str) -> bool:
        """Whether a living process computes a set, as this one does if it holds the turn; a dead one's part goes."""
        if not (self._folder / f"{key}.lock").exists():
            return False
        turn = self._turn(key)
        try:
            turn.acquire(timeout=0)
        except filelock.Timeout:
            return True
        remove_leftovers_of(self._file(key))  # its room is somebody else's now
        self._let_go(key, turn)
        return False

    def _read(self, index: Path) -> Ledger:
        """The ledger as it was left, brought in line with the files that are there."""
        ledger = Ledger(limit=self._limit)
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            if misfit := find_misfit(content, _INDEX):
                raise ValueError(misfit)
            ledger.clock = content["clock"]
            ledger.holdings = {key: Holding(**values) for key, values in content["holdings"].items()}
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, RecursionError) as error:
            _log.warning("%s is damaged (%s) and begun anew", index, error)
        there = _sizes(self._folder)
        for key, size in there.items():  # One that the index doesn't know leaves first.
            ledger.holdings.setdefault(key, Holding(size=size, saved_s=0.0)).whole = True
        for key in [key for key, holding in ledger.holdings.items() if holding.whole and key not in there]:
            del ledger.holdings[key]
        for key in [key for key, holding in ledger.holdings.items() if not holding.whole]:
            if not self._is_being_made(key):
                del ledger.holdings[key]
        return ledger


class _OnDisk(Remembered):
    def __init__(self, descriptor: int, kind: Kind, device: torch.device) -> None:
        self._descriptor, self._kind, self._device = descriptor, kind, device

    def batches(self, places: Places, batch_size: int) -> Iterator[torch.Tensor]:
        kind = self._kind
        if kind.size <= _AT_ONCE:
            items = torch.empty((kind.rows, *kind.item), dtype=kind.dtype)
            self._read(0, _bytes_of(items))
            yield from InMemory(items.to(self._device)).batches(places, batch_size)
            return
        size = kind.item_bytes
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            items = torch.empty((len(part), *kind.item), dtype=kind.dtype)
            buffer = _bytes_of(items)
            for number, place in enumerate(part.tolist()):
                self._read(place * size, buffer[number * size : (number + 1) * size])
            yield items.to(self._device)

    def _read(self, offset: int, buffer: memoryview) -> None:
        # Reads, not a memory map: a file that somebody cuts is an error here and a fatal SIGBUS there.
        got = os.preadv(self._descriptor, [buffer], offset)
        if got != len(buffer):
            raise InputError(
                f"Remembered activations must stay as they were written, but {got} of {len(buffer)} bytes are left at "
                f"byte {offset}. Run the same command again."
            )

    def __del__(self) -> None:
        os.close(self._descriptor)


def _bytes_of(items: torch.Tensor) -> memoryview:
    return memoryview(items.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


class _FillingNothing(Filling):
    """Takes what could not be kept."""

    def _put(self, places: Places, items: torch.Tensor) -> None:
        pass


class _FillingFile(Filling):
    def __init__(self, kind: Kind, descriptor: int) -> None:
        super().__init__(kind.rows)
        self._kind, self._descriptor = kind, descriptor
        self.error: OSError | None = None

    def _put(self, places: Places, items: torch.Tensor) -> None:
        if self.error is not None:
            return
        size = self._kind.item_bytes
        content = _bytes_of(items.contiguous().cpu())
        try:
            for number, place in enumerate(places.tolist()):
                part = content[number * size : (number + 1) * size]
                if os.pwrite(self._descriptor, part, place * size) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:  # The run can go on without; it is told at the end.
            self.error = error
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)  # or what has been written would keep others from writing
