"""Part (i) of benchmarks.search: one trial for each unfreeze depth, ours against a plain one.

The plain trial's time over ours, at first (when the frozen part is computed and remembered) and again (when it is
remembered, as for every later trial of a search), beside what the arithmetic allows: (F + T) / T, with F the frozen
part's share of an epoch and T that of the learning part.
"""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import peak_memory_gb
from benchmarks.search_sides import STATE, Plan, open_ours, open_plain, process_of
from core import cli

if TYPE_CHECKING:
    import torch


def compare_depths(plan: Plan, depths: Sequence[int] | None) -> list[dict[str, Any]]:
    """One row for each depth."""
    if depths is not None and not depths:
        return []
    rows = []
    with process_of(open_ours, plan) as ours, process_of(open_plain, plan) as plain:
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


def _deepest() -> int:
    return int(STATE["trainer"].model.max_unfreeze_depth)


@lru_cache(maxsize=1)
def _body_size() -> int:
    from core.backbones import build_classifier

    return build_classifier(STATE["task"].arch, num_classes=2, weights=None, seed=0).body_size


def _values(depth: int, number: int) -> dict[str, Any]:
    from search.space import build_space

    space = build_space(
        STATE["task"].arch.timm_name,
        max(depth, 1),
        parameters=_body_size(),
        pretrained=True,
    )
    return {**space.known_good, "unfreeze_depth": depth, "trial": number}


def _our_trial(depth: int, number: int) -> dict[str, float]:
    config = STATE["task"].config(STATE["plan"].epochs, **_values(depth, number))
    start = time.perf_counter()
    result = STATE["trainer"].train(config, lambda epoch: None)
    seconds = time.perf_counter() - start
    recall = max(row["val_recall"] for row in result.history)
    return {"seconds": seconds, "recall": recall, "peak_gb": peak_memory_gb()}


def _plain_trial(depth: int, number: int) -> dict[str, float]:
    config = STATE["task"].config(STATE["plan"].epochs, **_values(depth, number))
    start = time.perf_counter()
    recalls = STATE["trainer"].train(config)
    return {"seconds": time.perf_counter() - start, "recall": max(recalls), "peak_gb": peak_memory_gb()}


def _arithmetic(depth: int) -> tuple[float, float]:
    """Seconds of an epoch, training and validation, of the frozen part and of the learning part."""
    from core.evaluation import EVAL_BATCH_SIZE

    task, trainer = STATE["task"], STATE["trainer"]
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
                run.step([batch], len(batch.labels), run.config.lr)
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


def over_list(rows: Sequence[dict[str, Any]], ours: str) -> float:
    return float(sum(row["plain_s"] for row in rows) / sum(row[ours] for row in rows))
