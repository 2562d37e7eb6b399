"""What an exported ensemble weighs, takes and finds: python -m benchmarks.export ENSEMBLE.

Exports the ensemble, and its first member of each architecture alone, in float32 and in int8, and gives for each the
size of the file, the milliseconds that one image takes on one core (decoded before, one at a time, as on a phone), and
the macro recall on validation; the test split stays sealed. The rule was fitted to validation, so that only differences
tell. The ratio is the ensemble's milliseconds in int8 over those in float32.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.reporting import add_out_argument, finish, show, spread
from core.cli import Parser, positive_int, run, write

if TYPE_CHECKING:
    from ensemble.calibrating import Images
    from ensemble.exported import ExportedEnsemble
    from ensemble.spec import EnsembleSpec

_WARM_UP = 5  # images


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("ensemble", type=Path, help="folder that ensemble.build wrote")
    parser.add_argument("--studies", type=Path, help="where its studies lie (default: above it)")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="where the images are, if they have moved"
    )
    parser.add_argument("--images", type=positive_int, default=100, help="images that are timed (default: 100)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="times that each is timed (default: 5)")
    add_out_argument(parser, "export")
    return parser


def main(args: argparse.Namespace) -> int:
    """Exports, then times all files turn by turn, and judges them."""
    from ensemble.calibrating import find_images
    from ensemble.export import main as export
    from ensemble.exported import ExportedEnsemble
    from ensemble.spec import EnsembleSpec

    spec, studies = EnsembleSpec.read(args.ensemble), args.studies or args.ensemble.resolve().parent
    val = find_images(spec, studies, args.data, "val")
    files: list[ExportedEnsemble] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dermatune-export-") as folder:
        alone = Path(folder) / "ensemble"
        alone.mkdir()
        (alone / "members").symlink_to((args.ensemble / "members").resolve())
        for name, part in parts(spec):
            part.write(alone)
            for precision in ("float32", "int8"):
                out = Path(folder) / f"{len(rows)}.onnx"
                where = ["--int8", "--studies", str(studies), *(f"--data={place}" for place in args.data)]
                if export([str(alone), "--out", str(out), *(where if precision == "int8" else [])]):
                    return 1
                files.append(ExportedEnsemble(out, threads=1))
                rows.append({"what": name, "precision": precision, "megabytes": out.stat().st_size / 1e6})
    timed = val.files[: args.images]
    for row, taken, file in zip(rows, time_in_turns(files, timed, args.repeats), files, strict=True):
        row |= {"ms_per_image": spread(taken), "timed_images": len(timed), **judge(file, val)}
        size, took = f"{row['megabytes']:6.1f} MB", f"{show(row['ms_per_image'])} ms an image"
        recall = f"recall {row['macro_recall']:.1%} of {row['images']:,}"
        write(f"{row['what']:<24} {row['precision']:<8} {size}  {took}  {recall}")
    ratio = rows[-1]["ms_per_image"]["median"] / rows[-2]["ms_per_image"]["median"]
    finish(args.out, rows=rows, ratio=ratio, about="milliseconds of the ensemble in int8 over float32, on one core")
    return 0


def parts(spec: "EnsembleSpec") -> Iterator[tuple[str, "EnsembleSpec"]]:
    """The first member of each architecture alone, and the ensemble last."""
    seen = set()
    for member in spec.members:
        if member.arch.timm_name not in seen and len(spec.members) > 1:
            seen.add(member.arch.timm_name)
            yield member.arch.timm_name, dataclasses.replace(spec, members=(member,))
    yield f"ensemble of {len(spec.members)}", spec


def time_in_turns(files: "Sequence[ExportedEnsemble]", images: Sequence[Path], repeats: int) -> list[list[float]]:
    """Milliseconds of an image by each file, once a turn; a busy neighbour then slows all of them alike."""
    from ensemble.calibrating import decode_for

    frames = sorted({one.frame for file in files for one in file.card.inputs})
    pixels, taken = decode_for(frames, images), [list[float]() for _ in files]
    for turn in range(repeats + 1):
        for file, times in zip(files, taken, strict=True):
            places = range(len(images) if turn else min(_WARM_UP, len(images)))
            start = time.perf_counter()
            for place in places:
                file.run({one.name: pixels[one.name][place : place + 1] for one in file.card.inputs})
            if turn:
                times.append(1000 * (time.perf_counter() - start) / len(places))
    return taken


def judge(file: "ExportedEnsemble", val: "Images") -> dict[str, Any]:
    """Macro recall on validation, and what the card says of int8."""
    from ensemble.crossfit import Truth
    from ensemble.decision import choose

    truth = Truth.of(val.labels, val.groups, len(file.card.classes))
    hits_N = choose(file.predict_proba(val.files)) == val.labels
    return {
        "images": len(val.files),
        "macro_recall": float(truth.recalls(hits_N[None])[0]),
        "macro_recall_interval": list(truth.interval(hits_N)),
        "int8": file.card.provenance["int8"],
    }


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
