"""An exported ensemble in 8-bit integers: static quantisation of its networks, calibrated on training images.

What comes before the networks (scaling, normalisation) and after them (softmax, prior, vote, temperature) stays in
floating point: it takes next to no time, and probabilities of 256 steps would tie (docs/decisions/0023).

Shapes: N images, C classes, S stored side.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from core.errors import InputError
from ensemble.decision import choose
from ensemble.onnx_session import open_session

Pixels = Mapping[str, npt.NDArray[np.uint8]]  # (N, S, S, 3) by the name of the input

BATCH = 16  # images at a time: of each, calibrating looks at every activation
# Operations with weights, and those with integer forms that stand between them.
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Sigmoid")
# Layers that may stay in floating point, counted from the image. The first have few channels of very different ranges:
# of a MobileNet on HAM10000 integers in all layers changed 11 % of the decisions, in all but the first eight 2 %.
_FLOAT_LAYERS = (0, 4, 8, 12)
_ENOUGH = 0.99  # share of the decisions on calibration images that must stay


class Quantised(NamedTuple):
    """How a file was quantised."""

    images: int  # that it was calibrated on
    float_layers: int  # the first ones, which stayed in floating point
    agreement: float  # share of the decisions on these images that are those in floating point


def quantise(model: Path, out: Path, pixels: Pixels) -> Quantised:
    """Writes the integer twin of an exported ensemble.

    Weights have one scale for each output channel, activations one for each tensor, from the lowest and highest value
    seen; int8, as quantise and dequantise operations (QDQ) that a runtime fuses with what they wrap. As few of the
    first layers stay in floating point as let 99 % of the decisions on the calibration images stay; where no number of
    them does, that which lets most stay.

    Args:
        model: The file in floating point.
        out: The file to write; another one of the same name ending in ``.ranges`` is left beside it.
        pixels: Images to calibrate on.

    Raises:
        InputError: Nothing in it can be quantised.
    """
    depths = layer_depths(onnx.load(model))
    if not depths:
        raise InputError(
            "`--int8` must be asked of networks with convolutions or linear layers, but got some that ONNX writes "
            "otherwise. Leave it out."
        )
    wanted_N, best = choose(_run(model, pixels)), None
    for float_layers in _FLOAT_LAYERS:
        nodes = [name for name, depth in depths.items() if depth > float_layers]
        if not nodes:
            break
        tried = out.with_name(f"{out.name}.{float_layers}")
        _quantise_nodes(model, tried, nodes, pixels, ranges=out.with_name(f"{out.name}.ranges"))
        agreement = float((choose(_run(tried, pixels)) == wanted_N).mean())
        if best is None or agreement > best.agreement:
            best = Quantised(images=len(wanted_N), float_layers=float_layers, agreement=agreement)
            tried.replace(out)
        if agreement >= _ENOUGH:
            break
    assert best is not None, "some layer is deeper than 0"
    return best


def layer_depths(model: onnx.ModelProto) -> dict[str, int]:
    """How deep in its network each operation is that can be quantised: layers with weights up to it, itself included.

    Those are the layers themselves and what stands between two of them: nothing before the first or after the last.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = list(model.graph.node)  # each after those that it reads from
    is_layer = [node.op_type in _WEIGHTED and not constants.isdisjoint(node.input) for node in nodes]
    depth_of: dict[str, int] = {}  # by tensor
    for node, layer in zip(nodes, is_layer, strict=True):
        depth = max((depth_of.get(name, 0) for name in node.input), default=0) + layer
        depth_of.update(dict.fromkeys(node.output, depth))
    read_later: set[str] = set()  # tensors that lead to a layer
    found = []
    for node, layer in zip(reversed(nodes), reversed(is_layer), strict=True):
        leads = not read_later.isdisjoint(node.output)
        if layer or (leads and depth_of[node.output[0]]):
            found.append(node)
        if layer or leads:
            read_later.update(node.input)
    return {node.name: depth_of[node.output[0]] for node in reversed(found)}


def _quantise_nodes(model: Path, out: Path, nodes: Sequence[str], pixels: Pixels, *, ranges: Path) -> None:
    with _quietly():
        quantize_static(
            model,
            out,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_WEIGHTED, *_BETWEEN],
            nodes_to_quantize=list(nodes),
            per_channel=True,
            # Weights of 7 bits: products of 8 overflow on processors without VNNI, whose results would be others.
            reduce_range=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            calibration_cache_path=ranges,
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
    """Hands out pixels batch by batch."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = _split(pixels)

    def get_next(self) -> Pixels | None:
        return next(self._batches, None)


def _split(pixels: Pixels) -> Iterator[Pixels]:
    count = len(next(iter(pixels.values())))
    for start in range(0, count, BATCH):
        yield {name: array[start : start + BATCH] for name, array in pixels.items()}


def _run(model: Path, pixels: Pixels) -> npt.NDArray[np.float32]:
    session = open_session(model)
    return np.concatenate([session.run(None, dict(batch))[0] for batch in _split(pixels)])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without advice to preprocess what has been optimised already, which goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
