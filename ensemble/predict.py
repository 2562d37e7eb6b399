"""Classifies new images with an ensemble.

python -m ensemble.predict studies/ensemble photos/ --out predictions.csv

The ensemble is the folder that `ensemble.build` wrote, or the file that `ensemble.export` did, for which PyTorch need
not be installed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import InputError, in_full
from ensemble.arguments import add_format_arguments, check_list

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ensemble.export_card import ExportCard
    from ensemble.spec import EnsembleSpec


Classify = Callable[[Sequence[Path]], "npt.NDArray[np.float64]"]  # image files to probabilities (N, C)


def predict(args: argparse.Namespace) -> int:
    """Writes a row for each image: its path, the predicted class, each class's probability, and flags."""
    _check_out(args.out, args.format)
    check_list(args)
    files = find_images(args.images)
    from core.files import write_csv
    from ensemble.decision import choose
    from ensemble.isic import challenge_places, challenge_rows, read_list, take_listed
    from ensemble.predictions import told

    is_file = args.ensemble.suffix == ".onnx" and not args.ensemble.is_dir()
    spec, classify = (_open_file if is_file else _open_folder)(args.ensemble, args.device)
    if args.ensemble.resolve() in args.out.resolve().parents:
        raise InputError(f"`--out` must not be inside the ensemble's folder, but got --out {args.out}. Name another.")
    listed = read_list(args.list) if args.list else []
    if args.format == "isic":
        challenge_places(spec.classes)
        files = take_listed(files, listed)
    probs_NC = classify(files)
    chosen_N = choose(probs_NC)
    if args.format == "isic":
        rows = challenge_rows([file.stem for file in files], probs_NC, spec.classes, listed)
    else:
        rows = [
            {"image": str(file), "predicted": spec.classes[c], **told(spec, probs_C)}
            for file, c, probs_C in zip(files, chosen_N, probs_NC.tolist(), strict=True)
        ]
    write_csv(args.out, rows)
    counts = ", ".join(f"{(chosen_N == c).sum():,} {name}" for c, name in enumerate(spec.classes))
    cli.write(f"{args.out}: {len(files):,} images ({counts})")
    if spec.demo:
        cli.write("DEMO: this ensemble learned from procedural images; its predictions mean nothing for real ones")
    return 0


def _open_folder(folder: Path, device: str) -> tuple[EnsembleSpec, Classify]:
    """What `ensemble.build` wrote; the members are loaded once they are asked."""
    from ensemble.spec import EnsembleSpec

    spec = EnsembleSpec.read(folder)

    def classify(files: Sequence[Path]) -> npt.NDArray[np.float64]:
        from ensemble.inference import ImageSet, load_ensemble

        ensemble = load_ensemble(folder, device=device)
        with ImageSet.of_files(files) as images:
            images.open((member.arch.frame for member in spec.members), device)
            return ensemble.predict_proba(images)

    return spec, classify


def _open_file(file: Path, device: str) -> tuple[ExportCard, Classify]:
    """What `ensemble.export` wrote."""
    from ensemble.exported import ExportedEnsemble

    if device not in ("auto", "cpu"):
        raise InputError(f"`--device` must be auto or cpu for a file, but got --device={device}. Leave it out.")
    exported = ExportedEnsemble(file)
    return exported.card, exported.predict_proba


def find_images(places: Sequence[Path]) -> list[Path]:
    """Image files: those named, and those in the folders named, at any depth; each once, folders in sorted order.

    Raises:
        InputError: A place does not exist, a folder cannot be read, there is no image at all, or a path cannot be
            written into the result.
    """
    from core.images import SUFFIXES
    from core.listing import in_utf8, refuse_locked, walk_files

    if missing := [str(place) for place in places if not place.exists()]:
        raise InputError(f"Images must exist, but {in_full(missing)} does not. Check the path.")
    files: list[Path] = []
    locked: list[OSError] = []
    for place in places:
        if place.is_dir():
            files += sorted(place / file for file in walk_files(place, locked) if Path(file).suffix.lower() in SUFFIXES)
        else:
            files.append(place)
    refuse_locked(locked, where="of images")
    if not files:
        where = ", ".join(str(place) for place in places)
        raise InputError(f"`images` must hold at least one of {', '.join(sorted(SUFFIXES))}, but {where} holds none.")
    if unwritable := [name for file in files if (name := in_utf8(str(file))) != str(file)]:
        raise InputError(
            f"The paths of images must be UTF-8, as the result is, but {len(unwritable):,} are not: "
            f"{in_full(unwritable)}. Rename them."
        )
    return list(dict.fromkeys(files))


def _check_out(out: Path, form: str) -> None:
    """Finds out before the work that its result can be written, and replaces nothing but an earlier one."""
    from core.files import check_place

    if out.is_dir():
        raise InputError(f"`--out` must be a file, but got --out {out}, a folder. Name a file in it.")
    check_place(out)
    if out.exists() and not _holds_predictions(out, form):
        raise InputError(
            f"`--out` must be a new file or one of earlier predictions, but {out} is something else. Name another one."
        )


def _holds_predictions(file: Path, form: str) -> bool:
    """Whether a file begins as this command writes it; a challenge's table of truths has whole numbers alone."""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as opened:
            header, *rows = [*islice(csv.reader(opened), 50)] or [[]]
    except csv.Error:  # such as a field longer than ours ever are
        return False
    if form == "csv":
        return header[:2] == ["image", "predicted"]
    numbers = {value for row in rows for value in row[1:]}
    return header[:1] == ["image"] and not numbers <= {"0", "1", "0.0", "1.0", ""}


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m ensemble.predict",
        description="Classify images with an ensemble: class, probabilities, and flags where it has operating points.",
    )
    parser.add_argument("ensemble", type=Path, help="folder that ensemble.build wrote, or file of ensemble.export")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders that hold some at any depth")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV file to write")
    add_format_arguments(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(predict, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
