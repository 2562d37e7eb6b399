"""Built-in images for a first run without data or network: procedural dermoscopy in HAM10000's layout.

They show how the parts work together, nothing clinical: whoever reads a folder of them knows it by its `demo.json`.

    python -m core.demo FOLDER --images 600 --seed 0 --sheet sheet.jpg
"""

import argparse
import csv
import io
import json
import multiprocessing
import shutil
import sys
import uuid
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.demo_layout import COLUMNS, MARKER, METADATA, PARTS
from core.device import available_cores
from core.errors import InputError

if TYPE_CHECKING:
    from core.demo_lesions import Lesion

# Raised whenever the same seed gives other images than before.
VERSION = 1
JPEG_QUALITY = 90
SMALLEST, LARGEST = 32, 10_000  # pixels; below it nothing can be told, above it memory does not suffice
WIDEST = 1.6  # times the height: as much skin is painted


def write_demo(
    folder: Path, *, images: int = 600, seed: int = 0, width: int = 300, height: int = 225, workers: int | None = None
) -> Path:
    """Writes demo images, their metadata and the marker `demo.json`; a folder that already holds just these is kept.

    The folder appears whole or not at all. The same arguments give the same bytes, whatever `workers`.

    Args:
        folder: Where to; absent or empty.
        images: Photos in all, of fewer lesions: some lesions were photographed up to 6 times.
        seed: Chooses lesions, people and photos.
        width: Of each photo, pixels.
        height: Of each photo, pixels.
        workers: Processes; all cores that this process may use by default.

    Returns:
        `folder`.

    Raises:
        InputError: `images`, `width`, `height`, `seed` or `workers` is out of range, or `folder` holds something else.
    """
    from core.demo_lesions import plan_lesions

    _check_ranges(seed=seed, width=width, height=height, workers=workers)
    lesions = plan_lesions(images, seed)
    marker = json.dumps({"version": VERSION, "seed": seed, "images": images, "width": width, "height": height}) + "\n"
    if _holds(folder, marker):
        return folder
    staging = folder.absolute().with_name(f".{folder.absolute().name}.{uuid.uuid4().hex}")
    try:
        _make_parts(staging)
        part_of = _parts(lesions)
        paint = partial(_write_photos, staging=staging, part_of=part_of, seed=seed, width=width, height=height)
        with cli.progress("drawing demo images", images) as bar, closing(_spread(paint, lesions, workers)) as done:
            for photos in done:
                bar.advance(photos)
        _write_metadata(staging / METADATA, lesions)
        (staging / MARKER).write_text(marker, encoding="utf-8")
        _put_in_place(staging, folder, marker)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _check_ranges(*, seed: int, width: int, height: int, workers: int | None) -> None:
    for name, value, least in (("seed", seed, 0), ("width", width, SMALLEST), ("height", height, SMALLEST)):
        if value < least:
            raise InputError(f"`{name}` must be at least {least}, but got {name}={value}. Choose a larger one.")
    for name, value in (("width", width), ("height", height)):
        if value > LARGEST:
            raise InputError(f"`{name}` must be at most {LARGEST:,}, but got {name}={value}. Choose a smaller one.")
    if width > WIDEST * height:
        raise InputError(
            f"`width` must be at most {WIDEST} times `height`, but got width={width} and height={height}. "
            "Choose a narrower one."
        )
    if workers is not None and workers < 1:
        raise InputError(f"`workers` must be at least 1, but got workers={workers}. Leave it out to use all cores.")


def _holds(folder: Path, marker: str) -> bool:
    """True if the folder holds the very images asked for, False if it is free to be written.

    Raises:
        InputError: It holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if (folder / MARKER).is_file() and (folder / MARKER).read_text(encoding="utf-8") == marker:
        return True
    raise InputError(f"`folder` must be absent or empty, but got folder={folder}. Name another one or delete this one.")


def _make_parts(staging: Path) -> None:
    try:
        for part in PARTS:
            (staging / part).mkdir(parents=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"`folder` must lie in a folder, but got {staging.parent}. Name another one.") from error


def _parts(lesions: Iterable["Lesion"]) -> dict[str, str]:
    """Which of the two image folders each photo lies in: the first half by id in the first, as in HAM10000."""
    ids = sorted(image_id for lesion in lesions for image_id in lesion.image_ids)
    return {image_id: PARTS[2 * position >= len(ids)] for position, image_id in enumerate(ids)}


def _spread(paint: "partial[int]", lesions: list["Lesion"], workers: int | None) -> Generator[int, None, None]:
    """Runs `paint` on every lesion, in several processes; yields the numbers of photos, in order."""
    workers = min(workers or available_cores(), len(lesions))
    if workers == 1:
        yield from map(paint, lesions)
        return
    # Forking a process that has started threads (torch, rich) can deadlock its children.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(paint, lesions, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_photos(
    lesion: "Lesion", *, staging: Path, part_of: dict[str, str], seed: int, width: int, height: int
) -> int:
    """Paints one lesion, writes every photo of it and returns their number."""
    import numpy as np
    from PIL import Image

    from core.demo_camera import photograph
    from core.demo_drawing import paint_lesion
    from core.demo_lesions import draw_traits

    seeds = np.random.SeedSequence(seed, spawn_key=(lesion.number,)).spawn(1 + len(lesion.image_ids))
    looks, *moments = (np.random.default_rng(child) for child in seeds)
    skin = paint_lesion(draw_traits(lesion.dx, looks), looks, scale=height / 2)
    for image_id, moment in zip(lesion.image_ids, moments, strict=True):
        photo = Image.fromarray(photograph(skin, moment, width, height))
        encoded = io.BytesIO()  # Pillow itself passes over a full disk: the JPEG would be cut in silence
        photo.save(encoded, format="JPEG", quality=JPEG_QUALITY)
        (staging / part_of[image_id] / f"{image_id}.jpg").write_bytes(encoded.getvalue())
    return len(lesion.image_ids)


def _write_metadata(path: Path, lesions: Iterable["Lesion"]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for lesion in lesions:
            for image_id in lesion.image_ids:
                writer.writerow([image_id if name == "image_id" else getattr(lesion, name) for name in COLUMNS])


def _put_in_place(staging: Path, folder: Path, marker: str) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    try:
        staging.rename(folder)
    except OSError:
        # Another process was faster; both wrote the same.
        if not (folder.is_dir() and _holds(folder, marker)):
            raise


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m core.demo", description="Write procedural dermoscopic images in HAM10000's layout."
    )
    parser.add_argument("folder", type=Path, help="where to; absent or empty")
    parser.add_argument("--images", type=cli.positive_int, default=600, help="photos in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other lesions (default: %(default)s)")
    parser.add_argument("--width", type=cli.positive_int, default=300, help="of a photo, pixels (default: %(default)s)")
    parser.add_argument("--height", type=cli.positive_int, default=225, help="likewise (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also draw a contact sheet, a .jpg or .png")
    return parser


def _main(args: argparse.Namespace) -> int:
    if args.sheet:
        from core.sheet import check_sheet

        check_sheet(args.sheet)
    folder = write_demo(args.folder, images=args.images, seed=args.seed, width=args.width, height=args.height)
    cli.write(f"{args.images} demo images (procedural, not of people) in {folder}")
    if args.sheet:
        from core.demo_sheet import write_demo_sheet

        cli.write(f"contact sheet in {write_demo_sheet(folder, args.sheet)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    return cli.run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
