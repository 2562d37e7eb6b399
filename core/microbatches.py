"""Batches that are computed in parts, where memory doesn't suffice for the whole and the result stays the same."""

import torch

from core.classifier import Classifier
from core.config import TrainConfig
from core.mixing import mixes

_LEAST = 2  # images: a single one would not be worth launching


def more_parts(batch_size: int, parts: int) -> int | None:
    """The next number of equal parts of a batch: at least twice as many; None where they would be too small.

    >>> more_parts(48, 1), more_parts(50, 2), more_parts(31, 1)
    (2, 5, None)
    """
    return next((more for more in range(2 * parts, batch_size // _LEAST + 1) if batch_size % more == 0), None)


def can_be_parted(model: Classifier, config: TrainConfig) -> bool:
    """Whether a batch that is computed in parts gives what the whole one gives.

    Args:
        model: The model, at the config's depth.
        config: Of the run.
    """
    # Images are mixed with others of their batch, which may be in another part; and unlabelled ones are labelled by a
    # mean over their batch.
    return not mixes(config) and config.unlabelled_weight == 0 and keeps_images_apart(model, config.image_size)


def keeps_images_apart(model: Classifier, image_size: int) -> bool:
    """Whether training makes of an image what evaluation does, so that neither other images nor chance take part.

    Batch normalisation that learns doesn't, nor does stochastic depth. It is tried on two images, which may change
    running statistics. The head's dropout is left out: who computes a batch in parts draws for the whole of it.

    Args:
        model: The model, at the depth that is asked about.
        image_size: Side of the images, pixels.
    """
    device = next(model.parameters()).device
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = []
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        images = torch.rand(2, 3, image_size, image_size, device=device)
        for training in (True, False):
            torch.manual_seed(0)
            features = model.train(training).embed(images)
            # Layers may have no weight yet. Then statistics that moved and a generator that was used still tell.
            found.append(torch.cat([features.flatten(), torch.rand(1, device=device)]))
    unmoved = all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    return unmoved and torch.equal(*found)
