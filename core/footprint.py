"""What a run takes of the machine's memory, told before it is taken.

A card says when it is full. A CPU's system promises more memory than there is, and ends the process that uses it.
"""

import copy
from typing import Any

import psutil
import torch
from torch import nn

from core.evaluation import EVAL_BATCH_SIZE
from core.images import stored_size

_FLOAT = 4  # bytes


def memory_in_reach() -> int:
    """Bytes that this process may use in all: those that are free, and those that it has already.

    What earlier runs gave back is kept for the next one (`core.device.keep_freed_memory`), and the system counts it as
    taken. Mapped files don't count: their pages are free for whoever needs them.
    """
    own: Any = psutil.Process().memory_info()
    return int(psutil.virtual_memory().available + own.rss - getattr(own, "shared", 0))


def run_bytes(backbone: nn.Module, *, image_size: int, batch_size: int) -> int:
    """Bytes of the images and activations that a step of training or validation holds at once, at least.

    Nothing is computed: the shapes come from a copy of the network without data.

    Args:
        backbone: Takes (B, 3, H, H); what learns in it requires gradients.
        image_size: H, pixels.
        batch_size: Images a step of training.
    """
    shadow = copy.deepcopy(backbone).to("meta").train()
    kept, largest = 0, 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal kept, largest
        if isinstance(output, torch.Tensor):
            size = output.numel() * _FLOAT
            largest = max(largest, size + sum(each.numel() * _FLOAT for each in inputs if torch.is_tensor(each)))
            kept += size if output.requires_grad else 0

    for module in shadow.modules():
        if not any(module.children()):
            module.register_forward_hook(count)
    shadow(torch.empty(2, 3, image_size, image_size, device="meta"))  # of two, as norms refuse one
    images = 3 * (stored_size(image_size) ** 2 * (1 + _FLOAT) + image_size**2 * _FLOAT)  # uint8, float32, and the view
    return max(batch_size * (images + kept // 2), EVAL_BATCH_SIZE * (images + largest // 2))
