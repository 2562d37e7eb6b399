"""The loss of images without labels: what the network is sure of in a mild view it must also say of a strong one.

FixMatch (Sohn et al. 2020, section 2), with the imbalance of the classes respected. Pseudo-labels of a biased network
are more biased than itself, so that rare classes would vanish. Against that, beliefs are scaled before they are labels,
so that on average they agree with the class frequencies that the labelled loss teaches,
count^(1 - rebalance) (ReMixMatch, Berthelot et al. 2020, section 3.1; tempered as in CReST, Wei et al. 2021, section
3.3). And a pseudo-label counts as much as a label of its class does, by the same mechanism at the same strength
(docs/decisions/0020).

Shapes: U unlabelled images, C classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from core.config import TrainConfig
from core.losses import class_weights

_SHARE = 0.02  # of a batch in the running mean of beliefs: some 50 batches; ReMixMatch takes 128 of much longer runs
_LEAST = 1e-6  # of a running mean, by which beliefs are divided


@dataclass(frozen=True, kw_only=True, eq=False)
class PseudoLabels:
    """What labels unlabelled images, and the loss that comes of it.

    Attributes:
        confidence: Aligned belief from which on a class is taken for the label.
        weight: Of the loss, beside that of the labelled images.
        frequencies_C: Class frequencies that the labelled loss teaches (C,).
        weights_C: How much a label of each class counts (C,).
        offsets_C: What the labelled loss adds to the logits (C,).
        beliefs_C: Running mean of the beliefs (C,), changed in place; the only state.
    """

    confidence: float
    weight: float
    frequencies_C: Tensor
    weights_C: Tensor
    offsets_C: Tensor
    beliefs_C: Tensor

    @classmethod
    def of(cls, config: TrainConfig, counts_C: npt.NDArray[np.int64], device: torch.device) -> "PseudoLabels":
        """Those of a run that has seen nothing.

        Args:
            config: Names the loss, and the strength at which rare classes are brought forward.
            counts_C: Labelled training images of each class (C,).
            device: Where logits are.
        """
        counts = np.maximum(counts_C, 1).astype(np.float64)
        frequencies = counts ** (1 - config.rebalance)
        weighted, adjusted = config.loss == "weighted", config.loss == "logit_adjusted"
        weights = class_weights(counts_C, config.rebalance) if weighted else np.ones(len(counts))
        offsets = config.rebalance * np.log(counts / counts.sum()) if adjusted else np.zeros(len(counts))
        as_tensor = [
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (frequencies / frequencies.sum(), weights, offsets)
        ]
        return cls(
            confidence=config.confidence,
            weight=config.unlabelled_weight,
            frequencies_C=as_tensor[0],
            weights_C=as_tensor[1],
            offsets_C=as_tensor[2],
            beliefs_C=as_tensor[0].clone(),  # as if it had been right so far
        )

    def loss(self, mild_UC: Tensor, strong_UC: Tensor) -> Tensor:
        """The mean over all unlabelled images, of which those that the network isn't sure of count 0.

        Args:
            mild_UC: Logits of mild views, float32; no gradient goes through them.
            strong_UC: Logits of strong views of the same images, float32.
        """
        labels_U, sure_U = self.label(mild_UC.detach())
        losses_U = F.cross_entropy(strong_UC + self.offsets_C, labels_U, reduction="none")
        return self.weight * (sure_U * self.weights_C[labels_U] * losses_U).mean()

    def label(self, mild_UC: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (U,) and whether each is sure, as 0 or 1 (U,); the running mean takes part of the beliefs."""
        beliefs_UC = mild_UC.softmax(1)
        self.beliefs_C.lerp_(beliefs_UC.mean(0), _SHARE)
        aligned_UC = beliefs_UC * (self.frequencies_C / self.beliefs_C.clamp_min(_LEAST))
        highest_U, labels_U = (aligned_UC / aligned_UC.sum(1, keepdim=True)).max(1)
        return labels_U, (highest_U >= self.confidence).float()
