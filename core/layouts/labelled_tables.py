"""Tables of labels beside the images, as the challenges and archives give them out, or as anybody writes them."""

from dataclasses import replace

from core.errors import InputError, few
from core.layouts.contract import Columns, Recognised, words_of
from core.layouts.formats import FORMATS
from core.layouts.image_names import ImageNames, path_role, without_masks
from core.layouts.joining import join
from core.layouts.labels import LabelTable, check_lines
from core.layouts.plain import plain_table, refuse_columns
from core.listing import Listing
from core.tables import Table


def labelled_tables(listing: Listing, columns: Columns) -> Recognised | None:
    """One table of labels or several, anywhere in the folder.

    Tables of a known format are taken; only where there are none, any that has a column of images and one of classes.
    Columns that the user names win over all formats.

    Raises:
        InputError: No table has the columns that the user named, those not named cannot be guessed, or no table has
            the name of an image in its column of images.
    """
    tables = {path: table for path in listing.tables if (table := listing.table(path))}
    labelled = [] if columns else _of_known_format(tables)
    labelled = _with_parts(_without_guesses(labelled or _plain(tables, listing, columns)))
    if not labelled and columns:
        raise refuse_columns(listing.root, list(tables.values()), columns)
    found = join(listing, labelled) if labelled else None
    if found and found.missing and not (found.rows or found.faults or columns):
        _refuse_absent(listing, labelled, found.missing)
    return found


def _without_guesses(tables: list[LabelTable]) -> list[LabelTable]:
    """The tables without those called submissions, which beside others hold examples of an answer and no labels."""
    return [table for table in tables if not _is_submission(table)] or tables


def _is_submission(table: LabelTable) -> bool:
    return "submission" in words_of(table.path.rpartition("/")[2])


def _with_parts(tables: list[LabelTable]) -> list[LabelTable]:
    """Tables of one set that was split by whoever wrote them: ``train.csv`` and ``test.csv``.

    Names alone would say little. But where every table is called like a part, at least two parts are named, and no
    image stands in two tables, to mix them again would train on what somebody has set apart.
    """
    roles = [table.role or path_role(table.path.rpartition("/")[2]) for table in tables]
    names = [line.name for table in tables for line in table.lines]
    if len(set(roles)) < 2 or not all(roles) or len(set(names)) < len(names):
        return tables
    return [replace(table, role=role) for table, role in zip(tables, roles, strict=True)]


def _refuse_absent(listing: Listing, tables: list[LabelTable], missing: list[str]) -> None:
    """Refuses tables of other images, so that nothing else here passes for what they should have said.

    Raises:
        InputError: Always.
    """
    raise InputError(
        f"`--data` must hold the images that its tables name, but of {len(missing):,} in "
        f"{few([table.path for table in tables])} none is below {listing.root}: {few(missing)}. Correct the names, "
        "say with --image-column where they stand, or take the table away if it is about other images."
    )


def _of_known_format(tables: dict[str, Table]) -> list[LabelTable]:
    readings = {
        path: next((reading for recognise in FORMATS if (reading := recognise(table))), None)
        for path, table in tables.items()
    }
    return [check_lines(path, tables[path], reading) for path, reading in readings.items() if reading]


def _plain(tables: dict[str, Table], listing: Listing, columns: Columns) -> list[LabelTable]:
    images = ImageNames(listing.root, without_masks(listing.images)[0])
    named = [name for name in (columns.image, columns.label, columns.group) if name]
    readings = {path: plain_table(path, table, columns, images) for path, table in tables.items() if table.has(*named)}
    return [check_lines(path, tables[path], reading) for path, reading in readings.items() if reading]
