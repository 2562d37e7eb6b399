"""What all command lines share: output, errors in one sentence, logging, progress and stopping cleanly.

Only light modules are imported here, so that every `--help` answers at once.
"""

import argparse
import errno
import io
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from core.errors import InputError, one_line, shorten

if TYPE_CHECKING:
    import rich.progress

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_READER_GONE = 141  # 128 + SIGPIPE

_MENDABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT),
    *(errno.ENOLCK, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EIO),
)
_MOST = 1_000_000  # of anything that is counted: trials, epochs, pixels of a side
_LONGEST_S = 366 * 86400  # of a run, seconds
_LARGEST_SEED = 2**63 - 1

# What argparse says, and the same in the form of our other refusals; the rest of what it says is fit as it is.
_ARGPARSE = (
    (r"argument (\S+): (must be .*), but got (.*)", r"`\1` \2, but got \1=\3. Give such a number."),
    (r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", r"`\1` must be one of \3, but got \1=\2."),
    (r"argument (\S+): expected (\w+) arguments?", r"`\1` must have \2 value, but got none."),
    (r"argument (\S+): (.*)", r"`\1`: \2."),
    (r"the following arguments are required: (.*)", r"`\1` must be given, but got none."),
    (r"unrecognized arguments: (.*)", r"The arguments must be known ones, but got \1."),
)


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that refuses in one sentence, without the usage before it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; an empty argument, as an unset variable gives it, would be taken for this folder."""
        words = list(sys.argv[1:] if args is None else args)
        for before, word in zip(["", *words], words, strict=False):
            if word == "" or re.fullmatch(r"--[^=]+=", word):
                flag = word[:-1] or (before if before.startswith("--") else "")
                what = f"`{flag}`" if flag else "An argument"
                self.error(f"{what} must not be empty, but got ''. Name what is meant, or leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises what `run` prints.

        Raises:
            InputError: Always.
        """
        for pattern, sentence in _ARGPARSE:
            if match := re.fullmatch(pattern, message, re.DOTALL):
                message = shorten(match.expand(sentence), 500)
                break
        raise InputError(f"{message.rstrip('.')}. `{self.prog} --help` tells what there is.")


class Progress(Protocol):
    """A bar that grows."""

    def advance(self, n: int = 1) -> None:
        """Counts `n` more."""


class _ReaderGoneError(BrokenPipeError):
    """Nobody reads our stdout any more, as after `| head`."""


_stop = threading.Event()


def stop_asked() -> bool:
    """True once Ctrl-C or SIGTERM has been received under `stopping_cleanly`."""
    return _stop.is_set()


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into `stop_asked`; a second Ctrl-C ends the process the hard way."""
    _stop.clear()

    def ask(number: int, frame: FrameType | None) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt
        _stop.set()
        logging.getLogger(__name__).warning("stopping after this step; the same command continues")

    # A cluster may run us in another thread; there the signals are its own.
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write(text: str = "") -> None:
    """Prints a line of a command's own output, or several, to stdout."""
    try:
        print(_harmless(text), flush=True)
    except BrokenPipeError as error:
        raise _ReaderGoneError(*error.args) from error


def _harmless(text: str) -> str:
    """Text whose lines may come from data, without what would steer a terminal."""
    return "\n".join(map(one_line, text.split("\n")))


def build_bars() -> "rich.progress.Progress":
    """Bars on stderr with counts; silent where stderr is no terminal, and never in the way of a redirected stdout."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    return rich.progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    )


@contextmanager
def progress(description: str, total: int) -> Iterator[Progress]:
    """A progress bar on stderr; silent where stderr is no terminal.

    Args:
        description: What is being counted, a few words.
        total: Count at which the bar is full.
    """
    from rich.markup import escape

    with build_bars() as bars:
        task = bars.add_task(escape(one_line(description)), total=total)

        class Bar:
            def advance(self, n: int = 1) -> None:
                bars.advance(task, n)

        yield Bar()


def run(
    main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> int:
    """Parses, configures logging, runs `main` and turns what the user can mend into one sentence.

    Args:
        main: Takes the parsed arguments, returns the exit status.
        parser: Arguments of the command; `--verbose` is added.
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status: that of `main`, 2 for wrong input, 130 for Ctrl-C, 141 if nobody reads the output.
    """
    parser.add_argument("--verbose", action="store_true", help="log details to stderr")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a class may have letters that a terminal lacks
    try:
        args = parser.parse_args(argv)
    except InputError as error:
        return _refuse(parser.prog, str(error))
    with logging_to_stderr(logging.DEBUG if args.verbose else logging.INFO):
        try:
            return main(args)
        except InputError as error:
            return _refuse(parser.prog, str(error))
        except _ReaderGoneError:
            # Python writes what is left in the buffer when it ends, and would complain again.
            with open(os.devnull, "w") as nowhere, suppress(OSError):
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            return EXIT_READER_GONE
        except OSError as error:
            # Full disks, missing rights and vanished files are the machine's state, not a defect of ours.
            if error.errno not in _MENDABLE:
                raise
            where = f" ({shorten(str(error.filename))})" if error.filename else ""
            way_out = "Make room or give rights there, or choose another place; then run it again."
            return _refuse(parser.prog, f"{error.strerror}{where}. {way_out}")
        except MemoryError as error:
            way_out = "Ask for less, such as smaller images or batches, or close other programs."
            return _refuse(parser.prog, f"{str(error).strip().rstrip('.') or 'Memory does not suffice'}. {way_out}")
        except KeyboardInterrupt:
            sys.stderr.write(f"{parser.prog}: interrupted\n")
            return EXIT_INTERRUPTED


@contextmanager
def logging_to_stderr(level: int) -> Iterator[None]:
    """Shows our own packages' messages from `level` on, and warnings of all others."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    for package in ("core", "search", "ensemble"):
        logging.getLogger(package).setLevel(level)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _harmless(super().format(record))


def command_line(module: str, arguments: Sequence[str] | None = None) -> str:
    """What was typed, as it may be written down: passwords in URLs are left out.

    Args:
        module: That runs.
        arguments: Those after it; None for this process's own.
    """
    words = map(without_password, sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["python", "-m", module, *words])


def without_password(argument: str) -> str:
    """A command line's argument as it may be written down."""
    named = re.sub(r"(?<=://)([^/@:]*):[^/]*@", r"\1:***@", argument)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", named)


def _refuse(program: str, sentence: str) -> int:
    sys.stderr.write(f"{program}: error: {one_line(sentence)}\n")
    return EXIT_INPUT


def natural_int(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return _whole(text, 0, _LARGEST_SEED)


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1 to a million, more than anybody has the time for."""
    return _whole(text, 1, _MOST)


def seconds(text: str) -> int:
    """An argparse type: whole seconds, from 1 to those of a year."""
    return _whole(text, 1, _LONGEST_S)


def _whole(text: str, least: int, most: int) -> int:
    # Python refuses to read thousands of digits; and ² is a digit.
    if not (text.isascii() and text.isdigit() and len(text) <= 30 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most:,}, but got {shorten(text)}")
    return int(text)
