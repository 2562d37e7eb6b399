"""Seeds derived from what they are for, and the order that they give the training images."""

import numpy as np
import numpy.typing as npt

from core.config import TrainConfig

Rows = npt.NDArray[np.int64]

# What a seed is for, so that no two uses share one.
ORDER, DROPOUT, AUGMENT, SAMPLER, CONFIRM = 0, 1, 100, 101, 102


def derive_seed(*parts: int) -> int:
    """A seed that differs wherever any part does; sums of seeds would collide (seed 0, epoch 1 and seed 1, epoch 0)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def epoch_order(train_rows: Rows, config: TrainConfig, epoch: int) -> Rows:
    """The order in which an epoch visits the training rows: a function of (seed, trial, epoch)."""
    rng = np.random.default_rng(derive_seed(config.seed, config.trial, epoch, ORDER))
    return without_lone_last(rng.permutation(train_rows), config.batch_size)


def without_lone_last(order: Rows, batch_size: int) -> Rows:
    """Leaves out a last batch of one image: batch normalisation has no variance to divide by.

    As the order changes, every image is seen in other epochs.
    """
    return order[:-1] if len(order) > 1 and len(order) % batch_size == 1 else order
