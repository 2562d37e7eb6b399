"""The cuts of one network, one for each depth at which learning may begin, and the ways from cut to cut."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from core.cut import Cut, agrees, cut_network, is_way

_IMAGES = 3  # that a cut is tried on: a network's own axes are often two long


class Cuts:
    """Finds each cut once, and keeps it.

    Args:
        network: Takes images (B, 3, H, W).
        blocks: Names of its parameters and buffers, block by block from the stem.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[Sequence[str]]) -> None:
        self._network, self._blocks = network, blocks
        self._cuts: dict[int, Cut | None] = {}
        self._ways: dict[tuple[int, int], nn.Module | None] = {}

    def at(self, depth: int, image_size: int) -> Cut | None:
        """The network cut where its last `depth` blocks begin.

        Args:
            depth: How many learn.
            image_size: Side of the images to compare the halves with the whole on, pixels.

        Returns:
            None where nothing is frozen, and for networks that can't be cut in two there.
        """
        if depth == len(self._blocks):
            return None
        if depth not in self._cuts:
            self._cuts[depth] = self._find(depth, image_size)
        return self._cuts[depth]

    def way(self, depth: int, later: int, image_size: int) -> nn.Module | None:
        """What leads from the activations at one cut to those at a later one.

        Args:
            depth: Depth of the first cut.
            later: Depth of the later one, which is smaller.
            image_size: As in `at`.

        Returns:
            None unless the way over the first cut gives the very same numbers as the straight one.
        """
        if (depth, later) not in self._ways:
            self._ways[depth, later] = self._find_way(depth, later, image_size)
        return self._ways[depth, later]

    def names(self, depth: int) -> tuple[set[str], set[str]]:
        """The tensors that don't learn at a depth, and those that do."""
        count = len(self._blocks) - depth
        frozen, learning = (
            {name for block in blocks for name in block} for blocks in (self._blocks[:count], self._blocks[count:])
        )
        return frozen, learning

    def _find(self, depth: int, image_size: int) -> Cut | None:
        cut = self._cut(self._network, depth)
        if cut is None or not self._holds(lambda images: agrees(cut, self._network, images), image_size):
            return None
        return cut

    def _find_way(self, depth: int, later: int, image_size: int) -> nn.Module | None:
        first, second = self.at(depth, image_size), self.at(later, image_size)
        if first is None or second is None or (rest := self._cut(first.learning, later)) is None:
            return None
        if not self._holds(lambda images: is_way(rest.frozen, first, second, images), image_size):
            return None
        return rest.frozen

    def _cut(self, network: nn.Module, depth: int) -> Cut | None:
        frozen, learning = self.names(depth)
        return cut_network(network, frozen=frozen, learning=learning) if learning else Cut(network, nn.Identity())

    def _holds(self, check: Callable[[Tensor], bool], image_size: int) -> bool:
        device = next(self._network.parameters()).device
        numbers = torch.Generator(device).manual_seed(0)  # its own: a run's dropout must not depend on what is tried
        with _evaluating(self._network):
            return check(torch.rand(_IMAGES, 3, image_size, image_size, device=device, generator=numbers))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and back to each module's own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
