"""Tables of labels beside the images, as the challenges and archives give them out, or as anybody writes them."""

from core.layouts.contract import Columns, Recognised
from core.layouts.formats import FORMATS
from core.layouts.image_names import ImageNames, is_mask
from core.layouts.joining import join
from core.layouts.labels import LabelTable, check_lines
from core.layouts.plain import plain_table, refuse_columns
from core.listing import Listing
from core.tables import Table, open_table


def labelled_tables(listing: Listing, columns: Columns) -> Recognised | None:
    """One table of labels or several, anywhere in the folder.

    Tables of a known format are taken; only where there are none, any that has a column of images and one of classes.
    Columns that the user names win over all formats.

    Raises:
        InputError: No table has the columns that the user named, or those not named cannot be guessed.
    """
    tables = {path: table for path in listing.tables if (table := open_table(listing.root / path))}
    labelled = [] if columns else _of_known_format(tables)
    labelled = labelled or _plain(tables, listing, columns)
    if not labelled and columns:
        raise refuse_columns(listing.root, list(tables.values()), columns)
    return join(listing, labelled) if labelled else None


def _of_known_format(tables: dict[str, Table]) -> list[LabelTable]:
    readings = {
        path: next((reading for recognise in FORMATS if (reading := recognise(table))), None)
        for path, table in tables.items()
    }
    return [check_lines(path, tables[path], reading) for path, reading in readings.items() if reading]


def _plain(tables: dict[str, Table], listing: Listing, columns: Columns) -> list[LabelTable]:
    images = ImageNames(listing.root, [image for image in listing.images if not is_mask(image)])
    named = [name for name in (columns.image, columns.label, columns.group) if name]
    readings = {path: plain_table(path, table, columns, images) for path, table in tables.items() if table.has(*named)}
    return [check_lines(path, tables[path], reading) for path, reading in readings.items() if reading]
