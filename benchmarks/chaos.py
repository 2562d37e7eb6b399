"""Kills and stops a search's processes, and looks for what was lost: python -m benchmarks.chaos --workers 4 --seed S.

Runs a real search on built-in images. Meanwhile it picks, again and again, one of its processes and kills it, stops it
for longer than the grace, or lets it run only a tenth of the time; sometimes it is the command itself, which
is then typed again. What is looked for afterwards: exactly as many finished trials as were asked for, no number twice,
every artifact whole, the history of every interrupted trial equal to an undisturbed run's, an ensemble that builds. The
ratio is the number of losses.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.chaos_checks import find_losses
from benchmarks.reporting import add_out_argument, finish
from core.cli import Parser, natural_int, positive_int, run, write
from core.errors import InputError

if TYPE_CHECKING:
    import optuna

    from core.artifacts import StudiesFolder
    from search.leases import Leases

GRACE_S = 5
_STDERR = 2  # where what the search says goes, as it is not what this command says
_CALM_S = (2.0, 6.0)  # between two blows, from the moment that an epoch has been reported since the last
_STARVED_S, _STARVED_SHARE = 4.0, 0.1
STUDY = "chaos"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--workers", type=positive_int, default=4, help="default: 4")
    parser.add_argument("--trials", type=positive_int, default=40, help="default: 40")
    parser.add_argument("--kills", type=positive_int, default=30, help="blows of any kind (default: 30)")
    parser.add_argument("--epochs", type=positive_int, default=60, help="of a trial (default: 60)")
    parser.add_argument("--images", type=positive_int, default=200, help="default: 200")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default="",
        help="PostgreSQL database, with trials at a URL (default: a journal)",
    )
    parser.add_argument("--seed", type=natural_int, default=0, help="of the blows (default: 0)")
    add_out_argument(parser, "chaos")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the search under blows, then checks what it left."""
    from core.demo import write_demo
    from core.mirror import open_studies
    from search.storage import open_leases

    with tempfile.TemporaryDirectory() as folder:
        images = write_demo(Path(folder) / "images", images=args.images, width=96, height=72)
        words = ["--arch", "test_efficientnet", "--weights", "none", "--device", "cpu", "--image-size", "32"]
        place = f"file://{folder}/studies" if args.storage else f"{folder}/studies"
        words += ["--data", str(images), "--studies", place, "--study", STUDY]
        words += ["--storage", args.storage] if args.storage else []
        words += ["--epochs", str(args.epochs), "--patience", "0", "--pruner", "none", "--trials", str(args.trials)]
        words += ["--workers", str(args.workers), "--grace", str(GRACE_S)]
        studies = open_studies(place)
        leases = open_leases(studies.study(STUDY), args.storage)
        storm = Storm(leases, Epochs(studies, args.storage), words, random.Random(args.seed))
        begin = time.monotonic()
        blows = storm.rage(args.kills)
        write(f"{sum(blows.values())} blows in {time.monotonic() - begin:.0f} s: {dict(blows)}")
        losses = find_losses(words, trials=args.trials)
    for loss in losses:
        write(f"lost: {loss}")
    rows = [{"seed": args.seed, "blows": dict(blows), "lost": losses}]
    finish(args.out, rows=rows, ratio=len(losses), about="trials, artifacts and numbers lost")
    write(f"lost: {len(losses)}")
    return 1 if losses or sum(blows.values()) < args.kills else 0


class Storm:
    """Strikes the processes of a search.

    Args:
        leases: Who runs which trial of it.
        epochs: Counts those that it has reported.
        words: Its arguments.
        rng: Draws the blows.
    """

    def __init__(self, leases: "Leases", epochs: "Epochs", words: list[str], rng: random.Random) -> None:
        self._leases, self._epochs, self._words, self._rng = leases, epochs, words, rng
        self._blows: Counter[str] = Counter()

    def rage(self, blows: int) -> Counter[str]:
        """Strikes so many times, or until the search is over; returns the blows by kind."""
        search = self._start()
        while search.poll() is None and sum(self._blows.values()) < blows:
            if not self._wait_for_an_epoch(search):
                break
            time.sleep(self._rng.uniform(*_CALM_S))
            self._strike(search)
            if search.poll() is not None and search.returncode == -signal.SIGKILL:
                search = self._start()
        while (status := search.wait()) != 0:
            assert status == -signal.SIGKILL, f"the search ended with {status}"
            search = self._start()
        return self._blows

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "search.run", *self._words], stdout=_STDERR)

    def _wait_for_an_epoch(self, search: "subprocess.Popen[bytes]") -> bool:
        """Waits until the search goes on; false if it ends before. Faster blows than a process starts prove nothing."""
        before = self._epochs.count()
        while search.poll() is None:
            if self._epochs.count() > before:
                return True
            time.sleep(0.2)
        return False

    def _strike(self, search: "subprocess.Popen[bytes]") -> None:
        victims = self._workers()
        if not victims:
            return
        kinds: dict[str, Callable[[int], None]] = {"killed": _kill, "stopped": _stop, "starved": _starve}
        kind = self._rng.choices([*kinds, "command killed"], weights=[5, 2, 2, 1])[0]
        if kind == "command killed":
            search.kill()
            search.wait()
        else:
            kinds[kind](self._rng.choice(victims))
        self._blows[kind] += 1

    def _workers(self) -> list[int]:
        """Process numbers of the workers that the command has started."""
        workers = self._leases.read_workers().values()
        return sorted(worker.pid for worker in workers if worker.parent and psutil.pid_exists(worker.pid))


class Epochs:
    """Counts the epochs that a search has reported.

    Args:
        studies: Where it writes.
        database: Its `--storage`.
    """

    def __init__(self, studies: "StudiesFolder", database: str) -> None:
        self._studies, self._database = studies, database
        self._study: optuna.Study | None = None

    def count(self) -> int:
        """How many there are by now; none before the study has been made."""
        import optuna

        from search.storage import read_storage
        from search.workers import count_epochs

        if self._study is None:
            try:
                storage = read_storage(self._studies, self._database)
                self._study = optuna.load_study(storage=storage, study_name=STUDY)
            except (InputError, KeyError):
                return 0
        return count_epochs(self._study)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has just ended


def _kill(pid: int) -> None:
    _send(pid, signal.SIGKILL)


def _stop(pid: int) -> None:
    _send(pid, signal.SIGSTOP)
    time.sleep(2 * GRACE_S)
    _send(pid, signal.SIGCONT)


def _starve(pid: int) -> None:
    until = time.monotonic() + _STARVED_S
    while time.monotonic() < until:
        _send(pid, signal.SIGSTOP)
        time.sleep(1 - _STARVED_SHARE)
        _send(pid, signal.SIGCONT)
        time.sleep(_STARVED_SHARE)


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
