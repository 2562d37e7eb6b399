"""A function of tensors on a card, launched as one CUDA graph instead of kernel by kernel.

A step of a MobileNet is some 600 small kernels. They take an H100 4 ms, and Python and PyTorch 20 ms to launch
(docs/decisions/0022).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    pool = torch.cuda.graph_pool_handle()
    with torch.cuda.device(inputs[0].device), _undone_if_it_fails(pool):
        # PyTorch's own stream of recordings is of the card that was recorded on first.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Threads of FFCV, which copy batches to the card meanwhile, are not part of it.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            outputs = function(*held)

    def launch(*tensors: Tensor) -> Tensors:
        torch._foreach_copy_(held, tensors)
        graph.replay()
        return tuple(output.clone() for output in outputs)

    return launch


@contextmanager
def _undone_if_it_fails(pool: tuple[int, int]) -> Iterator[None]:
    """Puts right what PyTorch leaves behind where a recording is invalid: it stops before it has cleaned up.

    All later work would go to the stream of recordings; the allocator would refuse to free what it has in store; and,
    with 2.11, every later draw would fail with "Offset increment outside graph capture". The generator is then given a
    new state, which recordings that were made before don't know: they must not be launched any more.

    Args:
        pool: Of the memory that the recording takes.
    """
    device, stream = torch.cuda.current_device(), torch.cuda.current_stream()
    generator = torch.cuda.default_generators[device]
    state = generator.clone_state()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # where it did clean up, nothing is taken from the pool any more
            torch._C._cuda_endAllocateToPool(device, pool)
        if not _can_draw(generator):
            generator.graphsafe_set_state(state)
        raise


def _can_draw(generator: torch.Generator) -> bool:
    """Whether a generator gives numbers; it stays where it is."""
    offset = generator.get_offset()
    try:
        torch.rand(1, device=generator.device, generator=generator)
    except RuntimeError:
        return False
    generator.set_offset(offset)
    return True


class Recorded:
    """A function that is recorded at its second call with tensors of the same kind.

    The first call computes as ever, and by that loads the kernels and allocates the memory that a recording needs.
    Where one kind can't be recorded all are computed as ever: slower, but not stopped.

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
            self._recorder, self._known = None, {}  # nor others: see `_undone_if_it_fails`
            return self._function
        self.recordings += 1
        return recording
