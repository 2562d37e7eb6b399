"""What runs are fed of unlabelled images beside the labelled ones.

Shapes: U unlabelled images of a step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.archs import Arch
from core.augment import Augmenter
from core.config import TrainConfig
from core.seeds import UNLABELLED_ORDER, UNLABELLED_VIEWS, derive_seed
from core.sources import BatchSource
from core.strong_views import PSEUDO_LABELLED, StrongAugmenter


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlabelledImages:
    """Images without labels, none of which shows a lesion of the validation or test part.

    Attributes:
        source: Gives them, as rows 0 to `count` - 1.
        count: How many there are.
    """

    source: BatchSource
    count: int


class UnlabelledFeed:
    """What the learning part of a run is fed of unlabelled images.

    Args:
        images: The images.
        arch: Image size and normalisation.
        config: Of the run.
        pass_frozen: From views (U, 3, H, H) to what the learning part is fed.
    """

    def __init__(
        self, images: UnlabelledImages, *, arch: Arch, config: TrainConfig, pass_frozen: Callable[[Tensor], Tensor]
    ) -> None:
        self._images, self._config, self._pass_frozen = images, config, pass_frozen
        form: dict[str, Any] = {"image_size": arch.image_size, "mean": arch.mean, "std": arch.std}
        form["device"] = images.source.device
        # Of the same numbers both views would be as bright as each other, and to agree on them would teach little.
        mild, strong = (derive_seed(config.augment_seed, UNLABELLED_VIEWS, kind) for kind in (0, 1))
        self._mild = Augmenter(seed=mild, **form)
        self._mild.set_strength(config.augment_strength)
        self._strong = StrongAugmenter(PSEUDO_LABELLED, seed=strong, **form)

    def batches(self, sizes: Sequence[int], epoch: int) -> Iterator[Tensor]:
        """For each step of an epoch the strong views of some images and then the mild ones, as they are fed (2 U, ...).

        Args:
            sizes: Labelled images of each step, equal but for the last.
            epoch: Which one, counted from 0.
        """
        ratio = self._config.unlabelled_ratio
        # All epochs have as many steps, so that each goes on in the pool where the one before has ended.
        total = ratio * sum(sizes)
        rows = self._order(epoch * total, total)
        for step, batch in enumerate(self._images.source.batches(rows, batch_size=ratio * sizes[0])):
            view = epoch * len(sizes) + step  # each step has its own: an image may come twice in an epoch
            strong = self._strong.view(batch.images, batch.rows, view)
            mild = self._mild.train_view(batch.images, batch.rows, view)
            yield self._pass_frozen(torch.cat([strong, mild]))

    def _order(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """A piece of an endless order that shows every image once before any comes again."""
        first, last = start // self._images.count, (start + count - 1) // self._images.count
        config = self._config
        rounds = [
            np.random.default_rng(derive_seed(config.seed, config.trial, number, UNLABELLED_ORDER)).permutation(
                self._images.count
            )
            for number in range(first, last + 1)
        ]
        begin = start - first * self._images.count
        return np.concatenate(rounds)[begin : begin + count]
