"""Where batches come from: the interface, and the two sources that need no ffcv.

Legend: N images, B images of a batch, S side of a stored image in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from core import cli
from core.device import available_cores
from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.pixels import Pixels, UInt8Array

_GATHER_CHUNK = 256  # images copied to the device at once: 50 MB at 224²
_FEW_IMAGES = 1000  # below this decoding takes less time than starting workers, each of which imports torch for seconds


_Decoded: TypeAlias = UInt8Array | InputError


class Batch(NamedTuple):
    """Some images of a manifest. The tensors belong to whoever asked: no later batch overwrites them.

    Attributes:
        images: uint8 (B, 3, S, S), channels_last, on the source's device.
        labels: int64 (B,), on the device; -1 where none are known.
        rows: int64 (B,), on the device: which rows of the manifest (or which files) these are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


class BatchSource(ABC):
    """Stored images as batches on a device; the same pixels whichever source gives them.

    Several iterations may be under way at once. A source draws no random numbers: the order is the caller's.

    Attributes:
        name: Kind of the source: resident, ffcv or torch.
        frame: What is seen of a photo; its size is S.
        device: Where the batches are.
        held: Bytes of the device's memory that the source keeps.
    """

    name: str
    held: int = 0

    def __init__(self, rows: npt.NDArray[np.int64], *, frame: Frame, device: torch.device) -> None:
        """Opens a source.

        Args:
            rows: The only rows that may ever be asked for; any order, repeats don't matter.
            frame: What is seen of a photo.
            device: Where the batches shall be.
        """
        self.frame = frame
        self.device = device
        self._rows = np.unique(rows)
        self._closed = False

    def batches(self, rows: npt.NDArray[np.int64], *, batch_size: int) -> Iterator[Batch]:
        """Every row exactly once and in the order given; the last batch may be smaller, none is dropped.

        Breaking off is fine: what runs in the background ends when the iterator is closed or forgotten.

        Args:
            rows: int64 (N,), rows in the order to visit them.
            batch_size: Images a batch, 1 or more.

        Raises:
            IndexError: A row is not among those that the source was opened for. This keeps the test split sealed; it is
                raised by the call, before anything is read.
            RuntimeError: The source is closed.
        """
        if self._closed:
            raise RuntimeError(f"this {self.name} source is closed")
        assert batch_size >= 1, f"batch_size={batch_size}"
        assert rows.ndim == 1, f"rows of shape {rows.shape}"
        assert rows.size == 0 or np.issubdtype(rows.dtype, np.integer), f"rows of type {rows.dtype}"
        strangers = rows[~np.isin(rows, self._rows)]
        if strangers.size:
            raise IndexError(
                f"row {strangers[0]} (one of {strangers.size:,}) is not among the {len(self._rows):,} rows that this "
                f"{self.name} source was opened for"
            )
        return self._batches(rows.astype(np.int64), batch_size) if rows.size else iter(())

    @abstractmethod
    def _batches(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """As `batches`, for rows that have been checked and are at least one."""

    def close(self) -> None:
        """Lets go of memory, threads and processes; may be called twice."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ResidentSource(BatchSource):
    """Keeps the uint8 pixels of its rows in one tensor on the device and gathers batches there."""

    name = "resident"

    def __init__(
        self,
        pixels: Pixels,
        labels: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        *,
        frame: Frame,
        device: torch.device,
    ) -> None:
        """Copies the pixels of `rows`, and of no other, to the device.

        Args:
            pixels: Images by row.
            labels: int64, by row.
            rows: The rows to keep.
            frame: What `pixels` show of a photo.
            device: Where to keep them.
        """
        super().__init__(rows, frame=frame, device=device)
        self.held = len(self._rows) * frame.size**2 * 3
        # Flat samples are gathered as one copy each.
        self._flat = torch.empty((len(self._rows), frame.size**2 * 3), dtype=torch.uint8, device=device)
        self._labels = torch.from_numpy(labels[self._rows]).to(device)
        with cli.progress(f"pixels to {device.type}", len(self._rows)) as bar:
            for start in range(0, len(self._rows), _GATHER_CHUNK):
                chunk = self._rows[start : start + _GATHER_CHUNK]
                gathered = np.stack([pixels[int(row)].reshape(-1) for row in chunk])
                self._flat[start : start + len(chunk)] = torch.from_numpy(gathered).to(device)
                bar.advance(len(chunk))

    def _batches(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        # One transfer an epoch instead of one a batch.
        places = torch.from_numpy(np.searchsorted(self._rows, rows)).to(self.device)
        rows_on_device = torch.from_numpy(rows).to(self.device)
        side = self.frame.size
        for start in range(0, len(rows), batch_size):
            part = places[start : start + batch_size]
            images = self._flat.index_select(0, part).view(-1, side, side, 3).permute(0, 3, 1, 2)
            yield Batch(images, self._labels.index_select(0, part), rows_on_device[start : start + batch_size])

    def close(self) -> None:
        super().close()
        self._flat = self._labels = torch.empty(0)


class MappedSource(BatchSource):
    """Gathers batches on the CPU from memory-mapped pixels: all processes of a machine share one copy of them."""

    name = "resident"

    def __init__(
        self, pixels: Pixels, labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], *, frame: Frame
    ) -> None:
        """Copies nothing.

        Args:
            pixels: Images by row.
            labels: int64, by row.
            rows: The rows that may be asked for.
            frame: What `pixels` show of a photo.
        """
        super().__init__(rows, frame=frame, device=torch.device("cpu"))
        self.held = len(self._rows) * frame.size**2 * 3
        self._pixels: Pixels | None = pixels
        self._labels = labels

    def _batches(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        assert self._pixels is not None, "checked by batches()"
        side = self.frame.size
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            images = np.empty((len(part), side, side, 3), dtype=np.uint8)
            for place, row in enumerate(part.tolist()):
                images[place] = self._pixels[row]
            labels = torch.from_numpy(self._labels[part])
            yield Batch(torch.from_numpy(images).permute(0, 3, 1, 2), labels, torch.from_numpy(part))

    def close(self) -> None:
        super().close()
        self._pixels = None


class TorchSource(BatchSource):
    """Decodes each image whenever it is asked for, through torch's DataLoader."""

    name = "torch"

    def __init__(
        self,
        files: Sequence[Path],
        labels: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        *,
        frame: Frame,
        device: torch.device,
        workers: int | None = None,
    ) -> None:
        """Opens files; decodes nothing yet.

        Args:
            files: One path a row.
            labels: int64, by row; -1 where none are known.
            rows: The rows that may be asked for.
            frame: What is kept of each.
            device: Where the batches shall be.
            workers: Processes that decode, 0 for this one; by default all cores, and 0 for few images.
        """
        super().__init__(rows, frame=frame, device=device)
        self._dataset = _Files([str(file) for file in files], frame)
        self._labels = labels
        if workers is None:
            workers = available_cores() if len(self._rows) >= _FEW_IMAGES else 0
        self._workers = workers
        self._loaders: list[DataLoader[_Decoded]] = []
        self._idle: list[tuple[DataLoader[_Decoded], _Plan]] = []

    def _batches(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        # Workers outlive the epoch, and a DataLoader with such workers serves one iteration at a time.
        loader, plan = self._idle.pop() if self._idle else self._new_loader()
        plan.parts = np.split(rows, range(batch_size, len(rows), batch_size))
        try:
            for part, decoded in zip(plan.parts, loader, strict=True):
                if isinstance(decoded, InputError):
                    raise decoded
                images = torch.from_numpy(decoded).permute(0, 3, 1, 2).to(self.device)
                labels = torch.from_numpy(self._labels[part]).to(self.device)
                yield Batch(images, labels, torch.from_numpy(part).to(self.device))
        finally:
            self._idle.append((loader, plan))

    def _new_loader(self) -> "tuple[DataLoader[_Decoded], _Plan]":
        plan = _Plan()
        loader = DataLoader(
            self._dataset,
            batch_sampler=plan,
            num_workers=self._workers,
            collate_fn=_stack,
            # numba's and OpenMP's threads don't survive a fork.
            multiprocessing_context="spawn" if self._workers else None,
            persistent_workers=self._workers > 0,
            # Without one of its own the loader takes a number from torch's global generator in every epoch.
            generator=torch.Generator(),
        )
        self._loaders.append(loader)
        return loader, plan

    def close(self) -> None:
        super().close()
        for loader in self._loaders:
            # There is no public way to end persistent workers, and a traceback that is kept would keep them.
            iterator: Any = loader._iterator
            if iterator is not None:
                iterator._shutdown_workers()
                loader._iterator = None


class _Files(Dataset[_Decoded]):
    def __init__(self, files: list[str], frame: Frame) -> None:
        self.files = files
        self.frame = frame

    def __getitem__(self, row: int) -> _Decoded:
        try:
            return load_image(Path(self.files[row]), self.frame)
        except InputError as error:  # Raised in a worker it would come back with a traceback inside its sentence.
            return error


def _stack(decoded: list[_Decoded]) -> _Decoded:
    """One uint8 (B, S, S, 3), or the first error.

    NumPy arrays cross the worker's pipe. Tensors would each hold a file handle and a piece of /dev/shm, of which
    containers have 64 MB, for as long as the batch is kept.
    """
    arrays = []
    for item in decoded:
        if isinstance(item, InputError):
            return item
        arrays.append(item)
    return np.stack(arrays)


class _Plan(Sampler[list[int]]):
    """The rows of each batch of the next epoch."""

    def __init__(self) -> None:
        self.parts: list[npt.NDArray[np.int64]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter([part.tolist() for part in self.parts])

    def __len__(self) -> int:
        return len(self.parts)
