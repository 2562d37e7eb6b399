"""What is fuzzed, and what must never happen to it."""

import atexit
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

LIMIT_S = 5


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: For the log.
        share: Its part of all inputs.
        inputs: What it is given.
        check: Gives an input to the reader; passes where the reader works or refuses in one sentence.
        needs_torch: Whether the reader maps so much memory that none can be denied to it.
    """

    name: str
    share: float
    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]
    needs_torch: bool = False


class HangError(Exception):
    """A reader took longer than `LIMIT_S`."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Interrupts what takes too long, also while it waits in the system."""

    def interrupt(number: int, frame: object) -> None:
        raise HangError(f"no answer within {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_one_sentence(error: Exception) -> None:
    """A refusal must fit a terminal, whatever the file held."""
    text = str(error)
    assert len(text) < 10_000, f"{len(text)} characters"
    assert text.rstrip().endswith((".", "`")), text[-50:]


@cache
def scratch(name: str) -> Path:
    """A folder of this process for one target."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
