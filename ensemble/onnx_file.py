"""Writes a whole ensemble as one ONNX file with its card inside, and checks that it gives what PyTorch does.

Shapes: N images, S stored side, C classes.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from core.errors import InputError
from ensemble.export_card import KEY, OUTPUT, ExportCard, Input
from ensemble.graph import EnsembleGraph
from ensemble.onnx_session import open_session

TOLERANCE = 1e-4  # of a probability, between PyTorch and the file
_CHECKED = 8  # images of noise that both are shown
_LARGEST_BYTES = 2**31 - 2**24  # of one file: protobuf counts in 32 bits; the rest is for the graph


def write_onnx(graph: EnsembleGraph, out: Path) -> None:
    """Writes a graph, without a card yet.

    Args:
        graph: In evaluation mode, on the CPU.
        out: The file.

    Raises:
        InputError: Its weights are too large for one file, or it has operations that ONNX hasn't.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if size > _LARGEST_BYTES:
        raise InputError(
            f"An ensemble must be below 2 GB to fit into one ONNX file, but its weights take {size / 2**30:.1f} GB. "
            "Build one of fewer or smaller members."
        )
    inputs = [Input.of(frame) for frame in graph.frames]
    any_number = torch.export.Dim("N")
    with _quietly():
        try:
            program = torch.onnx.export(
                graph,
                tuple(torch.zeros(2, one.size, one.size, 3, dtype=torch.uint8) for one in inputs),
                dynamo=True,
                dynamic_shapes=(tuple({0: any_number} for _ in inputs),),
                input_names=[one.name for one in inputs],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            archs = ", ".join(sorted({member.arch.timm_name for member in graph.spec.members}))
            raise InputError(
                f"The members must be networks that PyTorch can write as ONNX, but {archs} are not "
                f"({type(error).__name__}). Build the ensemble of other architectures with --archs."
            ) from error
    assert program is not None, "the exporter gives a program unless it is told where to write"
    model = program.model_proto
    _forget_origin(model)
    onnx.save(model, out)


def add_card(model: Path, card: ExportCard, out: Path) -> None:
    """Copies a file and puts a card into the copy."""
    proto = onnx.load(model)
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(card.to_dict(), allow_nan=False)
    onnx.save(proto, out)


def check_onnx(graph: EnsembleGraph, model: Path) -> float:
    """The largest difference of a probability between a graph and its file, on images of noise.

    Raises:
        InputError: It is above the tolerance.
    """
    rng = np.random.default_rng(0)
    # Of few grey levels around a colour of its own each, or all noise would look alike to a network.
    pixels = []
    for size in (frame.size for frame in graph.frames):
        colours = rng.integers(0, 200, (_CHECKED, 1, 1, 3))
        pixels.append((colours + rng.integers(0, 56, (_CHECKED, size, size, 3))).astype(np.uint8))
    with torch.inference_mode():
        expected_NC = graph(*map(torch.from_numpy, pixels)).numpy()
    feeds = {Input.of(frame).name: array for frame, array in zip(graph.frames, pixels, strict=True)}
    difference = float(np.abs(open_session(model).run(None, feeds)[0] - expected_NC).max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"The exported file must give PyTorch's probabilities to {TOLERANCE:g}, but differs by {difference:.2g}. "
            "Update onnx, onnxscript and onnxruntime, or build the ensemble of other architectures with --archs."
        )
    return difference


def _forget_origin(model: onnx.ModelProto) -> None:
    """Takes out what the exporter notes of each operation: lines of code, with the paths of this machine."""
    graph = model.graph
    named: list[Any] = [graph.node, graph.input, graph.output, graph.value_info, graph.initializer]
    for part in chain([model, graph], *named):
        del part.metadata_props[:]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings of its own workings, which nobody here can mend."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
