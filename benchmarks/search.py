"""What a search costs, ours against a plain one: python -m benchmarks.search --data D --arch mobilenet.

(i) A list of trials, one for each unfreeze depth, equal epochs, no pruning. For each depth: the plain trial's time over
ours, at first (when the frozen part is computed and remembered) and again (when it is remembered, as for every later
trial of a search), beside what the arithmetic allows: (F + T) / T, with F the frozen part's share of an epoch and T
that of the learning part. The bars: 0.9 of that for each depth, 1.4 over the list at first.

(ii) Whole searches, ours as it ships, until each holds a trial whose confirmed recall reaches the same target. A trial
is confirmed by training its config with three other seeds, after the searches and outside their time; the target is the
highest that both reach. The bar is 3. The last line is (ii), or (i) over the list where (ii) was left out.

Everything of one side runs in processes of its own, and the sides take turns.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import add_out_argument, finish, peak_memory_gb, show, spread
from core import cli
from core.dataspec import DataSpec, add_data_arguments, read_data_arguments
from core.errors import InputError

if TYPE_CHECKING:
    import torch

    from benchmarks.setup import Task

BAR_OF_DEPTH, BAR_OF_LIST, BAR_OF_SEARCH = 0.9, 1.4, 3.0
CONFIRMING_SEEDS = (101, 102, 103)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What both sides are given.

    Attributes:
        data: Where the images are.
        arch: The backbone.
        image_size: Pixels; None for the backbone's own.
        weights: As `--weights`.
        images: Training and validation images to take, random ones; None for all.
        epochs: Of a trial.
        workers: Processes that decode for the plain side.
        device: Name of the device.
        folder: Where a side may keep files.
    """

    data: DataSpec
    arch: str
    image_size: int | None
    weights: str
    images: tuple[int | None, int | None]
    epochs: int
    workers: int
    device: str
    folder: Path

    def task(self) -> "Task":
        """The same in every process."""
        from benchmarks.setup import open_task

        return open_task(
            self.data,
            self.arch,
            image_size=self.image_size,
            weights=self.weights,
            train_images=self.images[0],
            val_images=self.images[1],
        )


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.search", description=__doc__)
    add_data_arguments(parser, help="folder of labelled images, CSV or npz file; repeated, they are merged")
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--image-size", type=cli.positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--train-images", type=cli.positive_int, help="random training images (default: all)")
    parser.add_argument("--val-images", type=cli.positive_int, help="random validation images (default: all)")
    parser.add_argument("--epochs", type=cli.positive_int, default=10, help="default: 10")
    parser.add_argument(
        "--trials", type=cli.natural_int, default=20, help="of each search; 0 leaves (ii) out (default: 20)"
    )
    parser.add_argument("--depths", type=cli.natural_int, nargs="*", help="of (i); none leaves it out (default: all)")
    parser.add_argument("--repeats", type=cli.positive_int, default=1, help="searches of each side (default: 1)")
    parser.add_argument("--workers", type=cli.natural_int, default=2, help="decoding for the plain side (default: 2)")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    add_out_argument(parser, "search")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs (i) and (ii) and holds them to the bars."""
    from core.device import resolve_device

    if not args.data:
        raise InputError("`--data` must be given, but got none. Name a folder of labelled images.")
    resolve_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            data=read_data_arguments(args, args.data),
            arch=args.arch,
            image_size=args.image_size,
            weights=args.weights,
            images=(args.train_images, args.val_images),
            epochs=args.epochs,
            workers=args.workers,
            device=args.device,
            folder=Path(folder),
        )
        rows = compare_depths(plan, args.depths)
        searches = compare_searches(plan, args.trials, args.repeats) if args.trials else []
    held = judge(rows, searches)
    ratio = statistics.median(row["ratio"] for row in searches) if searches else _over_list(rows, "first_s")
    about = "time of a plain search over ours, to the same confirmed recall" if searches else "plain list over ours"
    finish(args.out, rows=[*rows, *searches], ratio=ratio, about=about)
    return 0 if held else 1


# (i) -----------------------------------------------------------------------------------------------------------------


def compare_depths(plan: Plan, depths: Sequence[int] | None) -> list[dict[str, Any]]:
    """One row for each depth."""
    if depths is not None and not depths:
        return []
    rows = []
    with _process(_open_ours, plan) as ours, _process(_open_plain, plan) as plain:
        deepest = ours.submit(_deepest).result()
        chosen = sorted(depths) if depths else list(range(deepest + 1))
        with cli.progress("trials", 3 * len(chosen)) as bar:
            for number, depth in enumerate(chosen):
                first = ours.submit(_our_trial, depth, 2 * number).result()
                bar.advance()
                theirs = plain.submit(_plain_trial, depth, 2 * number).result()
                bar.advance()
                again = ours.submit(_our_trial, depth, 2 * number + 1).result()
                bar.advance()
                frozen_s, learning_s = ours.submit(_arithmetic, depth).result()
                rows.append(
                    {
                        "depth": depth,
                        "plain_s": theirs["seconds"],
                        "first_s": first["seconds"],
                        "again_s": again["seconds"],
                        "ratio_first": theirs["seconds"] / first["seconds"],
                        "ratio_again": theirs["seconds"] / again["seconds"],
                        "allowed": (frozen_s + learning_s) / learning_s,
                        "recalls": [theirs["recall"], first["recall"], again["recall"]],
                        "peak_memory_gb": {"ours": again["peak_gb"], "plain": theirs["peak_gb"]},
                    }
                )
                _show_depth(rows[-1])
    return rows


_state: dict[str, Any] = {}  # of a side's process


@contextmanager
def _process(opener: Callable[[Plan], None], plan: Plan) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(opener, plan).result()
        yield pool


def _open_ours(plan: Plan) -> None:
    from benchmarks.setup import activations_in, open_trainer
    from core.device import resolve_device
    from core.learners import compiler_for

    task, device = plan.task(), resolve_device(plan.device)
    activations = activations_in(plan.folder / "activations", device, gigabytes=40)
    _state.update(
        plan=plan, task=task, trainer=open_trainer(task, device, activations=activations, compiler=compiler_for(device))
    )


def _open_plain(plan: Plan) -> None:
    from benchmarks.plain_search import PlainTrainer
    from core.device import resolve_device

    task = plan.task()
    _state.update(plan=plan, task=task, trainer=PlainTrainer(task, resolve_device(plan.device), workers=plan.workers))


def _deepest() -> int:
    return int(_state["trainer"].model.max_unfreeze_depth)


def _values(depth: int, number: int) -> dict[str, Any]:
    from search.space import build_space

    space = build_space(_state["task"].arch.timm_name, max(depth, 1), pretrained=True)
    return {**space.known_good, "unfreeze_depth": depth, "trial": number}


def _our_trial(depth: int, number: int) -> dict[str, float]:
    config = _state["task"].config(_state["plan"].epochs, **_values(depth, number))
    start = time.perf_counter()
    result = _state["trainer"].train(config, lambda epoch: None)
    seconds = time.perf_counter() - start
    recall = max(row["val_recall"] for row in result.history)
    return {"seconds": seconds, "recall": recall, "peak_gb": peak_memory_gb()}


def _plain_trial(depth: int, number: int) -> dict[str, float]:
    config = _state["task"].config(_state["plan"].epochs, **_values(depth, number))
    start = time.perf_counter()
    recalls = _state["trainer"].train(config)
    return {"seconds": time.perf_counter() - start, "recall": max(recalls), "peak_gb": peak_memory_gb()}


def _arithmetic(depth: int) -> tuple[float, float]:
    """Seconds of an epoch, training and validation, of the frozen part and of the learning part."""
    from core.evaluation import EVAL_BATCH_SIZE

    task, trainer = _state["task"], _state["trainer"]
    run = trainer.prepare(task.config(1, **_values(depth, 0)), remember=False)
    frozen_s = learning_s = 0.0
    for part, rows, size, train in (
        (run.train_part, run.train_rows, run.config.batch_size, True),
        (run.val_part, run.val_rows, EVAL_BATCH_SIZE, False),
    ):
        some = rows[: 4 * size]
        run.model.train(train)
        start = time.perf_counter()
        batches = list(run.prefix.batches(part, some, epoch=0 if train else None, batch_size=size))
        frozen_s += (time.perf_counter() - start) * len(rows) / len(some)
        start = time.perf_counter()
        for batch in batches:
            if train:
                run.step(batch, run.config.lr)
            else:
                _validate(run, batch.inputs)
        learning_s += (time.perf_counter() - start) * len(rows) / len(some)
    return (0.0 if depth == trainer.model.max_unfreeze_depth else frozen_s), learning_s


def _validate(run: Any, inputs: "torch.Tensor") -> None:
    import torch

    with torch.no_grad():
        run.prefix.classify(inputs)


def _show_depth(row: dict[str, Any]) -> None:
    cli.write(
        f"depth {row['depth']:>2}: plain {row['plain_s']:.1f} s, ours {row['first_s']:.1f} s at first and "
        f"{row['again_s']:.1f} s again: ratios {row['ratio_first']:.2f} and {row['ratio_again']:.2f}, the arithmetic "
        f"allows {row['allowed']:.2f}"
    )


def _over_list(rows: Sequence[dict[str, Any]], ours: str) -> float:
    return float(sum(row["plain_s"] for row in rows) / sum(row[ours] for row in rows))


# (ii) ----------------------------------------------------------------------------------------------------------------


def compare_searches(plan: Plan, n_trials: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each pair of searches."""
    rows = []
    confirmed: dict[str, float] = {}  # the same config need not be confirmed twice
    for repeat in range(repeats):
        sides = {"ours": our_search(plan, n_trials, repeat), "plain": plain_search(plan, n_trials, repeat)}
        with _process(_open_confirming, plan) as process:
            climbs = {side: list(_confirm(trials, process, confirmed)) for side, trials in sides.items()}
        target = min(max(recall for _, recall in climb) for climb in climbs.values())
        reached = {side: next(s for s, recall in climb if recall >= target) for side, climb in climbs.items()}
        rows.append(
            {
                "seed": repeat,
                "trials": n_trials,
                "target": target,
                "reached_s": reached,
                "ratio": reached["plain"] / reached["ours"],
                "whole_s": {side: trials[-1]["ended_s"] for side, trials in sides.items()},
                "ratio_whole": sides["plain"][-1]["ended_s"] / sides["ours"][-1]["ended_s"],
                "climbs": climbs,
                "searches": sides,
            }
        )
        cli.write(
            f"seed {repeat}: confirmed recall {target:.3f} after {reached['ours']:.0f} s (ours) and "
            f"{reached['plain']:.0f} s (plain), ratio {rows[-1]['ratio']:.2f}; all {n_trials} trials in "
            f"{rows[-1]['whole_s']['ours']:.0f} and {rows[-1]['whole_s']['plain']:.0f} s, ratio "
            f"{rows[-1]['ratio_whole']:.2f}"
        )
    return rows


def our_search(plan: Plan, n_trials: int, seed: int) -> list[dict[str, Any]]:
    """`python -m search.run` as it ships, on the same images; its trials in the order in which they ended."""
    from benchmarks.setup import write_table
    from core.artifacts import StudiesFolder
    from search.storage import open_storage, open_study

    studies = StudiesFolder(plan.folder / f"studies-{seed}")
    table = write_table(plan.task(), plan.folder)
    command = [sys.executable, "-m", "search.run", "--arch", plan.arch, "--data", str(table), "--trials", str(n_trials)]
    command += [
        "--epochs",
        str(plan.epochs),
        "--studies",
        str(studies.root),
        "--study",
        "ours",
        "--device",
        plan.device,
    ]
    command += ["--weights", plan.weights, "--seed", str(seed)]
    command += ["--image-size", str(plan.image_size)] if plan.image_size else []
    begin = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = []
    for trial in open_study(open_storage(studies), "ours").get_trials(deepcopy=False):
        assert trial.datetime_complete is not None, "the search is over"
        recalls = list(trial.intermediate_values.values())
        trials.append(
            {"params": trial.params, "recalls": recalls, "ended_s": trial.datetime_complete.timestamp() - begin}
        )
    return trials


def plain_search(plan: Plan, n_trials: int, seed: int) -> list[dict[str, Any]]:
    """The plain search; the time to import and to read the list of images counts, as it does for ours."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_search_plainly, plan, n_trials, seed, time.time()).result()


def _search_plainly(plan: Plan, n_trials: int, seed: int, begin: float) -> list[dict[str, Any]]:
    from benchmarks import plain_search as plain
    from core.backbones import build_classifier
    from search.run import build_parser as search_parser
    from search.space import build_space

    _open_plain(plan)
    task = _state["task"]
    model = build_classifier(task.arch, num_classes=len(task.manifest.classes), weights=task.weights, seed=0)
    space = build_space(task.arch.timm_name, model.max_unfreeze_depth, pretrained=bool(task.weights.state))
    before_s = time.time() - begin
    ships = search_parser().get_default
    trials = plain.plain_search(
        _state["trainer"],
        space,
        n_trials=n_trials,
        epochs=plan.epochs,
        patience=ships("patience"),
        seed=seed,
        pruner=ships("pruner"),
    )
    return [{"params": trial.params, "recalls": trial.recalls, "ended_s": before_s + trial.ended_s} for trial in trials]


def _open_confirming(plan: Plan) -> None:
    from benchmarks.setup import activations_in, open_trainer
    from core.device import resolve_device

    task, device = plan.task(), resolve_device(plan.device)
    _state.update(plan=plan, task=task)
    _state["trainers"] = [
        open_trainer(
            dataclasses.replace(task, seed=seed),
            device,
            activations=activations_in(plan.folder / "activations", device, gigabytes=40),
        )
        for seed in CONFIRMING_SEEDS
    ]


def _confirm(
    trials: Sequence[dict[str, Any]], process: ProcessPoolExecutor, confirmed: dict[str, float]
) -> Iterator[tuple[float, float]]:
    """When a search held a trial better than all before, by its own measure, and what that one is confirmed to be."""
    best = -1.0
    for trial in trials:
        if not trial["recalls"] or max(trial["recalls"]) <= best:
            continue
        best = max(trial["recalls"])
        key = json.dumps(trial["params"], sort_keys=True)
        if key not in confirmed:
            confirmed[key] = process.submit(_confirmed_recall, trial["params"]).result()
        yield trial["ended_s"], confirmed[key]


def _confirmed_recall(params: dict[str, Any]) -> float:
    """Mean validation recall of a config with other first weights, orders and dropout."""
    recalls: list[float] = []
    for trainer in _state["trainers"]:
        # The views stay those of the study, so that what is frozen need not be computed for each seed.
        fixed = {**_state["task"].fixed(_state["plan"].epochs), "seed": trainer.seed}
        from core.config import TrainConfig

        result = trainer.train(TrainConfig.from_dict({**fixed, **params}), lambda epoch: None)
        recalls.append(max(row["val_recall"] for row in result.history))
    return statistics.mean(recalls)


def judge(rows: Sequence[dict[str, Any]], searches: Sequence[dict[str, Any]]) -> bool:
    """Prints the bars; whether all hold."""
    bars = []
    if rows:
        shares = spread([row["ratio_again"] / row["allowed"] for row in rows])
        bars.append((f"(i) each depth at {show(shares)} of what the arithmetic allows", shares["low"], BAR_OF_DEPTH))
        bars.append(("(i) over the list, at first", _over_list(rows, "first_s"), BAR_OF_LIST))
        cli.write(f"over the list, again: {_over_list(rows, 'again_s'):.2f}")
    if searches:
        ratios = spread([row["ratio"] for row in searches])
        bars.append((f"(ii) to the same confirmed recall {show(ratios)}", ratios["median"], BAR_OF_SEARCH))
    for what, value, bar in bars:
        cli.write(f"{what}: {value:.2f}, the bar is {bar:g}: {'held' if value >= bar else 'not held'}")
    return all(value >= bar for _, value, bar in bars)


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
