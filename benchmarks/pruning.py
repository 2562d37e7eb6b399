"""What a search could save, replayed on recorded learning curves: python -m benchmarks.pruning.

Trains nothing. It reads trials that benchmarks.curves recorded to their last epoch and asks of them:

1. Pruners: which of Optuna's spends the fewest epochs and still keeps the best trials? Each is asked about the same
   searches, random draws of the recorded trials in random order, exactly as a search asks it.
2. Order: does a search reach a recall sooner if it runs cheap trials first?
3. Image sizes, with `--other`: does a smaller image rank the trials as the larger one does?

The searches share their trials, so that more of them make table 1 no surer than the number of recorded trials allows;
up to 30 trials, all are orders of the same ones. And they are random draws, whereas the later trials of a real search
are better than its first ones, which are what a pruner compares them with: it should prune fewer of them than here.

Legend: T recorded trials, N trials of a search, R searches or orders.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.order_replay import compare_orders, write_orders
from benchmarks.pruner_replay import add_options, candidates, compare_pruners, draw_searches, write_pruners
from benchmarks.recording import read_curves
from benchmarks.reporting import add_out_argument, finish
from benchmarks.size_ranking import compare_sizes, write_sizes
from core.cli import Parser, natural_int, positive_int, progress, run, write
from core.errors import counted

CURVES = Path(__file__).parent / "recordings" / "mobilenet-64.json"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument(
        "--curves",
        type=Path,
        default=CURVES,
        help="of benchmarks.curves (default: benchmarks/recordings/mobilenet-64.json)",
    )
    parser.add_argument("--other", type=Path, metavar="FILE", help="the same trials at another image size")
    parser.add_argument("--trials", type=positive_int, default=30, help="of a search, at most (default: 30)")
    parser.add_argument("--replays", type=positive_int, default=400, help="searches for each pruner (default: 400)")
    parser.add_argument("--resamples", type=positive_int, default=500, help="of tables 2 and 3 (default: 500)")
    parser.add_argument(
        "--patience", type=natural_int, help="epochs without gain that end a trial (default: a search's)"
    )
    parser.add_argument("--seed", type=natural_int, default=0, help="default: 0")
    add_out_argument(parser, "pruning")
    return parser


def main(args: argparse.Namespace) -> int:
    """Makes the three tables."""
    from search.run import build_parser as search_parser

    patience = search_parser().get_default("patience") if args.patience is None else args.patience
    shipped = search_parser().get_default("pruner")
    recording = read_curves(args.curves, patience)
    other = read_curves(args.other, patience) if args.other else None
    n_trials = min(args.trials, len(recording.curves))
    write(
        f"{counted(len(recording.curves), 'recorded trial')} of {counted(recording.epochs, 'epoch')} at "
        f"{recording.image_size} pixels, patience {patience}; {counted(args.replays, 'replay')} of {n_trials} trials"
    )
    pruners = candidates(recording.epochs)
    options = add_options(pruners, recording.epochs)
    sizes = compare_sizes(recording, other, resamples=args.resamples, seed=args.seed) if other else []
    with progress("sorting trials", args.resamples) as bar:
        ordered = compare_orders(recording.curves, resamples=args.resamples, seed=args.seed, bar=bar)
    searches = draw_searches(recording.curves, n_trials, args.replays, args.seed)
    with progress("replaying searches", len(pruners) * len(searches)) as bar:
        pruned = compare_pruners(searches, pruners, epochs=recording.epochs, bar=bar)
    for row in pruned:
        row["option"] = options.get(row["pruner"])
        row["ships"] = row["option"] == shipped
    write_pruners(pruned)
    write_orders(ordered, args.resamples)
    write_sizes(sizes)
    setting = {
        "table": "setting",
        "recorded": len(recording.curves),
        "complete": sum(curve.complete for curve in recording.curves),
        "trials_of_a_search": n_trials,
        "patience": patience,
        **{name: getattr(args, name) for name in ("replays", "resamples", "seed")},
        "provenance": recording.provenance,
        "other_provenance": other.provenance if other else None,
    }
    ratio = next(row for row in pruned if row["ships"])["epochs"]
    about = f"epochs that a search spends with the shipped pruner over without, {len(recording.curves)} recorded trials"
    finish(args.out, rows=[setting, *pruned, *ordered, *sizes], ratio=ratio, about=about)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
