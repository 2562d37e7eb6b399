"""What a run takes of the machine's memory, told before it is taken.

A card says when it is full. A CPU's system promises more memory than there is, and ends the process that uses it.
"""

import copy
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from core.evaluation import EVAL_BATCH_SIZE
from core.images import stored_size

_FLOAT = 4  # bytes

_log = logging.getLogger(__name__)


def memory_in_reach() -> int:
    """Bytes that this process may use in all: those that are free, and those that it has already.

    What earlier runs gave back is kept for the next one (`core.device.keep_freed_memory`), and the system counts it as
    taken. Mapped files don't count: their pages are free for whoever needs them. A container's or a job's limit counts
    where the system tells of one.
    """
    own: Any = psutil.Process().memory_info()
    held = own.rss - getattr(own, "shared", 0)
    return int(min(psutil.virtual_memory().available, _left_in_group()) + held)


def _left_in_group() -> float:
    """Bytes that the control group of this process may still take; infinite without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        return math.inf if limit == "max" else int(limit) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # another kind of system, or no limit
        return math.inf


@dataclass(frozen=True)
class Footprint:
    """What a network takes besides its weights, bytes.

    Attributes:
        training: Of each image of a batch that is trained on.
        apart: Of whatever else is computed at once, whatever the batch.
    """

    training: int
    apart: int

    def of(self, batch_size: int) -> int:
        """The most that is held at once, with batches of this size."""
        return max(batch_size * self.training, self.apart)


def foresee(backbone: nn.Module, *, image_size: int, chunk: int | None) -> Footprint | None:
    """About how many bytes of images and activations the steps of training and validation hold at once.

    Nothing is computed: the shapes come from a copy of the network without data.

    Args:
        backbone: Takes (B, 3, H, H); what learns in it requires gradients.
        image_size: H, pixels.
        chunk: Images that what is frozen sees at once; None where nothing is computed apart.

    Returns:
        None for a network that runs with its data only.
    """
    seen = _Seen()
    try:
        shadow = copy.deepcopy(backbone).to("meta").train()
        for module in shadow.modules():
            if not any(module.children()):
                module.register_forward_hook(seen)
        own = {tensor.untyped_storage()._cdata for tensor in (*shadow.parameters(), *shadow.buffers())}
        with saved_tensors_hooks(seen.keep, lambda tensor: tensor):
            shadow(torch.empty(2, 3, image_size, image_size, device="meta"))  # of two, as norms refuse one
    # Whatever a model does with tensors that have no data; without an estimate it runs as it always did.
    except Exception as error:
        _log.info("the memory of %s can't be told beforehand: %s", type(backbone).__name__, error)
        return None
    images = 3 * (stored_size(image_size) ** 2 * (1 + _FLOAT) + image_size**2 * _FLOAT)  # uint8, float32, and the view
    kept = sum(storage.nbytes() for key, storage in seen.kept.items() if key not in own)
    frozen = (chunk or EVAL_BATCH_SIZE) * (images + seen.largest_frozen // 2)
    validating = EVAL_BATCH_SIZE * (images + seen.largest_learning // 2)
    return Footprint(training=images + kept // 2, apart=max(frozen, validating))


class _Seen:
    """What a network does with two images.

    Attributes:
        kept: What is kept for the backward pass, each piece of memory once.
        largest_frozen: Most that a layer takes and gives where nothing learns, bytes.
        largest_learning: Likewise elsewhere.
    """

    def __init__(self) -> None:
        self.kept: dict[int, torch.UntypedStorage] = {}
        self.largest_frozen = self.largest_learning = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Is told of every tensor that autograd keeps."""
        storage = tensor.untyped_storage()
        self.kept[storage._cdata] = storage
        return tensor

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [each for each in (*inputs, output) if torch.is_tensor(each)]
        size = sum(each.numel() * _FLOAT for each in tensors)
        if any(each.requires_grad for each in tensors):
            self.largest_learning = max(self.largest_learning, size)
        else:
            self.largest_frozen = max(self.largest_frozen, size)
