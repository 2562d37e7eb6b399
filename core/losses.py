"""What training minimises."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_weights(counts_C: npt.NDArray[np.int64], rebalance: float) -> npt.NDArray[np.float64]:
    """Weights (C,) proportional to count^-rebalance whose mean over the examples is 1.

    The mean of 1 keeps the size of the gradient, so that learning rates mean the same at every strength.

    Args:
        counts_C: Training images of each class (C,), each at least 1.
        rebalance: 0 treats all images alike, 1 all classes.
    """
    weights_C = np.asarray(counts_C, np.float64) ** -rebalance
    weights_C *= counts_C.sum() / (weights_C * counts_C).sum()
    return weights_C


def cross_entropy(weights_C: torch.Tensor, label_smoothing: float) -> Criterion:
    """Cross entropy with label smoothing, weighted by class; the mean over the batch, in nats.

    PyTorch's own class weights are not used, for two reasons. They weigh each smoothed share by the class it goes
    to, so that smoothing would favour the rare classes: with both at work, an image that is certainly a naevus could
    be best called something rare. And their mean divides by the batch's sum of weights, which makes the weight of a
    rare lesion depend on who else is in its batch. Here a weight scales an example's loss, whatever its target.
    """

    def criterion(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        losses_B = F.cross_entropy(logits_BC, labels_B, label_smoothing=label_smoothing, reduction="none")
        return (weights_C[labels_B] * losses_B).mean()

    return criterion
