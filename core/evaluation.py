"""What a model believes of images, and how that fares against the truth.

Shapes: V views, N examples, B batch, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.augment import Augmenter, dihedral_views
from core.device import autocast
from core.metrics import (
    accuracy,
    confusion_matrix,
    correct_prior,
    macro_recall,
    negative_log_likelihood,
    recall_per_class,
)
from core.sources import BatchSource

Rows = npt.NDArray[np.int64]

EVAL_BATCH_SIZE = 128
_AT_ONCE_BYTES = 128 * 2**20  # of float32 views; a frozen MobileNet or EfficientNet takes some 20 times as much
_MOST_AT_ONCE = 1024


class Evaluation(NamedTuple):
    """How probabilities fare against the truth."""

    loss: float  # mean negative log likelihood of the uncorrected probabilities, nats
    accuracy: float  # of the plain argmax
    recall: float  # macro, of argmax p / prior
    recall_argmax: float  # macro, of the plain argmax
    recalls: tuple[float, ...]  # per class, of argmax p / prior


def images_at_once(device: torch.device, image_size: int) -> int:
    """Images that are shown, passed through the frozen part and validated at once.

    On a card as many small ones as a large one takes memory for, because what it takes longest for is launching; on a
    CPU more than 128 gain nothing.

    Args:
        device: Where to compute.
        image_size: Side of the images, pixels.
    """
    if device.type != "cuda":
        return EVAL_BATCH_SIZE
    return max(1, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // (3 * image_size**2 * 4)))


def predict_proba(
    model: nn.Module,
    source: BatchSource,
    rows: Rows,
    *,
    augmenter: Augmenter,
    batch_size: int = EVAL_BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Softmax probabilities (N, C) of whole, unaugmented images; see `predict_views`."""
    told = predict_views(model, source, rows, augmenter=augmenter, views=1, batch_size=batch_size, on_batch=on_batch)
    probs_NC: npt.NDArray[np.float32] = told[0]
    return probs_NC


def predict_views(
    model: nn.Module,
    source: BatchSource,
    rows: Rows,
    *,
    augmenter: Augmenter,
    views: int,
    batch_size: int = EVAL_BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Softmax probabilities of whole images, each as it is, turned and mirrored.

    Args:
        model: Gives logits of normalised images; on the source's device; left in evaluation mode.
        source: Gives the images.
        rows: Which ones, in the order of the result.
        augmenter: Knows the model's size and normalisation.
        views: How many of the eight of `core.augment.dihedral_views`, the first being the image as it is.
        batch_size: Images at a time; changes memory and time only.
        on_batch: Called with the number of images after each batch.

    Returns:
        float32 (V, N, C), rows summing to 1; not corrected for the prior.
    """
    model.eval()
    probs: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch in source.batches(rows, batch_size=batch_size):
            whole_BCHH = augmenter.eval_view(batch.images)
            told = []
            for view_BCHH in dihedral_views(whole_BCHH, views, source.frame.framing):
                with autocast(batch.images.device):
                    logits_BC = model(view_BCHH)
                told.append(logits_BC.float().softmax(1))
            probs.append(torch.stack(told))
            if on_batch is not None:
                on_batch(len(batch.rows))
    return torch.cat(probs, dim=1).cpu().numpy()


def evaluate(labels_N: Rows, probs_NC: npt.NDArray[np.float32], prior_C: npt.NDArray[np.float64]) -> Evaluation:
    """Judges uncorrected probabilities, raw and corrected for the prior."""
    num_classes = len(prior_C)
    raw_CC = confusion_matrix(labels_N, probs_NC.argmax(1), num_classes)
    corrected_CC = confusion_matrix(labels_N, correct_prior(probs_NC, prior_C).argmax(1), num_classes)
    return Evaluation(
        loss=negative_log_likelihood(labels_N, probs_NC),
        accuracy=accuracy(raw_CC),
        recall=macro_recall(corrected_CC),
        recall_argmax=macro_recall(raw_CC),
        recalls=tuple(recall_per_class(corrected_CC).tolist()),
    )
