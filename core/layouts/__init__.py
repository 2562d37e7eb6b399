"""The layouts in which labelled image sets arrive, each recognised by its columns and structure, never by its name.

A new layout is one more function in `LAYOUTS`, in a file of its own; `core.layouts.contract` says what it gives.
"""

from dataclasses import replace

from core.errors import InputError, few
from core.layouts.class_folders import class_folders
from core.layouts.cleaned import is_cleaned
from core.layouts.contract import Columns, Layout, Recognised
from core.layouts.labelled_tables import labelled_tables
from core.listing import Listing
from core.tables import open_table

LAYOUTS: tuple[Layout, ...] = (labelled_tables, class_folders)


def recognise(listing: Listing, columns: Columns) -> Recognised:
    """Finds out how a folder names its labels.

    Args:
        listing: What lies in it.
        columns: What the user said of its table.

    Raises:
        InputError: It is of no known layout.
    """
    tables = {name: table for name in listing.tables if (table := open_table(listing.root / name))}
    # What `--fix` left here is taken by its own name only: it says nothing of images that came later.
    cleaned = [name for name, table in tables.items() if is_cleaned(table)]
    listing = replace(listing, tables=tuple(name for name in tables if name not in cleaned))
    for layout in LAYOUTS:
        if (found := layout(listing, columns)) is not None:
            notes = [f"{listing.root / name} is a cleaned manifest, not used unless given itself" for name in cleaned]
            return replace(found, notes=[*found.notes, *notes])
    named = few([f"{table.name} has {', '.join(table.columns)}" for table in tables.values()])
    raise InputError(
        "`--data` must be a folder with a table of images and labels, or with one folder of images for each class, "
        f"but {listing.root} is neither{f' ({named})' if named else ''}. Name the table's columns with --image-column "
        "and --label-column, or sort the images into <class>/<image>.jpg."
    )
