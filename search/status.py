"""Shows how searches stand: python -m search.status studies/."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli import Parser, run, write
from search.place import add_place_arguments, open_place

# optuna takes seconds to import and --help must not: it comes after the parsing.
if TYPE_CHECKING:
    import optuna

    from core.artifacts import StudyFolder
    from search.leases import Lease, Leases, Worker
    from search.place import Place

Facts = dict[str, Any]

_RECENT = 20  # trials whose durations tell how long the next ones take


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m search.status", description=__doc__)
    add_place_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")
    return parser


def main(args: argparse.Namespace) -> int:
    """Reads every study. Writes nothing, and waits only to see whether workers on other machines count on."""
    place = open_place(args)
    place.studies.sync_pictures()
    folders = place.studies.read_studies()
    states = look_at_workers([place.leases(folder) for folder in folders])
    facts = [facts_of(folder, place, of_it) for folder, of_it in zip(folders, states, strict=True)]
    write(json.dumps(facts, indent=1) if args.json else "\n\n".join(map(in_text, facts)))
    return 0


def facts_of(folder: "StudyFolder", place: "Place", states: dict[str, str]) -> Facts:
    """How one study stands, with workers in these states; those that have come since are alive."""
    import optuna
    from optuna.trial import TrialState

    from search.summary import rank

    try:
        trials = optuna.load_study(storage=place.storage, study_name=folder.name).get_trials(deepcopy=False)
    except KeyError:  # its search has written study.json and not got to Optuna yet, or was moved here without it
        trials = []
    leases = place.leases(folder)
    held, workers = leases.read_leases(), leases.read_workers()
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    finished = counts["complete"] + counts["pruned"]
    goal = max((worker.goal for worker in workers.values() if states.get(worker.id, "alive") != "ended"), default=0)
    under_way = [describe_running(trial, held.get(trial.number), workers, states) for trial in running]
    at_work = sum(not each["left"] for each in under_way)
    records = folder.read_trials()
    best = rank(records)[:1]
    return {
        "study": folder.name,
        "trials": {"finished": finished, "goal": goal or None, **counts},
        "best": None
        if not best
        else {"trial": best[0].number, "recall": best[0].recall, "interval": list(best[0].recall_interval)},
        "expected_s": expected_s([record.elapsed_s for record in records], goal - finished, at_work),
        "running": under_way,
        "workers": [
            {
                "worker": worker.name,
                "device": worker.device,
                "since": worker.since,
                "state": states.get(worker.id, "alive"),
            }
            for worker in sorted(workers.values(), key=lambda worker: worker.since)
        ],
        "disk": disk_used(folder.root),
    }


def look_at_workers(studies: "Sequence[Leases]") -> list[dict[str, str]]:
    """Of each study's workers whether they are ``alive``, have ``ended``, or have been ``silent`` while we looked."""
    before = [leases.read_workers() for leases in studies]
    # Of those of other machines only their counters tell.
    elsewhere = [
        worker
        for leases, workers in zip(studies, before, strict=True)
        for worker in workers.values()
        if worker.machine != leases.machine
    ]
    time.sleep(max((worker.shows_within_s for worker in elsewhere), default=0))
    return [_states(leases, workers) for leases, workers in zip(studies, before, strict=True)]


def _states(leases: "Leases", before: "dict[str, Worker]") -> dict[str, str]:
    from search.leases import was_restarted

    after = leases.read_workers()
    states = {}
    for worker in before.values():
        if worker.id not in after or leases.is_gone(worker):
            states[worker.id] = "ended"
        elif worker.machine == leases.machine or after[worker.id].counter != worker.counter:
            states[worker.id] = "alive"
        else:
            states[worker.id] = "ended" if was_restarted(worker.machine, leases.machine) else "silent"
    return states


def describe_running(
    trial: "optuna.trial.FrozenTrial", lease: "Lease | None", workers: "dict[str, Worker]", states: dict[str, str]
) -> Facts:
    """Who runs a trial since when, or that nobody does."""
    worker = workers.get(lease.worker) if lease is not None else None
    state = "ended" if worker is None else states.get(worker.id, "alive")
    return {
        "trial": trial.number,
        "epochs": len(trial.intermediate_values),
        "worker": None if worker is None else worker.name,
        "since": None if lease is None else lease.since,
        "owners": 0 if lease is None else lease.generation,
        "left": state == "ended",
    }


def expected_s(elapsed_s: list[float], to_go: int, at_work: int) -> float | None:
    """About how long the trials that are missing take; None where nobody works or nothing is known.

    Args:
        elapsed_s: What each finished trial took, interruptions left out.
        to_go: How many are missing.
        at_work: How many are under way.
    """
    recent = elapsed_s[-_RECENT:]
    if to_go <= 0 or not at_work or not recent:
        return None
    return to_go * sum(recent) / len(recent) / at_work


def disk_used(root: Path) -> dict[str, int]:
    """Bytes of a study's folder, by what they are."""
    from core.trials import MODEL_FILE

    used = {"weights": 0, "checkpoints": 0, "other": 0}
    for folder, _, names in os.walk(root):
        for name in names:
            kind = "weights" if name == MODEL_FILE else "other"
            with suppress(FileNotFoundError):  # a search may be at work
                size = os.lstat(os.path.join(folder, name)).st_size
                used["checkpoints" if os.path.basename(folder) == "running" else kind] += size
    return used


def in_text(facts: Facts) -> str:
    """The facts of one study for people."""
    from core.durations import in_words

    trials, disk = facts["trials"], facts["disk"]
    of_goal = f" of {trials['goal']}" if trials["goal"] else ""
    lines = [
        facts["study"],
        f"  trials    {trials['finished']}{of_goal} finished: {trials['complete']} complete, {trials['pruned']} "
        f"pruned; {trials['running']} running, {trials['fail']} failed",
    ]
    if best := facts["best"]:
        low, high = best["interval"]
        lines.append(
            f"  best      trial {best['trial']}: validation recall {best['recall']:.3f} ({low:.3f} to {high:.3f})"
        )
    if facts["expected_s"] is not None:
        lines.append(f"  expected  about {in_words(facts['expected_s'])} more")
    sizes = ", ".join(f"{size / 1e6:,.1f} MB {kind}" for kind, size in disk.items())
    lines.append(f"  disk      {sum(disk.values()) / 1e6:,.1f} MB: {sizes}")
    lines += [f"  running   {_running_in_text(each)}" for each in facts["running"]]
    lines += [
        f"  worker    {each['worker']}, {each['state']}, since {each['since']} ({each['device']})"
        for each in facts["workers"]
    ]
    return "\n".join(lines)


def _running_in_text(running: Facts) -> str:
    epochs = f"trial {running['trial']}, {running['epochs']} epochs done"
    if running["left"]:
        return f"{epochs}: left by its worker; the next one goes on with it"
    again = f", owner number {running['owners']}" if running["owners"] > 1 else ""
    return f"{epochs}: {running['worker']} since {running['since']}{again}"


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
