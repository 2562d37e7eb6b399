"""The layouts in which labelled image sets arrive, each recognised by its columns and structure, never by its name.

A new layout is one more function in `LAYOUTS`, in a file of its own; `core.layouts.contract` says what it gives.
"""

from dataclasses import replace

from core.errors import InputError, few
from core.layouts.class_folders import class_folders, labels_of_folders
from core.layouts.cleaned import is_cleaned
from core.layouts.contract import Columns, Layout, Recognised
from core.layouts.labelled_tables import labelled_tables
from core.listing import Listing

_MUCH_MORE = 1.5  # times as many images that folders could label as tables do: these would be a small part of the set

LAYOUTS: tuple[Layout, ...] = (labelled_tables, class_folders)


def recognise(listing: Listing, columns: Columns, *, chosen: bool = False) -> Recognised:
    """Finds out how a folder names its labels.

    Args:
        listing: What lies in it.
        columns: What the user said of its table.
        chosen: The user gave its table rather than the folder.

    Raises:
        InputError: It is of no known layout, or of two.
    """
    listing = replace(listing, opened={})
    tables = {name: table for name in listing.tables if (table := listing.table(name))}
    # What `--fix` left here is taken by its own name only: it says nothing of images that came later.
    cleaned = [name for name, table in tables.items() if is_cleaned(table)]
    listing = replace(listing, tables=tuple(name for name in tables if name not in cleaned))
    for layout in LAYOUTS:
        if (found := layout(listing, columns)) is not None:
            if chosen and layout is class_folders and not any(row.group for row in found.rows):
                break  # whoever gives a table wants it to be read
            if layout is labelled_tables and not (chosen or columns):
                _refuse_small_tables(listing, found)
            notes = [f"{listing.root / name} is a cleaned manifest, not used unless given itself" for name in cleaned]
            return replace(found, notes=[*found.notes, *notes])
    named = few([f"{table.name} has {', '.join(table.columns)}" for table in tables.values()])
    raise InputError(
        "`--data` must be a folder with a table of images and labels, or with one folder of images for each class, "
        f"but {listing.root} is neither{f' ({named})' if named else ''}. Name the table's columns with --image-column "
        "and --label-column, or sort the images into <class>/<image>.jpg."
    )


def _refuse_small_tables(listing: Listing, found: Recognised) -> None:
    """Refuses tables of labels beside class folders that could label far more images.

    Raises:
        InputError: Nobody but the user can know which of them tell the classes.
    """
    if not found.unlabelled:
        return
    of_folders = labels_of_folders(listing.images)
    classes = sorted(set(of_folders.values()))
    told = of_folders.keys() - set(found.unlabelled)
    if len(classes) < 2 or len(of_folders) <= _MUCH_MORE * len(told):
        return
    raise InputError(
        f"The classes must come from tables or from folders, but {found.reason} and tells {len(told):,} images, and "
        f"the folders {few(classes)} hold {len(of_folders):,}. Name the table's column with --label-column, or give "
        "the table itself, if it is right; take it away if the folders are."
    )
