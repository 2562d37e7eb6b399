"""Gives readers a great many broken inputs: `python -m tests.fuzz --inputs 100000 --seed 0`."""

import argparse
import multiprocessing
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzz.batches import TARGETS, Outcome, load, run_batch, start

_MEMORY = Path("/dev/shm")  # files are written often

BATCH = 1000  # inputs that Hypothesis remembers at a time; after a failure the next batch goes on


def plan(inputs: int, seed: int, names: list[str]) -> Iterator[tuple[str, int, int]]:
    """Batches of all targets: name, inputs, seed."""
    shares = {name: load(name).share for name in names}
    for name, share in shares.items():
        left, number = round(inputs * share / sum(shares.values())), 0
        while left > 0:
            yield name, min(BATCH, left), 1_000_000 * seed + number
            left, number = left - BATCH, number + 1


def main(argv: list[str] | None = None) -> int:
    """Runs the batches in two processes and tells what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all [100000]")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs [0]")
    parser.add_argument("--only", action="append", choices=TARGETS, help="a target; repeat it for more [all]")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args(argv)
    outcomes = defaultdict(list)
    batches = list(plan(args.inputs, args.seed, args.only or list(TARGETS)))
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place, ignore_cleanup_errors=True) as folder:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, context, initializer=start, initargs=(folder,)) as pool:
            for outcome in pool.map(run_batch, *zip(*batches, strict=True)):
                outcomes[outcome.target].append(outcome)
                if outcome.failure:
                    sys.stdout.write(f"\n{outcome.target}:\n{outcome.failure}\n")
                    sys.stdout.flush()
    return tell(outcomes, args.seed)


def tell(outcomes: dict[str, list[Outcome]], seed: int) -> int:
    """Prints a line a target; returns the exit status."""
    lines = [f"{'target':<10}{'inputs':>10}{'seconds':>10}{'failures':>10}"]
    for name, done in [*outcomes.items(), ("all", [outcome for each in outcomes.values() for outcome in each])]:
        inputs, seconds = sum(outcome.inputs for outcome in done), sum(outcome.seconds for outcome in done)
        lines.append(f"{name:<10}{inputs:>10,}{seconds:>10,.0f}{sum(bool(o.failure) for o in done):>10}")
    sys.stdout.write("\n".join([*lines, f"seed {seed}", ""]))
    return int(any(outcome.failure for done in outcomes.values() for outcome in done))


if __name__ == "__main__":
    sys.exit(main())
