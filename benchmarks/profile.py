"""Where the time of a search goes: python -m benchmarks.profile --data D --arch mobilenet.

Runs `search.run` as it ships in this process and looks, a hundred times a second, at what its main thread does. Each
look is put down to the innermost function that `WORK` or `AROUND` knows. The ratio is the share of the whole that is
the learning part's: what differs between trials, and all that a search without waste would spend.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.arguments import add_part_arguments, add_task_arguments, read_data
from benchmarks.reporting import add_out_argument, finish
from core import cli
from core.cache import CACHE_VARIABLE

PERIOD_S = 0.01

FROZEN = "frozen part: computing it and the views"
FORWARD, BACKWARD = "learning part: forward and step", "learning part: backward"
VALIDATING = "learning part: validation"
IMPORTING, OTHER = "importing libraries", "the rest"

# What a whole call is put down to, whatever it calls.
AROUND = {
    ("search.setup", "prepare"): "reading the data, splitting them",
    ("search.setup", "open_trainer"): "opening the pixels, building the model",
    ("search.session", "show_estimate"): "measuring how long it will take",
    ("search.session", "write_summary"): "summary",
    ("search.session", "show_end"): "summary",
    ("search.asking", "begin"): "asking the sampler",
    ("search.asking", "draw"): "asking the sampler",
    ("core.trainer", "prepare"): "setting trials up",
    ("core.run", "save"): "checkpoints",
}
# What the innermost of these calls does.
WORK = {
    ("core.prefix", "_in_chunks"): FROZEN,
    ("core.prefix", "batches"): "frozen part: writing and reading",
    ("core.run", "step"): FORWARD,
    ("torch.autograd.graph", "_engine_run_backward"): BACKWARD,
    ("core.run", "predict_val"): VALIDATING,
    ("core.run", "train_epoch"): "metrics",
    ("search.objective", "run"): "writing trials, telling the study",
}


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.profile", description=__doc__)
    add_task_arguments(parser)
    add_part_arguments(parser)
    parser.add_argument("--trials", type=cli.positive_int, default=20, help="default: 20")
    add_out_argument(parser, "profile")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the search and shows the shares."""
    from benchmarks.setup import open_task, write_table
    from core.device import describe_device, resolve_device

    task = open_task(
        read_data(args),
        args.arch,
        image_size=args.image_size,
        framing=args.framing,
        weights=args.weights,
        train_images=args.train_images,
        val_images=args.val_images,
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")  # what earlier searches have remembered is not its own
        table = write_table(task, Path(folder))
        command = ["--arch", args.arch, "--data", str(table), "--trials", str(args.trials), "--device", args.device]
        command += ["--epochs", str(args.epochs), "--image-size", str(task.arch.image_size)]
        command += ["--framing", args.framing]
        command += ["--weights", args.weights, "--studies", str(Path(folder) / "studies"), "--study", "profile"]
        with watching(threading.get_ident()) as looks:
            search(command)
    rows = [{"work": work, "share": count / looks.total()} for work, count in looks.most_common()]
    for row in rows:
        cli.write(f"{row['share']:6.1%}  {row['work']}")
    setting = {
        "table": "setting",
        "framing": task.arch.framing,
        "data": task.manifest.layout,
        "arch": task.arch.timm_name,
        "image_size": task.arch.image_size,
        "epochs": args.epochs,
        "trials": args.trials,
        "device": describe_device(resolve_device(args.device)),
        "seconds": looks.total() * PERIOD_S,
        "train_images": len(task.split.train),
        "val_images": len(task.split.val),
    }
    learning = sum(looks[work] for work in (FORWARD, BACKWARD, VALIDATING)) / looks.total()
    finish(args.out, rows=[setting, *rows], ratio=learning, about="share of a search that its learning parts take")
    return 0


def search(command: list[str]) -> None:
    """One whole search; its imports are part of it."""
    from search.run import build_parser as search_parser
    from search.run import main as run_search

    run_search(search_parser().parse_args(command))


@contextmanager
def watching(thread: int) -> Iterator[Counter[str]]:
    """Counts what a thread does, look by look."""
    looks: Counter[str] = Counter()
    over = threading.Event()

    def look() -> None:
        due = time.perf_counter()
        while not over.is_set():
            looks[work_of(sys._current_frames()[thread])] += 1
            due += PERIOD_S
            time.sleep(max(0.0, due - time.perf_counter()))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield looks
    finally:
        over.set()
        watcher.join()


def work_of(frame: FrameType | None) -> str:
    """What a stack, told by its innermost frame, is put down to."""
    calls = []
    while frame is not None:
        calls.append((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        frame = frame.f_back
    if any(module.startswith("importlib.") for module, _ in calls):
        return IMPORTING
    if around := next((AROUND[call] for call in reversed(calls) if call in AROUND), None):
        return around
    return next((WORK[call] for call in calls if call in WORK), OTHER)


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
