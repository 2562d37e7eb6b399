"""The part of a network that learns, as a function: compiled once for each depth where compiling pays."""

import importlib.util
import logging
import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from core.classifier import Classifier
from core.device import is_out_of_memory
from core.errors import one_line
from core.stochastic_depth import drops_paths

_OLDEST_FOR_TRITON = (7, 0)

_log = logging.getLogger(__name__)

# From what `core.prefix.Prefix.batches` gives (B, ...), and `core.classifier.Classifier.draw` (B, F), to logits (B, C).
Learner = Callable[[Tensor, Tensor], Tensor]
Compiler = Callable[[Learner], Learner]


def compiler_for(device: torch.device) -> Compiler | None:
    """`torch.compile` on CUDA, where launching the many small kernels of a MobileNet takes longer than they run.

    None elsewhere: on a CPU it would take a C++ compiler and half a minute a depth, and give other numbers than a
    machine without one. PyTorch's own TORCH_COMPILE_DISABLE=1 turns it off.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    if torch.cuda.get_device_capability(device) < _OLDEST_FOR_TRITON:
        return None
    # fullgraph, because a graph that breaks, or a ninth one, would return to the slow way without a word.
    return cast(Compiler, lambda learner: torch.compile(learner, fullgraph=True))


class Learners:
    """The learning parts of one model, by depth. What drops lies in buffers, so that one graph serves all its values.

    Args:
        model: The model.
        compiler: What makes a function faster; None leaves it as it is.
    """

    def __init__(self, model: Classifier, compiler: Compiler | None) -> None:
        self._model, self._compiler = model, compiler
        self._learners: dict[tuple[int, bool], Learner] = {}

    def at(self, image_size: int) -> Learner:
        """The learning part at the model's present depth.

        Args:
            image_size: Side of the images that the model sees, pixels.
        """
        # What leaves out branches is a graph of its own.
        key = (self._model.unfreeze_depth, drops_paths(self._model))
        if key not in self._learners:
            self._learners[key] = self._build(image_size)
        return self._learners[key]

    def _build(self, image_size: int) -> Learner:
        model, cut = self._model, self._model.cut(image_size)

        def whole(inputs: Tensor, drawn: Tensor) -> Tensor:
            return cast(Tensor, model(inputs, drawn))

        def second_half(inputs: Tensor, drawn: Tensor) -> Tensor:
            assert cut is not None, "only used where there is one"
            return model.classify(cut.learning(inputs), drawn)

        learner: Learner = whole if cut is None else second_half
        if self._compiler is None:
            return learner
        return _Compiled(learner, self._compiler, depth=model.unfreeze_depth)


class _Compiled:
    """A learner that is compiled at its first batch, and stays as it was where that fails: slower, but not stopped."""

    def __init__(self, learner: Learner, compiler: Compiler, *, depth: int) -> None:
        self._plain, self._depth = learner, depth
        self._learner = compiler(_with_own_code(learner))

    def __call__(self, inputs: Tensor, drawn: Tensor) -> Tensor:
        # One graph for all batch sizes, the smaller last batch and parts of batches included.
        for tensor in (inputs, drawn):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return self._learner(inputs, drawn)
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._learner is self._plain or is_out_of_memory(error):
                raise
            _log.warning("depth %d is trained without torch.compile: %s", self._depth, one_line(str(error))[:300])
            self._learner = self._plain
            return self._learner(inputs, drawn)


def _with_own_code(learner: Any) -> Learner:
    """The same function with a code object of its own: that is where Dynamo keeps its graphs, eight at most in each."""
    code = learner.__code__.replace()
    return types.FunctionType(code, learner.__globals__, learner.__name__, None, learner.__closure__)
