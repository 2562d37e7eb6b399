"""The layouts in which labelled image sets arrive, each recognised by its columns and structure, never by its name.

A new layout is one more function in `LAYOUTS`, in a file of its own; `core.layouts.contract` says what it gives.
"""

from core.errors import InputError, few
from core.layouts.class_folders import class_folders
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
    for layout in LAYOUTS:
        if (found := layout(listing, columns)) is not None:
            return found
    tables = [table for name in listing.tables if (table := open_table(listing.root / name))]
    named = few([f"{table.name} has {', '.join(table.columns)}" for table in tables])
    raise InputError(
        "`--data` must be a folder with a table of images and labels, or with one folder of images for each class, "
        f"but {listing.root} is neither{f' ({named})' if named else ''}. Name the table's columns with --image-column "
        "and --label-column, or sort the images into <class>/<image>.jpg."
    )
