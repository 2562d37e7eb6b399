"""One request after another until an answer comes or patience ends; TLS stays on, every failure becomes a sentence."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from core.errors import InputError, one_line, shorten

if TYPE_CHECKING:
    import requests

_Result = TypeVar("_Result")
# "Identity": of a body compressed on the way, no part could be asked for again. Harvard's Dataverse turns away clients
# that don't say who they are.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "dermatune"}
_PASSING = frozenset({408, 425, 429})  # statuses below 500 that ask to come back later


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a silent or failing server is waited for.

    Attributes:
        connect_s: Longest wait for a connection, seconds.
        read_s: Longest wait for the next byte, seconds.
        tries: How often in a row nothing may come.
        pause_s: Pause before the second try, seconds; it doubles with each.
    """

    connect_s: float = 10
    read_s: float = 60
    tries: int = 5
    pause_s: float = 1


class UnreachableError(InputError):
    """An address doesn't serve its file; another one might."""


class BrokenError(Exception):
    """A connection or a server failed in a way that may pass."""


@contextmanager
def asked(url: str, patience: Patience, headers: Mapping[str, str] | None = None) -> Iterator["requests.Response"]:
    """Sends one GET and yields the answer, with status 200, 206 or 416, its body still to be read.

    Whatever goes wrong with the connection, also while the caller reads the body, becomes one of the two errors.

    Raises:
        UnreachableError: There is nothing at the address, now or later.
        BrokenError: Another try may succeed.
    """
    import requests

    timeout = (patience.connect_s, patience.read_s)
    try:
        with requests.get(url, headers={**_HEADERS, **(headers or {})}, stream=True, timeout=timeout) as response:
            _check(url, response)
            yield response
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise _unreachable(url, "a certificate that nobody here vouches for") from error
        raise BrokenError(_reason(error, patience)) from error
    except requests.RequestException as error:  # addresses that aren't any, redirections without end
        raise _unreachable(url, shorten(one_line(str(error)))) from error


def persist(attempt: Callable[[], _Result], *, done: Callable[[], int], url: str, patience: Patience) -> _Result:
    """Repeats an attempt while it breaks, until it has broken `patience.tries` times in a row without any gain.

    Args:
        attempt: What is tried.
        done: How much it has achieved so far; a break after a gain counts as the first one.
        url: What the error names.
        patience: How often and with which pauses.

    Raises:
        UnreachableError: Patience has ended.
    """
    breaks = 0
    while True:
        before = done()
        try:
            return attempt()
        except BrokenError as error:
            breaks = 1 if done() > before else breaks + 1
            if breaks >= patience.tries:
                raise _unreachable(url, f"{error}, {breaks} times in a row") from error
            time.sleep(patience.pause_s * 2 ** (breaks - 1))


def _check(url: str, response: "requests.Response") -> None:
    status = response.status_code
    if status >= 500 or status in _PASSING:
        raise BrokenError(f"status {status} {response.reason}".rstrip())
    if status not in (200, 206, 416):
        raise _unreachable(url, f"status {status} {response.reason}".rstrip())
    # An address on the way that isn't encrypted may have been changed, too.
    plain = [each.url for each in (*response.history, response) if not each.url.startswith("https:")]
    if url.startswith("https:") and plain:
        raise _unreachable(url, f"a redirection to {shorten(one_line(plain[0]))}, which isn't encrypted")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _unreachable(url, f"a body packed as {shorten(one_line(response.headers['Content-Encoding']))}")


def _unreachable(url: str, what: str) -> UnreachableError:
    return UnreachableError(
        f"`--download` must get an answer with the file from {url}, but got {what}. Look at the network, the proxy "
        "(HTTPS_PROXY) and the address, then run the same command again, which continues where it stopped; or name a "
        "mirror with DERMATUNE_MIRROR."
    )


def _reason(error: BaseException, patience: Patience) -> str:
    """The innermost cause in the operating system's words; requests' own message has three objects in one another."""
    reason = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    if reason:
        return one_line(reason)
    if "timed out" in str(error):
        return f"silence for {patience.read_s:g} s"
    return "a connection that broke off"
