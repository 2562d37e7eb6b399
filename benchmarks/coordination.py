"""What it costs that workers share a study: python -m benchmarks.coordination.

Runs 1, 2, 4, … workers, each a process of its own, on trials that compute nothing, through the loop, the leases and the
sampler of a real search: asked for, reported once, told. Once in an empty study, once in one that holds `--filled`
trials; on the journal, or with `--storage` in a PostgreSQL database. A row gives finished trials a minute, and the
seconds from the end of one trial of a worker to the start of its next. Trials that compute nothing keep all cores busy
with asking alone, so a last row has the most workers in the filled study on trials that wait `--trial-seconds`, as they
would train, and begin spread over that time. The ratio is the slowest start in it; the bar is 1 s.
"""

import argparse
import multiprocessing
import multiprocessing.synchronize
import sys
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from benchmarks.reporting import add_out_argument, finish, show, spread
from core import cli

if TYPE_CHECKING:
    import optuna

    from search.space import Space

BAR_S = 1.0
_barrier: multiprocessing.synchronize.Barrier | None = None  # of a worker process


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.coordination", description=__doc__)
    parser.add_argument("--workers", type=cli.positive_int, nargs="+", default=[1, 2, 4, 8, 16], help="at once")
    parser.add_argument(
        "--filled", type=cli.natural_int, default=10_000, help="trials there before; 0 leaves it out (default: 10000)"
    )
    parser.add_argument("--seconds", type=cli.seconds, default=20, help="of each row (default: 20)")
    parser.add_argument(
        "--trial-seconds", type=cli.positive_int, default=10, help="that a trial of the last row waits (default: 10)"
    )
    parser.add_argument("--storage", metavar="URL", default="", help="PostgreSQL database (default: the journal)")
    add_out_argument(parser, "coordination")
    return parser


def main(args: argparse.Namespace) -> int:
    """Measures each number of workers in both studies."""
    rows = []
    counts = sorted(set(args.workers))
    with tempfile.TemporaryDirectory() as folder:
        for workers in counts:
            rows.append(measure(_Place.new(folder, args.storage), args, workers=workers))
        filled = _Place.new(folder, args.storage)
        with ProcessPoolExecutor(1, mp_context=_spawning()) as pool:
            pool.submit(_fill, filled, args.filled).result()
        # In one study: each row adds a few hundred trials to its thousands.
        for workers in counts if args.filled else ():
            rows.append(measure(filled, args, workers=workers, held=args.filled))
        rows.append(measure(filled, args, workers=counts[-1], trial_s=args.trial_seconds, held=args.filled))
    slowest = rows[-1]["start_s"]["high"]
    cli.write(f"the slowest start: {slowest:.2f} s, the bar is {BAR_S:g}: {'held' if slowest <= BAR_S else 'not held'}")
    finish(
        args.out,
        rows=rows,
        ratio=slowest,
        about="seconds to the slowest start of a trial with the most workers in the filled study",
    )
    return 0 if slowest <= BAR_S else 1


def measure(
    place: "_Place", args: argparse.Namespace, *, workers: int, trial_s: int = 0, held: int = 0
) -> dict[str, Any]:
    """One row."""
    seconds = max(args.seconds, 5 * trial_s)
    barrier = _spawning().Barrier(workers)
    with ProcessPoolExecutor(workers, mp_context=_spawning(), initializer=_meet, initargs=(barrier,)) as pool:
        futures = [pool.submit(_work, place, seconds, trial_s, trial_s * n / workers) for n in range(workers)]
        starts_s = [start_s for future in futures for start_s in future.result()]
    row = {
        "storage": "PostgreSQL" if args.storage else "journal",
        "workers": workers,
        "trials_before": held,
        "trial_s": trial_s,
        "trials_per_min": len(starts_s) / seconds * 60,
        "start_s": spread(starts_s),
    }
    cli.write(
        f"{held:>6,} trials there, {workers:>2} workers on trials of {trial_s} s: {row['trials_per_min']:>6,.0f} "
        f"trials a minute; a trial starts within {show(row['start_s'], 3)} s"
    )
    return row


def _spawning() -> multiprocessing.context.SpawnContext:
    return multiprocessing.get_context("spawn")


def _meet(barrier: multiprocessing.synchronize.Barrier) -> None:
    global _barrier
    _barrier = barrier


class _Place(NamedTuple):
    """A study of its own."""

    folder: Path
    database: str
    study: str

    @classmethod
    def new(cls, folder: str, database: str) -> "_Place":
        name = f"coordination-{uuid.uuid4().hex[:8]}"
        return cls(Path(folder) / name, database, name)


def _open(place: _Place) -> "optuna.Study":
    from core.artifacts import StudiesFolder
    from search.storage import open_storage, open_study

    return open_study(open_storage(StudiesFolder(place.folder), place.database), place.study)


def _fill(place: _Place, held: int) -> None:
    """Makes a study that holds so many finished trials, random ones."""
    import numpy as np
    import optuna

    study, distributions = _open(place), _space().distributions
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng(0)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [
        optuna.trial.create_trial(
            params=drawn.ask(distributions).params, distributions=distributions, value=float(rng.random())
        )
        for _ in range(held)
    ]
    study.add_trials(trials)


def _space() -> "Space":
    from search.space import build_space

    return build_space("mobilenetv2_100", 8, parameters=2_223_872, pretrained=True)


def _work(place: _Place, seconds: float, trial_s: float, wait_s: float) -> list[float]:
    """One worker's trials: the seconds from the end of one, or from its own start, to the start of the next."""
    from core.artifacts import StudiesFolder
    from search.asking import Asking
    from search.crew import Crew
    from search.loop import run_trials
    from search.storage import open_leases

    study = _open(place)
    asking = Asking(study=study, space=_space(), sampler="tpe", seed=lambda number: number)
    leases = open_leases(StudiesFolder(place.folder).study(place.study), place.database)
    assert _barrier is not None, "the pool's initializer has set it"
    _barrier.wait()
    time.sleep(wait_s)
    with Crew(leases, device="none") as crew:
        nothing = _Nothing(time.monotonic() + seconds - wait_s, trial_s)
        run_trials(study, cast(Any, nothing), crew, asking, n_trials=10**6)
    return nothing.starts_s


class _Nothing:
    """Stands for an objective and its watcher: a trial that computes nothing."""

    def __init__(self, deadline: float, trial_s: float) -> None:
        self.watcher, self.starts_s = self, list[float]()
        self._deadline, self._trial_s, self._free = deadline, trial_s, time.monotonic()

    def check(self) -> None:
        """Ends the worker in time."""
        from search.objective import StoppedError

        if time.monotonic() > self._deadline:
            raise StoppedError("time is up")

    def run(self, study: "optuna.Study", trial: "optuna.Trial", hold: Any) -> None:
        """A report and the end, each under the study's lock, as a real trial has them."""
        self.starts_s.append(time.monotonic() - self._free)
        time.sleep(self._trial_s)
        with hold.acting():
            trial.report(0.5, step=0)
        with hold.acting():
            hold.check()
            study.tell(trial, 0.5)
            hold.end()
        self._free = time.monotonic()


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
