"""Writes an ensemble as one ONNX file, for phones and wherever PyTorch is too much.

python -m ensemble.export studies/ensemble --format onnx
python -m ensemble.predict studies/ensemble/ensemble.onnx photos/ --out predictions.csv
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.dataspec import add_places_argument
from core.errors import InputError

if TYPE_CHECKING:
    from ensemble.calibrating import Images
    from ensemble.export_card import ExportCard
    from ensemble.graph import EnsembleGraph
    from ensemble.spec import EnsembleSpec

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SUFFIX = ".onnx"
_CALIBRATION_IMAGES = 256


def export(args: argparse.Namespace, command: str) -> int:
    """Writes the file and its card.

    Args:
        args: What `_parser` parses.
        command: The command line, for the record.
    """
    from ensemble.onnx_session import require
    from ensemble.spec import EnsembleSpec

    require(_PACKAGES, what=f"`--format {args.format}`")
    spec = EnsembleSpec.read(args.ensemble)
    out = args.out or args.ensemble / ("ensemble-int8.onnx" if args.int8 else "ensemble.onnx")
    _check_arguments(args, out)
    from ensemble.calibrating import find_images
    from ensemble.describing_export import describe_export
    from ensemble.onnx_file import add_card, check_onnx, write_onnx

    parts = []
    if args.int8:
        studies = args.studies or args.ensemble.resolve().parent
        parts = [find_images(spec, studies, args.data, name) for name in ("train", "val")]
    graph = _load_graph(spec, args.ensemble)
    with tempfile.TemporaryDirectory(prefix="dermatune-export-") as folder:
        plain, model = Path(folder) / "plain.onnx", Path(folder) / "carded.onnx"
        write_onnx(graph, plain)
        difference = check_onnx(graph, plain)
        cli.write(f"probabilities are PyTorch's to {difference:.1g}, on noise")
        card = describe_export(spec, command=command)
        add_card(plain, card, model)
        if args.int8:
            card = _quantise(graph, model, parts, args.calibration_images or _CALIBRATION_IMAGES, command)
        _put_in_place(model, card, out)
    _conclude(out, card)
    return 0


def _load_graph(spec: EnsembleSpec, folder: Path) -> EnsembleGraph:
    from ensemble.graph import EnsembleGraph
    from ensemble.inference import assemble

    members = assemble(spec, [[folder / name for name in member.files] for member in spec.members], device="cpu")
    return EnsembleGraph(spec, [member.models_ for member in members.estimators_]).eval()


def _quantise(graph: EnsembleGraph, model: Path, parts: list[Images], count: int, command: str) -> ExportCard:
    """Puts the integer twin in a file's place, tells what it costs, and gives its card."""
    from ensemble.calibrating import decode_for, draw_balanced, judge_loss
    from ensemble.describing_export import describe_export
    from ensemble.exported import ExportedEnsemble
    from ensemble.onnx_file import add_card
    from ensemble.quantising import quantise

    (train, val), spec, quantised = parts, graph.spec, model.with_name("int8.onnx")
    files = [train.files[place] for place in draw_balanced(train.labels, count).tolist()]
    how = quantise(model, quantised, decode_for(graph.frames, files))
    layers = f"the first {how.float_layers} layers stay in float32" if how.float_layers else "in all layers"
    cli.write(
        f"int8: {layers}, calibrated on {how.images:,} training images; {how.agreement:.1%} of these decided alike"
    )
    add_card(quantised, describe_export(spec, command=command, int8={}), quantised)
    told = [ExportedEnsemble(path).predict_proba(val.files) for path in (model, quantised)]
    loss = judge_loss(val, told[0], told[1], spec.classes, spec.operating_points)
    for sentence in loss.told():
        cli.write(sentence)
    if any(len(member.files) > 1 for member in spec.members):
        cli.write("the networks have learned from validation images too: there int8 may lose less than on new ones")
    card = describe_export(spec, command=command, int8={**how._asdict(), "validation": loss.to_dict()})
    add_card(quantised, card, model)
    return card


def _put_in_place(model: Path, card: ExportCard, out: Path) -> None:
    from core.files import write_json, written_aside

    content = model.read_bytes()
    with written_aside(out) as aside:
        aside.write_bytes(content)
    about = {"file": out.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(_card_file(out), about | card.to_dict())


def _card_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _conclude(out: Path, card: ExportCard) -> None:
    takes = ", ".join(f"{one.name} (N, {one.size}, {one.size}, 3)" for one in card.inputs)
    cli.write(f"{out}: {out.stat().st_size / 1e6:.1f} MB, takes {takes} uint8; {_card_file(out).name} tells the rest")
    if card.demo:
        cli.write("DEMO: this ensemble learned from procedural images; its predictions mean nothing for real ones")
    cli.write(f"next: python -m ensemble.predict {shlex.quote(str(out))} IMAGES --out predictions.csv")


def _check_arguments(args: argparse.Namespace, out: Path) -> None:
    from core.files import check_place

    if out.suffix != _SUFFIX:
        raise InputError(f"`--out` must be a file that ends in {_SUFFIX}, but got --out {out}. Name such a one.")
    for file in (out, _card_file(out)):
        if file.is_dir():
            raise InputError(f"`--out` must be a file, but {file} is a folder. Name another one.")
    check_place(out)
    for name in ("data", "studies"):
        if getattr(args, name) and not args.int8:
            raise InputError(f"`--{name}` must be given with --int8 only, as nothing else reads images. Leave it out.")
    if args.calibration_images is not None and not args.int8:
        raise InputError("`--calibration-images` must be given with --int8 only. Leave it out.")


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m ensemble.export",
        description="Write an ensemble as one file: preprocessing, members, prior correction, vote, temperature.",
    )
    parser.add_argument("ensemble", type=Path, help="folder that ensemble.build wrote")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="of the file [onnx]")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="networks in 8-bit integers, calibrated on training images; what that costs on validation is printed",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to [ensemble.onnx or ensemble-int8.onnx in it]")
    parser.add_argument(
        "--calibration-images",
        type=cli.positive_int,
        metavar="N",
        help=f"training images that int8 is calibrated on, of each class as many [{_CALIBRATION_IMAGES}]",
    )
    parser.add_argument("--studies", type=Path, metavar="FOLDER", help="where its studies lie, for int8 [above it]")
    add_places_argument(
        parser,
        help="where the images are, if they have moved, for int8; as often and in the order as for the search",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    command = cli.command_line("ensemble.export", argv)
    return cli.run(lambda args: export(args, command), _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
