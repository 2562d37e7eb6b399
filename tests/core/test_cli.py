import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import cli
from core.errors import InputError

ROOT = Path(__file__).parents[2]


def command(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def main(args: argparse.Namespace) -> int:
        if error is not None:
            raise error
        return 0

    return cli.run(main, argparse.ArgumentParser(prog="tool"), []), capsys.readouterr().err


def test_what_the_user_can_mend_is_one_sentence_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(InputError("`x` must be 1."), capsys) == (2, "tool: error: `x` must be 1.\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_locked_disk_is_one_sentence(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = command(OSError(number, os.strerror(number), "/full/file"), capsys)
    assert status == 2
    assert error.startswith(f"tool: error: {os.strerror(number)} (/full/file).")
    assert error.count("\n") == 1


def test_our_own_defects_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="ours"):
        command(KeyError("ours"), capsys)


def test_an_interrupt_ends_with_the_shells_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(KeyboardInterrupt(), capsys)[0] == 130


def test_success_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(None, capsys) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with cli.stopping_cleanly():
        assert not cli.stop_asked()
        os.kill(os.getpid(), number)
        assert cli.stop_asked()
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_bar_is_silent_where_nobody_watches() -> None:
    script = "from core.cli import progress\nwith progress('counting', 3) as bar:\n    bar.advance(3)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_a_positive_int_is_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be a whole number of at least 1, but got {text}"):
        cli.positive_int(text)
    assert cli.positive_int("12") == 12
