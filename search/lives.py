"""Whether a worker's process lives, told at once by a file that it keeps locked; the system frees it with its end."""

from contextlib import suppress
from pathlib import Path

import filelock

_TIMEOUT_S = 5.0  # somebody may be looking whether it is free


class Lives:
    """Files that are locked as long as the workers live that they are named after.

    Args:
        folder: Seen by all processes that are to tell of each other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, filelock.BaseFileLock] = {}

    def begin(self, worker: str) -> None:
        """Locks the file of a worker of this process."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self._file(worker), thread_local=False)
        lock.acquire(timeout=_TIMEOUT_S)
        self._held[worker] = lock

    def go_on(self, worker: str) -> None:
        """Locks the file anew if somebody has removed it."""
        if worker in self._held and self._file(worker).exists():
            return
        if lock := self._held.pop(worker, None):
            lock.release(force=True)
        self.begin(worker)

    def end(self, worker: str) -> None:
        """Removes the file of a worker that leaves, or whose process has ended."""
        if lock := self._held.pop(worker, None):
            lock.release(force=True)
        with suppress(OSError):  # Windows keeps a lock's file while anybody has it open
            self._file(worker).unlink(missing_ok=True)

    def has_ended(self, worker: str) -> bool:
        """Whether no process holds the file of a worker; false where that can't be told."""
        if worker in self._held:
            return False
        if not self._file(worker).exists():
            return True
        lock = filelock.FileLock(self._file(worker), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except OSError:  # it is held, or is in a folder that only others write to
            return False
        lock.release()
        return True

    def _file(self, worker: str) -> Path:
        return self._folder / f"worker-{worker}.lock"
