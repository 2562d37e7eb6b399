"""How fast images come: python -m benchmarks.loading --data D.

The same JPEG files at the same stored size from FFCV (a beton of raw pixels, which is our source, and one of the
files' own JPEG bytes), from our resident source and from torchvision's plain way in its best setting, all in random
order on all cores; once as uint8 at the stored size, once augmented and normalised at the model's size. Beside them two
ceilings, bare loops on all cores without any loader: FFCV's call of libjpeg-turbo alone, and that with FFCV's resize.
Every contestant has a process of its own, warmed up, and they take turns within each repeat. The last line is what the
resident source gives over what the plain DataLoader gives, without augmentation.

Legend: B images of a batch, S stored side in pixels.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import read_data
from benchmarks.loading_plan import Plan
from benchmarks.loading_turns import (
    BARE,
    JPEG,
    PLAIN,
    RAW,
    RESIDENT,
    Measurement,
    close_contestant,
    contestants,
    open_contestant,
    take_turn,
)
from benchmarks.reporting import add_out_argument, finish, show, spread
from core import cli
from core.dataspec import add_data_arguments

if TYPE_CHECKING:
    from core.manifest import Manifest


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.loading", description=__doc__)
    add_data_arguments(parser, help="folder of labelled JPEG images or CSV file; repeated, they are merged")
    parser.add_argument("--images", type=cli.positive_int, default=2000, help="evenly spread (default: 2000)")
    parser.add_argument("--image-size", type=cli.positive_int, default=224, metavar="PIXELS", help="default: 224")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--device", default="auto", help="default: auto")
    add_out_argument(parser, "loading")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs both races and holds the first to the bars."""
    import numpy as np

    from core.cache import cache_folder
    from core.datasets import load_manifest
    from core.device import available_cores, resolve_device

    manifest = some_of(load_manifest(read_data(args, "labelled JPEG images")), args.images)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=cache_folder("loading")) as folder:
        plan = Plan(
            manifest=manifest,
            order=np.random.default_rng(0).permutation(len(manifest)).astype(np.int64),
            image_size=args.image_size,
            device=str(resolve_device(args.device)),
            augmented=False,
            folder=Path(folder),
        )
        cli.write(f"{len(manifest):,} images, stored at {plan.stored_size}², {available_cores()} cores, {plan.device}")
        for augmented in (False, True):
            rows += race(dataclasses.replace(plan, augmented=augmented), args.repeats)
    bars = judge(rows)
    write_results(rows, bars)
    about = "images per second, the resident source over the plain DataLoader at its best, without augmentation"
    finish(args.out, rows=[*rows, *bars], ratio=bars[-1]["ratio"]["median"], about=about)
    return 0 if all(bar["holds"] for bar in bars) else 1


def some_of(manifest: "Manifest", count: int) -> "Manifest":
    """At most `count` images of a manifest, evenly spread over it."""
    import numpy as np

    rows = np.linspace(0, len(manifest) - 1, min(count, len(manifest))).astype(np.int64)
    names = ("paths", "groups", "sha256", "phashes", *(["splits"] if manifest.splits else []))
    columns: dict[str, Any] = {name: tuple(getattr(manifest, name)[row] for row in rows) for name in names}
    return dataclasses.replace(manifest, labels=manifest.labels[rows], **columns)


def race(plan: Plan, repeats: int) -> list[dict[str, Any]]:
    """Lets all contestants take turns; one row of the table each."""
    from core.device import available_cores

    openers = contestants(plan.augmented)
    turns: dict[str, list[Measurement]] = {name: [] for name in openers}
    with ExitStack() as stack, cli.progress("loading images", len(openers) * (1 + repeats)) as bar:
        processes = {}
        for name, opener in openers.items():
            # Spawned, because threads of numba and OpenMP don't survive a fork.
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            processes[name] = stack.enter_context(pool)
            stack.callback(pool.submit, close_contestant)
            pool.submit(open_contestant, opener, plan).result()
            bar.advance()
        for _ in range(repeats):
            for name, pool in processes.items():
                turns[name].append(pool.submit(take_turn, len(plan.order), plan.device).result())
                bar.advance()
    return [_row(name, plan, measured, available_cores()) for name, measured in turns.items()]


def _row(name: str, plan: Plan, turns: Sequence[Measurement], cores: int) -> dict[str, Any]:
    return {
        "name": name,
        "augmented": plan.augmented,
        "images": len(plan.order),
        "images_per_s": [turn.images / turn.elapsed_s for turn in turns],
        "images_per_s_and_core": spread([turn.images / turn.elapsed_s / cores for turn in turns]),
        "images_per_cpu_s": [turn.images / turn.cpu_s for turn in turns],
        "peak_memory_gb": max(turn.peak_gb for turn in turns),
        "mean": turns[-1].mean,
    }


# The verdict ---------------------------------------------------------------------------------------------------------


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holds what was measured without augmentation to the bars; the last is the one that the benchmark is about.

    Turns of one repeat are compared: what slows the machine down for a while slows both.
    """
    found = {row["name"]: row for row in rows if not row["augmented"]}
    plain = [row for name, row in found.items() if name.startswith(PLAIN)]
    best = max(plain, key=lambda row: statistics.median(row["images_per_s"]))["name"]
    bars = []
    for ours, other, least in ((RAW, best, 3.0), (JPEG, BARE, 0.9), (RESIDENT, best, 20.0)):
        ratio, cpu_ratio = (
            spread([mine / its for mine, its in zip(found[ours][unit], found[other][unit], strict=True)])
            for unit in ("images_per_s", "images_per_cpu_s")
        )
        holds = ratio["median"] >= least
        bars.append(
            {"bar": f"{ours} / {other}", "least": least, "ratio": ratio, "cpu_ratio": cpu_ratio, "holds": holds}
        )
    return bars


def write_results(rows: Sequence[dict[str, Any]], bars: Sequence[dict[str, Any]]) -> None:
    """Prints both races and the verdict."""
    for augmented in (False, True):
        title = "augmented" if augmented else "without augmentation"
        cli.write(f"\n{title:<30} {'images/s and core':>22} {'images/s of CPU time':>22} {'peak GB':>8}")
        for row in (row for row in rows if row["augmented"] == augmented):
            rate, cpu_rate = row["images_per_s_and_core"], spread(row["images_per_cpu_s"])
            cli.write(f"{row['name']:<30} {show(rate, 0):>22} {show(cpu_rate, 0):>22} {row['peak_memory_gb']:>8.2f}")
    cli.write()
    for bar in bars:
        verdict = "yes" if bar["holds"] else "no"
        beside = f"by CPU time {show(bar['cpu_ratio'])}"
        cli.write(f"{bar['bar']} ≥ {bar['least']:g}: {show(bar['ratio'])} {verdict}; {beside}")


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
