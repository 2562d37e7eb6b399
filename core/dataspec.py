"""What a user says of the data: one place or several, and the columns of a plain table.

Light, because command lines import it before they have parsed anything.
"""

import argparse
import dataclasses
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from core.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Names of columns that the user gave for a plain table; empty where they are to be found out."""

    image: str = ""
    label: str = ""
    group: str = ""

    def __bool__(self) -> bool:
        return bool(self.image or self.label or self.group)


NO_COLUMNS = Columns()


@dataclass(frozen=True)
class DataSpec:
    """Where labelled images are, as the user says it.

    Attributes:
        places: Folders, CSV files or npz files; of images that are in several, the first place counts.
        columns: The columns of a plain table.
    """

    places: tuple[Path, ...]
    columns: Columns = NO_COLUMNS

    def __post_init__(self) -> None:
        real = [os.path.realpath(place) for place in self.places]
        if twice := [str(place) for place, path in zip(self.places, real, strict=True) if real.count(path) > 1]:
            raise InputError(f"`--data` must name different places, but got {' and '.join(twice)}. Give it once.")

    def to_dict(self) -> dict[str, Any]:
        """As `study.json` keeps it, with absolute places."""
        columns = {"image": self.columns.image, "label": self.columns.label, "group": self.columns.group}
        return {"places": [os.path.abspath(place) for place in self.places], "columns": columns}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            TypeError, KeyError: It isn't of this shape.
        """
        places, columns = fields["places"], fields["columns"]
        if not (isinstance(places, list) and places and all(isinstance(place, str) for place in places)):
            raise TypeError("places must be a list of paths")
        if strange := [place for place in places if not _may_be_path(place)]:
            raise TypeError(f"places must be paths that files can have, not {strange[0]!a}")
        if not (isinstance(columns, dict) and all(isinstance(name, str) for name in columns.values())):
            raise TypeError("columns must be names")
        return cls(tuple(map(Path, places)), Columns(**columns))

    @classmethod
    def recorded(cls, data: dict[str, Any], moved: Sequence[Path], *, study: str) -> Self:
        """What a search was told, from the `data` of its `study.json`.

        Args:
            data: Has at least `root`, the only place in those that older versions wrote.
            moved: Where the places are now, in the same order; none if they haven't moved.
            study: Name of the study.

        Raises:
            TypeError, KeyError: The data aren't of this shape.
            InputError: There are more or fewer places than the search was given.
        """
        spec = cls.from_dict({"places": [data["root"]], "columns": {}, **data})
        if moved and len(moved) != len(spec.places):
            raise InputError(
                f"`--data` must be given {len(spec.places)} times, as for the search of {study}, but was given "
                f"{len(moved)} times. Give them in the same order."
            )
        return dataclasses.replace(spec, places=tuple(moved)) if moved else spec

    @property
    def flags(self) -> str:
        """The `--data` and column flags of a command line that says the same."""
        columns = vars(self.columns).items()
        words = [word for place in self.places for word in ("--data", str(place))]
        return shlex.join(words + [word for name, value in columns if value for word in (f"--{name}-column", value)])


def _may_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character, as JSON can have
        return False


def add_data_arguments(parser: argparse.ArgumentParser, *, help: str) -> None:
    """Adds `--data`, which may be repeated, and the flags for columns to a command."""
    add_places_argument(parser, help=help)
    add_column_arguments(parser)


def add_places_argument(parser: argparse.ArgumentParser, *, help: str) -> None:
    """Adds `--data`, which may be repeated, to a command that knows the columns or needs none."""
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="PLACE", help=help)


def add_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the columns of a plain table."""
    for name, words in (
        ("image", "column of file names or ids, in a table whose columns nobody could guess"),
        ("label", "column of class names"),
        ("group", "column of lesions or patients, whose images stay in one part"),
    ):
        parser.add_argument(f"--{name}-column", default="", metavar="NAME", help=words)


def read_data_arguments(args: argparse.Namespace, places: Sequence[Path]) -> DataSpec:
    """What the flags of `add_data_arguments` say.

    Raises:
        InputError: A place is named twice.
    """
    return DataSpec(tuple(places), Columns(args.image_column, args.label_column, args.group_column))
