"""What a run takes of the machine's memory, told before it is taken.

A card says when it is full. A CPU's system promises more memory than there is, and ends the process that uses it.
"""

import copy
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from core.device import free_memory
from core.evaluation import EVAL_BATCH_SIZE
from core.framing import stored_size

_FLOAT = 4  # bytes
_IMAGES = 2  # that a survey shows the network: norms refuse one

_log = logging.getLogger(__name__)


def memory_in_reach() -> int:
    """Bytes that this process may use in all: those that are free, and those that it has already.

    What earlier runs gave back is kept for the next one (`core.device.keep_freed_memory`), and the system counts it as
    taken. Mapped files don't count: their pages are free for whoever needs them.
    """
    own: Any = psutil.Process().memory_info()
    return free_memory(torch.device("cpu")) + int(own.rss - getattr(own, "shared", 0))


@dataclass(frozen=True)
class Footprint:
    """What a network takes besides its weights, bytes.

    Attributes:
        training: Of each image of a batch that is trained on.
        evaluation: Of each image of a batch that is validated on.
        apart: Of what is frozen, where that is computed apart, whatever the batch.
    """

    training: int
    evaluation: int
    apart: int

    def of(self, batch_size: int, eval_batch_size: int = EVAL_BATCH_SIZE) -> int:
        """The most that is held at once, with batches of this size."""
        return max(batch_size * self.training, eval_batch_size * self.evaluation, self.apart)


class Layer(NamedTuple):
    """One call of a module that contains no other.

    Attributes:
        parameters: Names of its own.
        size: Bytes that it takes and gives for one image.
    """

    parameters: frozenset[str]
    size: int


class Kept(NamedTuple):
    """A piece of memory that the backward pass needs.

    Attributes:
        until: Place of the last layer that asks for it.
        size: Bytes for one image.
    """

    until: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a network does with an image, layer by layer: enough to tell its footprint at every depth.

    Attributes:
        image_size: Side of the image, pixels.
        layers: In the order in which they run.
        kept: Where everything learns.
    """

    image_size: int
    layers: tuple[Layer, ...]
    kept: tuple[Kept, ...]

    def footprint(self, learning: Collection[str], *, chunk: int | None) -> Footprint:
        """About how many bytes of images and activations the steps of training and validation hold at once.

        Args:
            learning: Names of the parameters that learn.
            chunk: Images that what is frozen sees at once; None where nothing is computed apart.
        """
        count = len(self.layers)
        first = next((n for n, layer in enumerate(self.layers) if not layer.parameters.isdisjoint(learning)), count)
        # From uint8 over float32 to the view.
        images = 3 * (stored_size(self.image_size) ** 2 * (1 + _FLOAT) + self.image_size**2 * _FLOAT)
        frozen, learned = (
            images + max((layer.size for layer in layers), default=0)
            for layers in (self.layers[:first], self.layers[first:])
        )
        kept = sum(size for until, size in self.kept if until >= first)
        if chunk is None:
            return Footprint(training=images + kept, evaluation=max(frozen, learned), apart=0)
        return Footprint(training=images + kept, evaluation=learned, apart=chunk * frozen)


def survey(backbone: nn.Module, *, image_size: int) -> Survey | None:
    """Walks through a network once. Nothing is computed: the shapes come from a copy of it without data.

    Args:
        backbone: Takes (B, 3, H, H).
        image_size: H, pixels.

    Returns:
        None for a network that runs with its data only.
    """
    try:
        shadow = copy.deepcopy(backbone).to("meta").train().requires_grad_()
        surveyor = _Surveyor(shadow)
        with saved_tensors_hooks(surveyor.keep, lambda tensor: tensor):
            shadow(torch.empty(_IMAGES, 3, image_size, image_size, device="meta"))
    # Whatever a model does with tensors that have no data; without an estimate it runs as it always did.
    except Exception as error:
        _log.info("the memory of %s can't be told beforehand: %s", type(backbone).__name__, error)
        return None
    return Survey(image_size=image_size, layers=tuple(surveyor.layers), kept=surveyor.kept())


class _Surveyor:
    """Notes what a network does with some images.

    Args:
        network: Hooks are put into it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers: list[Layer] = []
        self._saved: dict[int, tuple[int, torch.UntypedStorage]] = {}  # each piece of memory once
        self._own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
        for name, module in network.named_modules():
            if not any(module.children()):
                names = frozenset(f"{name}.{own}" for own, _ in module.named_parameters())
                module.register_forward_pre_hook(partial(self._begin, names))
                module.register_forward_hook(self._end)

    def _begin(self, parameters: frozenset[str], module: nn.Module, inputs: Any) -> None:
        self.layers.append(Layer(parameters, 0))

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        size = sum(each.nbytes for each in (*inputs, output) if torch.is_tensor(each))
        self.layers[-1] = self.layers[-1]._replace(size=size // _IMAGES)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Is told of every tensor that autograd keeps."""
        storage = tensor.untyped_storage()
        self._saved[storage._cdata] = (len(self.layers) - 1, storage)
        return tensor

    def kept(self) -> tuple[Kept, ...]:
        """What autograd keeps of one image; the network's own tensors are there anyway."""
        return tuple(
            Kept(until, storage.nbytes() // _IMAGES)
            for key, (until, storage) in self._saved.items()
            if key not in self._own
        )
