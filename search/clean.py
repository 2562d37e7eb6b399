"""Removes what searches have left and nothing needs: python -m search.clean studies/ [--dry-run].

Finished trials, their curves and probabilities, the weights of the best, pictures and the journal stay.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.cli import Parser, run, write
from search.place import add_place_arguments, open_place

# optuna takes seconds to import and --help must not: it comes after the parsing.
if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from core.artifacts import StudiesFolder, StudyFolder
    from search.leases import Leases

_DAY_S = 86400.0


class Item(NamedTuple):
    """Something that can go."""

    what: str  # for people
    size: int  # bytes
    remove: Callable[[], object]


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m search.clean", description=__doc__)
    add_place_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would go, and remove nothing")
    return parser


def main(args: argparse.Namespace) -> int:
    """Removes study by study, each under its lock."""
    place = open_place(args)
    studies, storage = place.studies, place.storage
    items: list[Item] = []
    for folder in studies.read_studies():
        leases = place.leases(folder)
        with leases.lock():
            found = [*left_by_dead_workers(leases), *left_by_trials(folder, leases, storage)]
            found += left_aside(folder.root) + left_aside(folder.running)
            items += remove(found, dry_run=args.dry_run)
    shared = left_aside(studies.root) + left_aside(studies.artifacts)
    shared += unused_weights(studies) + unnamed_pictures(studies, storage)
    items += remove(shared, dry_run=args.dry_run)
    show(items, dry_run=args.dry_run)
    return 0


def left_by_dead_workers(leases: "Leases") -> Iterator[Item]:
    """Entries of workers whose processes have certainly ended; those of other machines stay for a day."""
    for worker in leases.read_workers().values():
        silent = worker.machine != leases.machine and leases.silent_s(worker) > _DAY_S
        if silent or leases.is_gone(worker):
            yield Item("entries of dead workers", 0, partial(leases.leave, worker))


def left_by_trials(folder: "StudyFolder", leases: "Leases", storage: "BaseStorage") -> Iterator[Item]:
    """Checkpoints and leases of trials that are over, and folders of trials that were not whole."""
    import optuna

    try:
        trials = optuna.load_study(storage=storage, study_name=folder.name).get_trials(deepcopy=False)
    except KeyError:
        trials = []
    over = {trial.number for trial in trials if trial.state.is_finished()}
    for number, size in folder.checkpoint_sizes().items():
        if number in over:
            yield Item("checkpoints of finished trials", size, partial(folder.drop_checkpoints, number))
    for number in over.intersection(leases.leased()):
        yield Item("leases of finished trials", 0, partial(leases.remove, number))
    for path in (folder.root / "set-aside").glob("*"):
        yield of_path("folders that were not whole", path)


def left_aside(folder: Path) -> list[Item]:
    """Files that killed processes had been writing."""
    from core.files import LEFTOVER_S, leftovers

    return [of_path("half-written files", path) for path in leftovers(folder, older_than_s=LEFTOVER_S)]


def unused_weights(studies: "StudiesFolder") -> list[Item]:
    """First weights that no study starts from."""
    from core.files import LEFTOVER_S

    used = {folder.read_study().get("weights", {}).get("hash") for folder in studies.read_studies()}
    # A study that is being started has its weights before it has its study.json.
    unused = [file for file in files_in(studies, "weights") if file.suffix == ".safetensors" and file.stem not in used]
    old = [file for file in unused if studies.age_s(file) >= LEFTOVER_S]
    return [of_shared("first weights of no study", file, studies) for file in old]


def unnamed_pictures(studies: "StudiesFolder", storage: "BaseStorage") -> list[Item]:
    """Pictures of no trial. A picture is named before it is drawn, so the files are listed before the names.

    All stay if a study is of another storage, which may name them: a folder can hold studies of a journal and of
    databases.
    """
    import optuna
    from optuna.artifacts import get_all_artifact_meta

    from core.errors import few

    files = files_in(studies, studies.artifacts.name)
    folders = studies.read_studies()
    summaries = optuna.get_all_study_summaries(storage)
    known = {summary.study_name for summary in summaries}
    if elsewhere := [folder.name for folder in folders if folder.name not in known]:
        write(f"Pictures stay: they may be of {few(elsewhere)}, of which this storage knows nothing.")
        return []
    named = set()
    for summary in summaries:
        study = optuna.load_study(storage=storage, study_name=summary.study_name)
        metas = [get_all_artifact_meta(trial, storage=storage) for trial in study.get_trials(deepcopy=False)]
        named |= {meta.artifact_id for each in (get_all_artifact_meta(study), *metas) for meta in each}
    return [of_shared("pictures of no trial", file, studies) for file in files if file.name not in named]


def files_in(studies: "StudiesFolder", name: str) -> list[Path]:
    """The files of a folder, in this machine's copy or at the URL; neither folders in it nor what is still written."""
    folder = studies.root / name
    names = studies.names_in(folder)
    folders = {each.partition("/")[0] for each in names if "/" in each}
    files = [folder / each for each in names if "/" not in each and not each.startswith(".") and each not in folders]
    return [file for file in files if not file.is_dir()]


def of_path(what: str, path: Path) -> Item:
    """A file, a link, or a folder with all that is in it."""
    is_folder = path.is_dir() and not path.is_symlink()
    return Item(what, size_of(path), partial(shutil.rmtree, path) if is_folder else partial(path.unlink, True))


def of_shared(what: str, file: Path, studies: "StudiesFolder") -> Item:
    """A file that others' copies have, too; its size is that of this machine's."""
    return Item(what, size_of(file), partial(studies.remove, file))


def remove(items: list[Item], *, dry_run: bool) -> list[Item]:
    """Removes items, or leaves them; returns them."""
    for item in () if dry_run else items:
        item.remove()
    return items


def size_of(path: Path) -> int:
    """Bytes of a file, or of all in a folder; links count for nothing."""
    paths = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in paths if each.is_file() and not each.is_symlink())


def show(items: list[Item], *, dry_run: bool) -> None:
    """Says what went, or would go."""
    for what in dict.fromkeys(item.what for item in items):
        sizes = [item.size for item in items if item.what == what]
        write(f"{sum(sizes) / 1e6:>10,.1f} MB  {len(sizes):>5}  {what}")
    total = f"{sum(item.size for item in items) / 1e6:,.1f} MB"
    write(f"{total} can go. Nothing was removed." if dry_run else f"{total} removed.")


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
