"""What a search costs, ours against a plain one: python -m benchmarks.search --data D --arch mobilenet.

(i) A list of trials, one for each unfreeze depth, equal epochs, no pruning. For each depth: the plain trial's time over
ours, at first (when the frozen part is computed and remembered) and again (when it is remembered, as for every later
trial of a search), beside what the arithmetic allows: (F + T) / T, with F the frozen part's share of an epoch and T
that of the learning part. The bars: 0.9 of that for each depth, 1.4 over the list at first.

(ii) Whole searches, ours as it ships, until each holds a trial whose confirmed recall reaches the same target. With
`--search-size` ours searches on smaller images first; only what it trains at the full size counts. With
`--search-workers` it has several processes, as `search.run --workers`; the plain one is a single process. A trial
is confirmed by training its config with three other seeds, after the searches and outside their time; the target is the
highest that both reach. The bar is 3. The last line is (ii), or (i) over the list where (ii) was left out.

Everything of one side runs in processes of its own, and the sides take turns.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_part_arguments, add_task_arguments, read_data
from benchmarks.reporting import add_out_argument, finish, show, spread
from benchmarks.search_depths import compare_depths, over_list
from benchmarks.search_sides import Plan
from benchmarks.search_times import compare_searches
from core import cli

BAR_OF_DEPTH, BAR_OF_LIST, BAR_OF_SEARCH = 0.9, 1.4, 3.0


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.search", description=__doc__)
    add_task_arguments(parser)
    add_part_arguments(parser)
    parser.add_argument(
        "--trials", type=cli.natural_int, default=20, help="of each search; 0 leaves (ii) out (default: 20)"
    )
    parser.add_argument("--depths", type=cli.natural_int, nargs="*", help="of (i); none leaves it out (default: all)")
    parser.add_argument(
        "--search-size", type=cli.positive_int, metavar="PIXELS", help="of our search in (ii) (default: none)"
    )
    parser.add_argument(
        "--search-workers", type=cli.positive_int, default=1, help="`--workers` of our search in (ii) (default: 1)"
    )
    parser.add_argument("--repeats", type=cli.positive_int, default=1, help="searches of each side (default: 1)")
    parser.add_argument("--workers", type=cli.natural_int, default=2, help="decoding for the plain side (default: 2)")
    add_out_argument(parser, "search")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs (i) and (ii) and holds them to the bars."""
    from core.device import resolve_device

    resolve_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            data=read_data(args),
            arch=args.arch,
            image_size=args.image_size,
            framing=args.framing,
            weights=args.weights,
            images=(args.train_images, args.val_images),
            epochs=args.epochs,
            search_size=args.search_size,
            search_workers=args.search_workers,
            workers=args.workers,
            device=args.device,
            folder=Path(folder),
        )
        rows = compare_depths(plan, args.depths)
        searches = compare_searches(plan, args.trials, args.repeats) if args.trials else []
    held = judge(rows, searches)
    ratio = statistics.median(row["ratio"] for row in searches) if searches else over_list(rows, "first_s")
    about = "time of a plain search over ours, to the same confirmed recall" if searches else "plain list over ours"
    finish(args.out, rows=[*rows, *searches], ratio=ratio, about=about)
    return 0 if held else 1


def judge(rows: Sequence[dict[str, Any]], searches: Sequence[dict[str, Any]]) -> bool:
    """Prints the bars; whether all hold."""
    bars = []
    if rows:
        shares = spread([row["ratio_again"] / row["allowed"] for row in rows])
        bars.append((f"(i) each depth at {show(shares)} of what the arithmetic allows", shares["low"], BAR_OF_DEPTH))
        bars.append(("(i) over the list, at first", over_list(rows, "first_s"), BAR_OF_LIST))
        cli.write(f"over the list, again: {over_list(rows, 'again_s'):.2f}")
    if searches:
        ratios = spread([row["ratio"] for row in searches])
        bars.append((f"(ii) to the same confirmed recall {show(ratios)}", ratios["median"], BAR_OF_SEARCH))
    for what, value, bar in bars:
        cli.write(f"{what}: {value:.2f}, the bar is {bar:g}: {'held' if value >= bar else 'not held'}")
    return all(value >= bar for _, value, bar in bars)


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
