"""Part (ii) of benchmarks.search: whole searches, until each holds a trial that is as good.

A trial is confirmed by training its config with three other seeds, after the searches and outside their time; the
target is the highest recall that both sides reach. Both show reflected skin where a turned image leaves the photo: with
torchvision's black corners the plain side recognises less, and would choose worse trials.
"""

import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.reporting import TreeMemory
from benchmarks.search_sides import STATE, Plan, open_plain, process_of
from core import cli
from core.cache import CACHE_VARIABLE

CONFIRMING_SEEDS = (101, 102, 103)


def compare_searches(plan: Plan, n_trials: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each pair of searches."""
    rows = []
    confirmed: dict[str, float] = {}  # the same config need not be confirmed twice
    for repeat in range(repeats):
        sides, memory_gb = {}, {}
        for side, search in (("ours", our_search), ("plain", plain_search)):
            with TreeMemory() as memory:
                sides[side] = search(plan, n_trials, repeat)
            memory_gb[side] = memory.peak_gb
        with process_of(_open_confirming, plan) as process:
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
                "peak_memory_gb": memory_gb,
                "climbs": climbs,
                "searches": sides,
            }
        )
        cli.write(
            f"seed {repeat}: confirmed recall {target:.3f} after {reached['ours']:.0f} s (ours) and "
            f"{reached['plain']:.0f} s (plain), ratio {rows[-1]['ratio']:.2f}; all {n_trials} trials in "
            f"{rows[-1]['whole_s']['ours']:.0f} and {rows[-1]['whole_s']['plain']:.0f} s, ratio "
            f"{rows[-1]['ratio_whole']:.2f}; {memory_gb['ours']:.1f} and {memory_gb['plain']:.1f} GB"
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
    command += ["--framing", plan.framing]
    command += ["--search-size", str(plan.search_size)] if plan.search_size else []
    command += ["--workers", str(plan.search_workers)]
    begin = time.time()
    # A cache of its own: what earlier searches have decoded and remembered there would be a present.
    environment = {**os.environ, CACHE_VARIABLE: str(plan.folder / f"cache-{seed}")}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = []
    for trial in open_study(open_storage(studies), "ours").get_trials(deepcopy=False):
        assert trial.datetime_complete is not None, "the search is over"
        recalls = list(trial.intermediate_values.values())
        trials.append(
            {"params": trial.params, "recalls": recalls, "ended_s": trial.datetime_complete.timestamp() - begin}
        )
    return sorted(trials, key=lambda trial: trial["ended_s"])  # several workers don't end them in order


def plain_search(plan: Plan, n_trials: int, seed: int) -> list[dict[str, Any]]:
    """The plain search; the time to import and to read the list of images counts, as it does for ours."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_search_plainly, plan, n_trials, seed, time.time()).result()


def _search_plainly(plan: Plan, n_trials: int, seed: int, begin: float) -> list[dict[str, Any]]:
    from benchmarks import plain_search as plain
    from core.backbones import build_classifier
    from search.run import build_parser as search_parser
    from search.space import build_space

    open_plain(plan, reflect=True)
    task = STATE["task"]
    model = build_classifier(task.arch, num_classes=len(task.manifest.classes), weights=task.weights, seed=0)
    space = build_space(
        task.arch.timm_name,
        model.max_unfreeze_depth,
        parameters=model.body_size,
        pretrained=bool(task.weights.state),
    )
    before_s = time.time() - begin
    ships = search_parser().get_default
    trials = plain.plain_search(
        STATE["trainer"],
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
    STATE.update(plan=plan, task=task)
    STATE["trainers"] = [
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
    for trainer in STATE["trainers"]:
        # The views stay those of the study, so that what is frozen need not be computed for each seed.
        fixed = {**STATE["task"].fixed(STATE["plan"].epochs), "seed": trainer.seed}
        from core.config import TrainConfig

        result = trainer.train(TrainConfig.from_dict({**fixed, **params}), lambda epoch: None)
        recalls.append(max(row["val_recall"] for row in result.history))
    return statistics.mean(recalls)
