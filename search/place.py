"""Where studies lie, as a command is told: `studies/`, or a URL, and perhaps a database."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

# optuna takes seconds to import and --help must not: it comes after the parsing.
if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from core.artifacts import StudiesFolder, StudyFolder
    from search.leases import Leases


@dataclass(frozen=True, kw_only=True)
class Place:
    """Studies that are there already.

    Attributes:
        studies: Where trials lie.
        database: URL of the database; empty for the journal in the folder.
        storage: Optuna's, opened to be read.
    """

    studies: "StudiesFolder"
    database: str
    storage: "BaseStorage"

    def leases(self, folder: "StudyFolder") -> "Leases":
        """Who runs which trial of a study."""
        from search.storage import open_leases

        return open_leases(folder, self.database)


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name the place."""
    parser.add_argument("studies", help="folder that search.run wrote to, or its URL")
    add_storage_argument(parser)


def add_storage_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--storage`."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        default="",
        help="PostgreSQL database of the studies, postgresql://USER@HOST/NAME (default: a journal in the folder)",
    )


def open_place(args: argparse.Namespace) -> Place:
    """Opens what `add_place_arguments` has read.

    Raises:
        InputError: There is no study.
    """
    from core.errors import InputError
    from core.mirror import open_studies
    from search.storage import read_storage

    studies = open_studies(args.studies)
    place = Place(studies=studies, database=args.storage, storage=read_storage(studies, args.storage))
    if not studies.read_studies():
        raise InputError(
            f"`studies` must hold at least one study, but {args.studies} holds none. Run `python -m search.run` first."
        )
    return place
