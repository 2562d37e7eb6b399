"""Activations that are remembered: in the device's memory for this process, on disk for all processes of a machine.

Legend: N rows of a set, B rows of a batch. An item is what is remembered of one image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.device import is_out_of_memory
from core.ledger import Holding, Ledger

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a set of activations is like.

    Attributes:
        rows: N.
        item: Shape of one image's activation.
        dtype: Of its numbers.
        saved_s: Seconds that remembering all N saves each time.
    """

    rows: int
    item: tuple[int, ...]
    dtype: torch.dtype
    saved_s: float

    @property
    def item_bytes(self) -> int:
        """Bytes of one image's activation."""
        return int(np.prod(self.item, dtype=np.int64)) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.rows * self.item_bytes

    def holding(self) -> Holding:
        """As the ledger knows it."""
        return Holding(size=self.size, saved_s=self.saved_s)


class Remembered(ABC):
    """A whole set of activations."""

    @abstractmethod
    def batches(self, places: Places, batch_size: int) -> Iterator[torch.Tensor]:
        """Items (B, ...) at `places` (each 0 to N - 1), in that order, on the device; the last batch may be smaller."""


class Filling(ABC):
    """A set of activations that is being computed.

    Args:
        rows: N.
    """

    def __init__(self, rows: int) -> None:
        self._filled = np.zeros(rows, dtype=bool)

    @property
    def missing(self) -> Places:
        """Places that have not been put yet."""
        return np.flatnonzero(~self._filled)

    def put(self, places: Places, items: torch.Tensor) -> None:
        """Stores items (B, ...) of some places."""
        self._put(places, items)
        self._filled[places] = True

    @abstractmethod
    def _put(self, places: Places, items: torch.Tensor) -> None:
        """As `put`."""


class BusyError(Exception):
    """Another process is computing the same set."""


class Tier(ABC):
    """One place where activations are kept."""

    @abstractmethod
    def find(self, key: str, kind: Kind) -> Remembered | None:
        """The whole set of a key, if this tier has it."""

    @abstractmethod
    def fill(self, key: str, kind: Kind) -> AbstractContextManager[Filling] | None:
        """Makes room for a set that this tier doesn't have; None where it is not worth its room.

        Returns:
            What to put items into. The set can be found after leaving it without an exception and with nothing missing;
            otherwise the room is given back.

        Raises:
            BusyError: Another process is computing it, for this one too.
        """


class Activations:
    """All tiers, the preferred one first; without any, nothing is remembered.

    Args:
        tiers: Where to look, and where to keep.
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self._tiers = tuple(tiers)

    def find(self, key: str, kind: Kind) -> Remembered | None:
        """The whole set of a key, if any tier has it."""
        return next((found for tier in self._tiers if (found := tier.find(key, kind)) is not None), None)

    def fill(self, key: str, kind: Kind) -> AbstractContextManager[Filling] | None:
        """As a tier's, in the first one that has room; nowhere while another process computes it for all."""
        for tier in self._tiers:
            try:
                filling = tier.fill(key, kind)
            except BusyError:
                return None
            if filling is not None:
                return filling
        return None

    @property
    def held(self) -> int:
        """Bytes of the device's memory that are taken."""
        return sum(tier.held for tier in self._tiers if isinstance(tier, MemoryTier))

    def clear_memory(self) -> bool:
        """Gives the device's memory back; whether there was any to give."""
        held = self.held
        for tier in self._tiers:
            if isinstance(tier, MemoryTier):
                tier.clear()
        return held > 0


def open_activations(*, device: torch.device, memory: int, disk: int, folder: Path | None) -> Activations:
    """Opens what this process may remember activations in.

    On the CPU the disk comes first, because the pages that the system keeps of a file serve all processes; on other
    devices their own memory does.

    Args:
        device: Where activations are used.
        memory: Bytes of its memory.
        disk: Bytes on disk, shared by all processes.
        folder: Where on disk; None for nowhere.
    """
    from core.disk_tier import DiskTier

    in_memory = [MemoryTier(device, memory)] if memory > 0 else []
    on_disk = [DiskTier(folder, device, disk)] if disk > 0 and folder is not None else []
    return Activations([*on_disk, *in_memory] if device.type == "cpu" else [*in_memory, *on_disk])


class MemoryTier(Tier):
    """Tensors on the device.

    Args:
        device: Where to keep them.
        limit: Bytes.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self._device = device
        self._ledger = Ledger(limit=limit)
        self._tensors: dict[str, torch.Tensor] = {}

    def find(self, key: str, kind: Kind) -> Remembered | None:
        holding = self._ledger.holdings.get(key)
        if holding is None or not holding.whole:
            return None
        self._ledger.touch(key)
        return InMemory(self._tensors[key])

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return self._ledger.used

    def clear(self) -> None:
        """Gives back everything; no set is being computed."""
        self._tensors.clear()
        self._ledger.holdings.clear()

    def fill(self, key: str, kind: Kind) -> AbstractContextManager[Filling] | None:
        leaving = None if key in self._ledger.holdings else self._ledger.admit(key, kind.holding())
        if leaving is None:
            return None
        for other in leaving:
            del self._tensors[other]
        try:
            items = torch.empty((kind.rows, *kind.item), dtype=kind.dtype, device=self._device)
        except Exception as error:
            del self._ledger.holdings[key]
            if not is_out_of_memory(error):
                raise
            return None  # others have taken the memory; the run goes on without
        return self._filling(key, _FillingMemory(items))

    @contextmanager
    def _filling(self, key: str, filling: "_FillingMemory") -> Iterator[Filling]:
        try:
            yield filling
            assert not len(filling.missing), f"{len(filling.missing)} places of {key} are missing"
        except BaseException:
            del self._ledger.holdings[key]
            raise
        self._tensors[key] = filling.items
        self._ledger.holdings[key].whole = True


class InMemory(Remembered):
    """Items in a tensor.

    Args:
        items: (N, ...), on the device.
    """

    def __init__(self, items: torch.Tensor) -> None:
        self._items = items

    def batches(self, places: Places, batch_size: int) -> Iterator[torch.Tensor]:
        on_device = torch.from_numpy(places).to(self._items.device)  # one transfer an epoch
        for part in on_device.split(batch_size):  # type: ignore[no-untyped-call]
            yield self._items.index_select(0, part)


class _FillingMemory(Filling):
    def __init__(self, items: torch.Tensor) -> None:
        super().__init__(len(items))
        self.items = items

    def _put(self, places: Places, items: torch.Tensor) -> None:
        # Without waiting for it: so few bytes are taken over at once, and a step must not wait for the card.
        self.items.index_copy_(0, torch.from_numpy(places).to(items.device, non_blocking=True), items)
