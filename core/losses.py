"""What training minimises, and what its weights and terms do to the class frequencies that a model learns.

Shapes: N examples, B batch, C classes.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from core.config import TrainConfig

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_criterion(config: TrainConfig, counts_C: npt.NDArray[np.int64], device: torch.device) -> Criterion:
    """The loss that a config asks for: in nats, and a mean over the images of a batch whatever the mechanism.

    Args:
        config: Its `loss`, and at what strength.
        counts_C: Training images of each class (C,).
        device: Where logits and labels are.
    """
    match config.loss:
        case "weighted":
            weights_C = class_weights(counts_C, config.rebalance)
            return cross_entropy(torch.tensor(weights_C, dtype=torch.float32, device=device), config.label_smoothing)
        case "cross_entropy":
            return cross_entropy(torch.ones(len(counts_C), device=device), config.label_smoothing)
        case "logit_adjusted":
            # A class without images has no logarithm; as one image, it is hardly ever expected.
            shares_C = np.maximum(counts_C, 1) / counts_C.sum()
            offsets_C = torch.tensor(config.rebalance * np.log(shares_C), dtype=torch.float32, device=device)
            return logit_adjusted(offsets_C, config.label_smoothing)
        case "focal":
            return focal(config.focal_gamma, config.label_smoothing)


def image_weights(
    config: TrainConfig, counts_C: npt.NDArray[np.int64], labels_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    """How often each image (N,) would occur in a set of images whose class frequencies are those that a model learns.

    - Class weights: a loss that counts an image w times is that of a set which holds it w times.
    - Logit adjustment: the adjusted logits learn the frequencies as they are, so the bare ones, less
      rebalance x log(frequency), learn those in which each image occurs count^-rebalance times.
    - The balanced sampler has made such a set already, and plain and focal losses leave it as it is.

    Returns:
        None where all images occur alike.
    """
    if config.rebalance == 0 or config.loss not in ("weighted", "logit_adjusted"):
        return None
    return class_weights(counts_C, config.rebalance)[labels_N]


def class_weights(counts_C: npt.NDArray[np.int64], rebalance: float) -> npt.NDArray[np.float64]:
    """Weights (C,) proportional to count^-rebalance whose mean over the examples is 1.

    The mean of 1 keeps the size of the gradient, so that learning rates mean the same at every strength.

    Args:
        counts_C: Training images of each class (C,); one that has none gets the weight of one that has one.
        rebalance: 0 treats all images alike, 1 all classes.
    """
    weights_C = np.maximum(counts_C, 1).astype(np.float64) ** -rebalance
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


def logit_adjusted(offsets_C: torch.Tensor, label_smoothing: float) -> Criterion:
    """Cross entropy of logits with offsets (Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10).

    The smoothed shares pull at the bare logits. Were they asked of the adjusted ones, an image that is certainly a
    naevus would be best called something rare, by the bare logits that are left without the offsets.

    Args:
        offsets_C: Strength times the log of the class frequencies (C,).
        label_smoothing: Share of the label that is spread evenly.
    """

    def criterion(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        loss = (1 - label_smoothing) * F.cross_entropy(logits_BC + offsets_C, labels_B)
        return loss - label_smoothing * logits_BC.log_softmax(1).mean()

    return criterion


def focal(gamma: float, label_smoothing: float) -> Criterion:
    """Focal loss, -(1 - p)^gamma log p (Lin et al. 2017, "Focal loss for dense object detection", equation 4).

    Args:
        gamma: 0 is cross entropy.
        label_smoothing: Share of the label that is spread evenly; each share has a term of its own.
    """

    def criterion(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        log_probs_BC = logits_BC.log_softmax(1)
        # From log p, as 1 - p would lose all its digits beside p = 1; and never 0, whose power has no gradient.
        others_BC = (-torch.expm1(log_probs_BC)).clamp_min(torch.finfo(log_probs_BC.dtype).tiny)
        losses_BC = -(others_BC**gamma) * log_probs_BC
        of_label_B = losses_BC.gather(1, labels_B[:, None])[:, 0]
        return ((1 - label_smoothing) * of_label_B + label_smoothing * losses_BC.mean(1)).mean()

    return criterion
