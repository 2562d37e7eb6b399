"""Recognises labelled images and checks every one of them: `python -m core.datasets FOLDER`."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.dataspec import DataSpec, add_column_arguments, read_data_arguments
from core.errors import InputError, counted, few
from core.manifest import Manifest

if TYPE_CHECKING:
    from core.survey import Survey

_log = logging.getLogger(__name__)


def load_manifest(data: DataSpec | Path) -> Manifest:
    """Recognises a folder, a CSV, an npz file or several of them, and reads every image.

    The first time this takes about 2 ms an image and core; after that the findings are remembered.

    Args:
        data: Where the images are; a path stands for a spec of that one place.

    Raises:
        InputError: The layout is unknown, something must be mended, or there is only one class.
    """
    from core.cleaning import contradicting_copies
    from core.survey import survey

    spec = DataSpec((data,)) if isinstance(data, Path) else data
    found = survey(spec)
    if found.faults:
        raise InputError(_all_faults(found, found.faults))
    for note in found.notes:
        _log.warning("%s", note)
    if contradicting := contradicting_copies(found.samples):
        _log.warning(
            "%d images are copies of others that have another class: %s; --fix leaves them out",
            len(contradicting),
            few([found.samples[index].path for index in contradicting]),
        )
    manifest = found.manifest()
    if not manifest.grouped:
        _log.warning("%s names no lesions or patients: photos of the same one may be in two splits", manifest.where)
    return manifest


def _all_faults(found: "Survey", faults: tuple[str, ...], *, shown: bool = False) -> str:
    """One sentence for all faults, and the command that shows or mends them; they may have been shown already."""
    command = f"python -m core.datasets {found.spec.flags.replace('--data ', '')}"
    others = f"{len(faults) - 1} more kinds of faults are" if len(faults) > 2 else "One more kind of fault is"
    more = f" {others} listed {'above' if shown else f'by `{command}`'}." if len(faults) > 1 else ""
    # where the images are, as a cleaned manifest must lie above them
    target = Path(os.path.commonpath([part.root for part in found.sets])) / "cleaned.csv"
    fix = f" Or leave out what is concerned: `{command} --fix {shlex.quote(str(target))}`."
    return f"{faults[0]}{more}{fix if _can_be_fixed(found) else ''}"


def _can_be_fixed(found: "Survey") -> bool:
    from core.cleaning import clean, refuse_arrays

    try:
        refuse_arrays(found)
        clean(found)
    except InputError:
        return False
    return True


def main(args: argparse.Namespace) -> int:
    """Downloads, or prints what is there and how it would be split; draws its sheet and writes its cleaned manifest."""
    if args.download:
        return _download(args)
    if not args.places:
        raise InputError("`FOLDER` must be given, but got none. Give a folder, a CSV or an npz file.")
    spec = read_data_arguments(args, args.places)
    if args.sheet:
        from core.sheet import check_sheet

        check_sheet(args.sheet, spec.places)
    if args.fix:
        from core.layouts.cleaned import check_target

        check_target(args.fix)
    from core.cleaning import write_fixed
    from core.overview import describe, draw_sheet
    from core.survey import survey

    found = survey(spec)
    faults = describe(found, seed=args.seed)
    if args.sheet:
        draw_sheet(found, args.sheet)
    if args.fix:
        write_fixed(found, args.fix)
        return 0
    if faults:
        cli.write()
        raise InputError(_all_faults(found, faults, shown=True))
    return 0


def _download(args: argparse.Namespace) -> int:
    from core.download import download

    if len(args.places) != 1 or args.sheet or args.fix:
        raise InputError(
            "`--download` must be given with one folder to write to and without --sheet and --fix, but got "
            f"{counted(len(args.places), 'folder')}{' and more' if args.sheet or args.fix else ''}. Look at what has "
            "been downloaded with a second command."
        )
    download(args.download, args.places[0])
    cli.write(f"next: python -m core.datasets {args.places[0]}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from core.download_names import NAMES

    parser = cli.Parser(prog="python -m core.datasets", description=__doc__)
    parser.add_argument(
        "places",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help="folder of labelled images, CSV or npz file; several are merged, and images in both count once",
    )
    parser.add_argument("--seed", type=cli.natural_int, default=0, help="draws train and val, never the test part [0]")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet of every class, .png or .jpg")
    parser.add_argument(
        "--fix", type=Path, metavar="FILE.csv", help="write a manifest without the faults, for --data FILE.csv"
    )
    parser.add_argument("--download", choices=NAMES, help="fetch this set from its public source into FOLDER")
    add_column_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
