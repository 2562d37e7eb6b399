"""Seeds derived from what they are for, and the order that they give the training images."""

import numpy as np
import numpy.typing as npt

from core.config import TrainConfig

Rows = npt.NDArray[np.int64]

# What a seed is for, so that no two uses share one.
ORDER, DROPOUT, MIXUP, CUTMIX, AUGMENT, SAMPLER, CONFIRM = 0, 1, 2, 3, 100, 101, 102
PRETRAIN_ORDER, PRETRAIN_VIEWS, PRETRAIN_HEADS, NEIGHBOURS = 103, 104, 105, 106
UNLABELLED_ORDER, UNLABELLED_VIEWS = 107, 108


def derive_seed(*parts: int) -> int:
    """A seed that differs wherever any part does; sums of seeds would collide (seed 0, epoch 1 and seed 1, epoch 0)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def epoch_order(train_rows: Rows, labels: Rows, config: TrainConfig, epoch: int) -> Rows:
    """The order in which an epoch visits the training rows: a function of (seed, trial, epoch).

    Args:
        train_rows: All of them.
        labels: Class of every row of the manifest.
        config: Seed, trial and sampler.
        epoch: Which one, counted from 0.
    """
    rng = np.random.default_rng(derive_seed(config.seed, config.trial, epoch, ORDER))
    order = rng.permutation(train_rows)
    if config.sampler == "balanced":
        by_class = order[np.argsort(labels[order], kind="stable")]
        order = rng.permutation(_rebalanced(by_class, labels[by_class], config.rebalance, rng))
    return without_lone_last(order, config.batch_size)


def _rebalanced(rows: Rows, labels: Rows, strength: float, rng: np.random.Generator) -> Rows:
    """As many rows, each on average in proportion to count^-strength times, where count is that of its class.

    Drawn at equal distances from one random start, class by class, so that no row and no class comes more or less
    often than its share rounded up or down. Independent draws would leave a class of ten out of an epoch now and then,
    and at strength 0 a third of all rows.

    Args:
        rows: Sorted by class, else at random.
        labels: Their classes.
        strength: 0 draws each once.
        rng: Where to start.
    """
    shares = np.bincount(labels)[labels] ** -float(strength)
    ends = np.cumsum(shares) / shares.sum()
    points = (rng.random() + np.arange(len(rows))) / len(rows)
    # The last end may be rounded to less than 1.
    drawn: Rows = rows[np.searchsorted(ends, points, side="right").clip(max=len(rows) - 1)]
    return drawn


def without_lone_last(order: Rows, batch_size: int) -> Rows:
    """Leaves out a last batch of one image: batch normalisation has no variance to divide by.

    As the order changes, every image is seen in other epochs.
    """
    return order[:-1] if len(order) > 1 and len(order) % batch_size == 1 else order
