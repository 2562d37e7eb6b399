"""A downloader for pooch that goes on where it stopped, in the same process and in a later one.

What has come lies in ``NAME.part``; ``NAME.part.json`` says which version of the file it is a part of.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import cli
from core.errors import InputError, one_line, shorten
from core.files import read_json, write_json
from core.transfer import BrokenError, Patience, UnreachableError, asked, persist

if TYPE_CHECKING:
    import requests

_CHUNK = 1 << 16  # bytes; of a chunk that breaks off nothing is kept
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_MD5 = re.compile(r'"([0-9a-f]{32})"')


class WrongBytesError(InputError):
    """A file came whole and is not the one that its checksum is of."""


class ResumingDownloader:
    """Fetches one file for `pooch.Pooch.fetch`.

    Args:
        part: Where the bytes are kept until they are all there.
        checksum: What the file must have, as ``md5:…`` or ``sha256:…``; empty if unknown.
        patience: How long to wait for a silent or failing server.
    """

    def __init__(self, part: Path, *, checksum: str, patience: Patience) -> None:
        self._part = part
        self._state = part.with_name(f"{part.name}.json")
        self._checksum = checksum
        self._patience = patience

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fetches `url` and moves it to `output_file`; the signature is pooch's.

        Raises:
            UnreachableError: The address doesn't serve the file.
            WrongBytesError: Other bytes came than the checksum is of; they have been deleted.
            InputError: The disk is too small.
        """
        resumed = self._held(url) > 0
        self._complete(url)
        fault = self._fault()
        if fault and resumed:  # perhaps parts of two versions: one in a single piece decides
            self.discard()
            self._complete(url)
            fault = self._fault()
        if fault:
            self.discard()
            raise WrongBytesError(
                f"{self._part.stem} from {url} must have {fault}. The file has been deleted; run the same command "
                "again, and if it fails again, then the source or something on the way has changed the file: ask "
                "whoever runs it."
            )
        self._part.replace(output_file)
        self._state.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forgets what has come."""
        self._state.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _complete(self, url: str) -> None:
        persist(lambda: self._attempt(url), done=self._size, url=url, patience=self._patience)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _read_state(self) -> dict[str, Any]:
        try:
            state = read_json(self._state)
        except (InputError, FileNotFoundError):
            return {}
        return state if isinstance(state, dict) else {}

    def _held(self, url: str) -> int:
        """How many of the bytes that are there can be built upon.

        None unless something will tell if they are of another version: a checksum, or the server's validator.
        """
        state = self._read_state()
        recognisable = self._checksum or (state.get("url") == url and state.get("validator"))
        return self._size() if state and recognisable else 0

    def _attempt(self, url: str) -> None:
        """Asks for what is missing, and appends it. Breaking off leaves a longer part."""
        held, state = self._held(url), self._read_state()
        if held and held == state.get("total"):
            return
        headers = {"Range": f"bytes={held}-"} if held else {}
        if held and state.get("url") == url and state.get("validator"):
            headers["If-Range"] = str(state["validator"])
        with asked(url, self._patience, headers) as response:
            self._refuse_pages(url, response)
            goes_on = held > 0 and self._continues(url, response, held, state)
            if not goes_on:
                self.discard()
            if response.status_code == 200 or (goes_on and response.status_code == 206):
                self._append(url, response, held if goes_on else 0)
            elif held and not goes_on:
                raise BrokenError("a part that doesn't fit what is there")
            elif not held:
                raise UnreachableError(
                    f"`--download` must get the whole of {url}, but got status {response.status_code} for it. Name "
                    "another source with DERMATUNE_MIRROR."
                )

    def _continues(self, url: str, response: "requests.Response", held: int, state: dict[str, Any]) -> bool:
        """Whether an answer goes on after the bytes that are there, or says that they are all."""
        if response.status_code == 416:
            return response.headers.get("Content-Range") == f"bytes */{held}"
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or found is None or int(found[1]) != held:
            return False
        same_size = found[2] == "*" or state.get("total") in (None, int(found[2]))
        same_version = state.get("url") != url or _validator(response) in ("", state.get("validator"))
        return same_size and same_version

    def _append(self, url: str, response: "requests.Response", held: int) -> None:
        length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        total = held + int(length[0]) if length else None
        if total is None and not self._checksum and response.headers.get("Transfer-Encoding") != "chunked":
            raise UnreachableError(
                f"`--download` must learn the length of {self._part.stem}, which has no checksum, but {url} gives "
                "none, and a broken connection would pass for its end. Name another source with DERMATUNE_MIRROR."
            )
        self._refuse_small_disk(0 if total is None else total - held)
        if not held:
            state = {"url": url, "validator": _validator(response), "total": total, "md5": _md5_of_s3(response)}
            write_json(self._state, state)
        with self._part.open("ab") as file, cli.progress(f"{self._part.stem}, MB", round((total or 0) / 1e6)) as bar:
            shown, size = 0, held
            for chunk in response.iter_content(_CHUNK):
                size += file.write(chunk)
                if size - shown >= 1_000_000:
                    bar.advance((size - shown) // 1_000_000)
                    shown = size - size % 1_000_000
        if total is not None and size != total:
            raise BrokenError(f"{size:,} of {total:,} bytes")

    def _refuse_pages(self, url: str, response: "requests.Response") -> None:
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UnreachableError(
                f"`--download` must get {self._part.stem} from {url}, but got a web page. Log in to the network, or "
                "accept the terms of the source, with a browser; then run it again."
            )

    def _refuse_small_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if needed > free:
            raise InputError(
                f"The disk of {self._part.parent} must have {needed / 1e6:,.0f} MB free for {self._part.stem}, but has "
                f"{free / 1e6:,.0f} MB. Make room or choose another target; then run it again."
            )

    def _fault(self) -> str:
        """What is wrong with the complete file: ``md5 …, but has …``; empty if nothing is."""
        import pooch

        md5 = self._read_state().get("md5")
        expected = self._checksum or (f"md5:{md5}" if md5 else "")
        if not expected or pooch.hashes.hash_matches(self._part, expected):
            return ""
        algorithm = pooch.hashes.hash_algorithm(expected)
        found = pooch.file_hash(self._part, alg=algorithm)
        return f"{algorithm} {expected.split(':')[-1]}, but has {found}"


def _validator(response: "requests.Response") -> str:
    """What names the file's version in If-Range; a weak ETag is not allowed there."""
    etag: str = response.headers.get("ETag", "")
    strong = etag if etag.startswith('"') else ""
    return shorten(one_line(strong or response.headers.get("Last-Modified", "")), 500)


def _md5_of_s3(response: "requests.Response") -> str:
    """The MD5 that S3 gives as ETag of files that were uploaded in one piece and are not encrypted with a key."""
    found = _MD5.fullmatch(response.headers.get("ETag", ""))
    keyed = "kms" in response.headers.get("x-amz-server-side-encryption", "")
    return found[1] if found and response.headers.get("Server") == "AmazonS3" and not keyed else ""
