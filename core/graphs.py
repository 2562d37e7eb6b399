"""A function of tensors on a card, launched as one CUDA graph instead of kernel by kernel.

A step of a MobileNet is some 600 small kernels. They take an H100 4 ms, and Python and PyTorch 20 ms to launch
(docs/decisions/0022).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from core.device import compute_dtype, is_out_of_memory
from core.errors import one_line

_log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
_Signature = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]


class Recorder(Protocol):
    """Makes of a function one that does the same for tensors of the same shapes, strides and types."""

    def __call__(self, function: Function, inputs: Tensors) -> Function:
        """Records the function without computing anything; `inputs` show what it will be called with."""


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on a device; None where steps are launched kernel by kernel.

    On cards without bf16 a step looks at its gradients before it moves the weights, and no graph can look.
    """
    return record if device.type == "cuda" and compute_dtype(device) != torch.float16 else None


def record(function: Function, inputs: Tensors) -> Function:
    """Records a function as a CUDA graph.

    Whatever it uses besides its inputs must lie where it lies now whenever the graph is launched. What it draws from
    the card's generator is drawn anew at each launch, from the generator's state at that time.

    Args:
        function: Called once with inputs of the same kind before, so that kernels are loaded and memory is there.
        inputs: On the card.

    Returns:
        A function whose results are its own until it is called again: they are copies.
    """
    held = tuple(torch.empty_like(tensor) for tensor in inputs)
    graph = torch.cuda.CUDAGraph()
    # Threads of FFCV, which copy batches to the card meanwhile, are not part of it.
    with _undone_if_it_fails(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(*held)

    def launch(*tensors: Tensor) -> Tensors:
        torch._foreach_copy_(held, tensors)
        graph.replay()
        return tuple(output.clone() for output in outputs)

    return launch


@contextmanager
def _undone_if_it_fails() -> Iterator[None]:
    """Leaves the card's generator and stream as they were where a recording fails.

    PyTorch stops short of that: every later draw would fail with "Offset increment outside graph capture" (seen with
    2.11), and all later work would go to the stream of recordings.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state, stream = generator.clone_state(), torch.cuda.current_stream()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        raise


class Recorded:
    """A function that is recorded at its second call with tensors of the same kind.

    The first call computes as ever, and by that loads the kernels and allocates the memory that a recording needs. What
    can't be recorded is computed as ever too: slower, but not stopped.

    Args:
        function: From tensors to tensors; it may change what it uses besides them, in place.
        recorder: Records it; None never does.

    Attributes:
        recordings: How many there are; one for each kind of tensors.
    """

    def __init__(self, function: Function, recorder: Recorder | None) -> None:
        self._function, self._recorder = function, recorder
        self._known: dict[_Signature, Function | None] = {}
        self.recordings = 0

    def __call__(self, *inputs: Tensor) -> Tensors:
        """What the function gives."""
        if self._recorder is None:
            return self._function(*inputs)
        signature = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs)
        if signature not in self._known:
            self._known[signature] = None
            return self._function(*inputs)
        if (known := self._known[signature]) is None:
            known = self._known[signature] = self._record(self._recorder, inputs)
        return known(*inputs)

    def _record(self, recorder: Recorder, inputs: Tensors) -> Function:
        try:
            recording = recorder(self._function, inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _log.warning("steps are launched kernel by kernel, which is slower: %s", one_line(str(error))[:300])
            return self._function
        self.recordings += 1
        return recording
