"""Files at a URL, for machines that share no folder: whatever fsspec can open, each file whole or absent."""

import functools
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from core.errors import InputError, LostError, one_line, shorten
from core.files import written_aside

# fsspec expands them, and for some kinds of URL also where it moves or removes a file: others' files would be hit.
_WILDCARDS = frozenset("*?[")

_Result = TypeVar("_Result")


def _named(method: Callable[..., _Result]) -> Callable[..., _Result]:
    """Every kind of file system has errors of its own; they all mean that the URL can't be used now."""

    @functools.wraps(method)
    def call(self: "Remote", *args: Any, **kwargs: Any) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            raise LostError(
                f"{self.url} must be a place that files can be written to and read from, but it is not now "
                f"({shorten(one_line(f'{type(error).__name__}: {error}'))}). Mend that; the same command continues."
            ) from error

    return call


class Remote:
    """A folder at a URL. Names are relative to it, with slashes.

    Args:
        url: Such as ``s3://bucket/studies``, ``sftp://host/studies`` or ``file:///mnt/studies``.

    Raises:
        InputError: fsspec doesn't know this kind of URL, the package that serves it isn't installed, or the path looks
            like a pattern.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self._files, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"`--studies` must be a folder or a URL that fsspec can open, but got --studies {shorten(url)} "
                f"({shorten(one_line(str(error)))}). Install what it needs, or choose another."
            ) from error
        if found := _WILDCARDS & set(root):
            raise InputError(
                f"`--studies` must have none of {' '.join(sorted(_WILDCARDS))} in the path of a URL, but got --studies "
                f"{shorten(url)} with {' '.join(sorted(found))}. Choose another."
            )
        self._root = PurePosixPath(root)

    @_named
    def put(self, file: Path, name: str) -> None:
        """Sends a file; under its name it is whole from the first moment, in place of what was there."""
        self._send(name, lambda aside: self._files.put_file(str(file), aside))

    @_named
    def write(self, name: str, content: bytes) -> None:
        """Sends the content of a small file, in the same way."""
        self._send(name, lambda aside: self._files.pipe_file(aside, content))

    def _send(self, name: str, write: Callable[[str], object]) -> None:
        target = self._root / name
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
        self._files.makedirs(str(target.parent), exist_ok=True)
        try:
            write(str(aside))
            self._files.mv(str(aside), str(target))
        except BaseException:
            with suppress(Exception):
                self._files.rm_file(str(aside))
            raise

    @_named
    def get(self, name: str, file: Path) -> bool:
        """Fetches a file; false if it isn't there."""
        try:
            with written_aside(file) as aside:
                self._files.get_file(str(self._root / name), str(aside))
        except FileNotFoundError:
            return False
        return True

    @_named
    def read(self, name: str) -> bytes:
        """The content of a small file; empty if it isn't there."""
        try:
            content: bytes = self._files.cat_file(str(self._root / name))
        except FileNotFoundError:
            return b""
        return content

    @_named
    def names(self, pattern: str) -> list[str]:
        """What fits a pattern, sorted; files that are still being sent don't."""
        self._files.invalidate_cache()  # others write there, too
        found = [PurePosixPath(path) for path in self._files.glob(str(self._root / pattern))]
        return sorted(str(path.relative_to(self._root)) for path in found if not path.name.startswith("."))

    @_named
    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it, if it is there."""
        path = str(self._root / name)
        if self._files.exists(path):
            self._files.rm(path, recursive=True)

    @_named
    def remove_file(self, name: str) -> None:
        """Removes a file, if it is there; a folder of that name stays."""
        path = str(self._root / name)
        if self._files.isfile(path):
            self._files.rm_file(path)

    @_named
    def age_s(self, name: str) -> float | None:
        """Seconds since a file was sent, 0 where that can't be told; None if it isn't there."""
        try:
            sent = self._files.modified(str(self._root / name))
        except FileNotFoundError:
            return None
        except NotImplementedError:
            return 0.0
        return time.time() - sent.timestamp() if sent.tzinfo else 0.0
