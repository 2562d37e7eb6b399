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
from collections.abc import Iterator
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
    """Exports, times and judges."""
    from ensemble.calibrating import find_images
    from ensemble.export import main as export
    from ensemble.exported import ExportedEnsemble
    from ensemble.spec import EnsembleSpec

    spec, studies = EnsembleSpec.read(args.ensemble), args.studies or args.ensemble.resolve().parent
    val = find_images(spec, studies, args.data, "val")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dermatune-export-") as folder:
        for name, part in parts(spec):
            alone = Path(folder) / "ensemble"
            alone.mkdir(exist_ok=True)
            if not (alone / "members").exists():
                (alone / "members").symlink_to((args.ensemble / "members").resolve())
            part.write(alone)
            for precision in ("float32", "int8"):
                out = Path(folder) / f"{len(rows)}.onnx"
                where = ["--int8", "--studies", str(studies), *(f"--data={place}" for place in args.data)]
                if export([str(alone), "--out", str(out), *(where if precision == "int8" else [])]):
                    return 1
                figures = measure(ExportedEnsemble(out, threads=1), val, args.images, args.repeats)
                row = {"what": name, "precision": precision, "megabytes": out.stat().st_size / 1e6, **figures}
                rows.append(row)
                size, took = f"{row['megabytes']:6.1f} MB", f"{show(row['ms_per_image'])} ms an image"
                recall = f"recall {row['macro_recall']:.1%} of {row['images']:,}"
                write(f"{name:<24} {precision:<8} {size}  {took}  {recall}")
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


def measure(exported: "ExportedEnsemble", val: "Images", timed: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of an image and recall on validation."""
    from ensemble.calibrating import decode_for
    from ensemble.crossfit import Truth
    from ensemble.decision import choose

    pixels = decode_for([one.size for one in exported.card.inputs], val.files[:timed])
    count = min(timed, len(val.files))
    taken = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        for place in range(count if turn else min(_WARM_UP, count)):
            exported.run({name: array[place : place + 1] for name, array in pixels.items()})
        if turn:
            taken.append(1000 * (time.perf_counter() - start) / count)
    probs_NC = exported.predict_proba(val.files)
    truth = Truth.of(val.labels, val.groups, len(exported.card.classes))
    hits_N = choose(probs_NC) == val.labels
    low, high = truth.interval(hits_N)
    return {
        "ms_per_image": spread(taken),
        "timed_images": count,
        "images": len(val.files),
        "macro_recall": float(truth.recalls(hits_N[None])[0]),
        "macro_recall_interval": [low, high],
        "int8": exported.card.provenance["int8"],
    }


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
