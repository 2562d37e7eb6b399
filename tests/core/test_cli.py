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


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EIO]
)
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


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "", "²", "٣", "1000001", "9" * 5000])
def test_a_positive_int_is_one_of_a_size_that_somebody_may_mean(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 1,000,000, but got "):
        cli.positive_int(text)
    assert (cli.positive_int("12"), cli.positive_int("1000000")) == (12, 1_000_000)


def test_seeds_may_be_larger_than_counts_and_a_search_may_last_a_year() -> None:
    assert cli.natural_int("20240131235959") == 20240131235959
    assert cli.seconds("31622400") == 366 * 24 * 3600
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 31,622,400, but got 31622401"):
        cli.seconds("31622401")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trials", "0"], "`--trials` must be a whole number from 1 to 1,000,000, but got --trials=0. Give such a"),
        (["--trials", "many"], "`--trials` must be a whole number from 1 to 1,000,000, but got --trials=many. Give"),
        (["--trials", "1e6"], "`--trials` must be a whole number from 1 to 1,000,000, but got --trials=1e6. Give"),
        (["--trials"], "`--trials` must have one value, but got none. `tool --help` tells what there is."),
        ([], "`--trials` must be given, but got none. `tool --help` tells what there is."),
        (["--trials", "1", "--name", "x"], "`--name` must be one of 'a', 'b', but got --name=x. `tool --help` tells"),
        (["--trials", "1", "--loud"], "The arguments must be known ones, but got --loud. `tool --help` tells"),
        (["--trials", "1", "--quiet=1"], "`--quiet`: ignored explicit argument '1'. `tool --help` tells"),
    ],
)
def test_wrong_arguments_are_one_sentence_without_the_usage(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = cli.Parser(prog="tool")
    parser.add_argument("--trials", type=cli.positive_int, required=True)
    parser.add_argument("--name", choices=("a", "b"))
    parser.add_argument("--quiet", action="store_true")

    assert cli.run(lambda args: 0, parser, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tool: error: {sentence}")
    assert error.count("\n") == 1


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    script = "import sys; from core import cli; sys.exit(cli.run(lambda args: [cli.write('x') for _ in iter(int, 1)], "
    script += "cli.Parser(prog='tool'), []))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 141


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([""], "An argument"),
        (["places", ""], "An argument"),
        (["--out", ""], "`--out`"),
        (["--out="], "`--out`"),
    ],
)
def test_an_empty_argument_is_not_this_folder(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.Parser(prog="tool")
    parser.add_argument("places", type=Path, nargs="*")
    parser.add_argument("--out", type=Path)
    assert cli.run(lambda args: 0, parser, words) == 2
    assert capsys.readouterr().err.startswith(f"tool: error: {named} must not be empty, but got ''.")


def test_too_little_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    status, error = command(MemoryError("batches of 9 take about 85.0 GB"), capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("tool: error: batches of 9 take about 85.0 GB. Ask for less")
