"""Removes what searches have left and nothing needs: python -m search.clean studies/ [--dry-run].

Finished trials, their curves and probabilities, the weights of the best, pictures and the journal stay.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.cli import Parser, run, write

# optuna takes seconds to import and --help must not: it comes after the parsing.
if TYPE_CHECKING:
    from optuna.storages import JournalStorage

    from core.artifacts import StudiesFolder, StudyFolder
    from search.leases import FileLeases

ASIDE_S = 3600.0  # a file aside that nobody has written to for so long is a dead process's


class Item(NamedTuple):
    """Something that can go."""

    what: str  # for people
    path: Path


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m search.clean", description=__doc__)
    parser.add_argument("studies", type=Path, help="folder that search.run wrote to")
    parser.add_argument("--dry-run", action="store_true", help="show what would go, and remove nothing")
    return parser


def main(args: argparse.Namespace) -> int:
    """Removes study by study, each under its lock."""
    from core.artifacts import StudiesFolder
    from search.leases import FileLeases
    from search.storage import read_storage

    studies = StudiesFolder(args.studies)
    storage = read_storage(studies)
    items: list[tuple[Item, int]] = []
    for folder in studies.read_studies():
        leases = FileLeases(folder)
        with leases.lock():
            found = list(left_by_dead_workers(folder, leases))
            found += left_by_trials(folder, storage) + left_aside(folder.root) + left_aside(folder.running)
            items += remove(found, dry_run=args.dry_run)
    shared = left_aside(studies.root) + unused_weights(studies)
    if studies.artifacts.is_dir():
        shared += left_aside(studies.artifacts) + unnamed_pictures(studies, storage)
    items += remove(shared, dry_run=args.dry_run)
    show(items, dry_run=args.dry_run)
    return 0


def left_by_dead_workers(folder: "StudyFolder", leases: "FileLeases") -> Iterator[Item]:
    """Entries of workers whose processes have certainly ended; those of other machines stay for a day."""
    for worker in leases.read_workers().values():
        files = [folder.running / f"worker-{worker.id}.{end}" for end in ("json", "lock")]
        silent_s = time.time() - files[0].stat().st_mtime
        if leases.is_gone(worker) or silent_s > 24 * ASIDE_S:
            yield from (Item("entries of dead workers", file) for file in files if file.exists())


def left_by_trials(folder: "StudyFolder", storage: "JournalStorage") -> list[Item]:
    """Checkpoints and leases of trials that are over, and folders of trials that were not whole."""
    import optuna

    try:
        trials = optuna.load_study(storage=storage, study_name=folder.name).get_trials(deepcopy=False)
    except KeyError:
        trials = []
    over = {f"trial-{trial.number:04d}" for trial in trials if trial.state.is_finished()}
    files = [*folder.running.glob("trial-*.lease"), *folder.running.glob("trial-*.safetensors")]
    items = [Item("checkpoints of finished trials", file) for file in files if file.name.split(".")[0] in over]
    return items + [Item("folders that were not whole", path) for path in (folder.root / "set-aside").glob("*")]


def left_aside(folder: Path) -> list[Item]:
    """Files that killed processes had been writing."""
    now = time.time()
    return [
        Item("half-written files", path) for path in folder.glob(".*.tmp") if now - path.lstat().st_mtime >= ASIDE_S
    ]


def unused_weights(studies: "StudiesFolder") -> list[Item]:
    """First weights that no study starts from."""
    used = {folder.read_study().get("weights", {}).get("hash") for folder in studies.read_studies()}
    files = (studies.root / "weights").glob("*.safetensors")
    return [Item("first weights of no study", file) for file in files if file.stem not in used]


def unnamed_pictures(studies: "StudiesFolder", storage: "JournalStorage") -> list[Item]:
    """Pictures of no trial. A picture is named before it is drawn, so the files are listed before the names."""
    import optuna
    from optuna.artifacts import get_all_artifact_meta

    files = [path for path in studies.artifacts.iterdir() if path.is_file() and not path.name.startswith(".")]
    named = set()
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(storage=storage, study_name=summary.study_name)
        metas = [get_all_artifact_meta(trial, storage=storage) for trial in study.get_trials(deepcopy=False)]
        named |= {meta.artifact_id for each in (get_all_artifact_meta(study), *metas) for meta in each}
    return [Item("pictures of no trial", file) for file in files if file.name not in named]


def remove(items: list[Item], *, dry_run: bool) -> list[tuple[Item, int]]:
    """Removes items, or only measures them; returns each with its bytes."""
    measured = [(item, size_of(item.path)) for item in items]
    if not dry_run:
        for item in items:
            if item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
    return measured


def size_of(path: Path) -> int:
    """Bytes of a file, or of all in a folder; links count for nothing."""
    paths = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in paths if each.is_file() and not each.is_symlink())


def show(items: list[tuple[Item, int]], *, dry_run: bool) -> None:
    """Says what went, or would go."""
    for what in dict.fromkeys(item.what for item, _ in items):
        sizes = [size for item, size in items if item.what == what]
        write(f"{sum(sizes) / 1e6:>10,.1f} MB  {len(sizes):>5}  {what}")
    total = f"{sum(size for _, size in items) / 1e6:,.1f} MB"
    write(f"{total} can go. Nothing was removed." if dry_run else f"{total} removed.")


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
