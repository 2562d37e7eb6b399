"""Opens the source of batches that suits data and machine, and the source that streams through FFCV.

The three sources give exactly equal pixels: all come from `core.images.load_image`, stored raw or decoded anew.
"""

import functools
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.beton_file import find_beton, read_pixels
from core.budget import MEMORY
from core.device import available_cores, free_memory
from core.errors import InputError
from core.framing import Frame
from core.inspection import refuse_unreadable
from core.manifest import Manifest
from core.pixels import Pixels, decode_files, ensure_array, ensure_array_of_files, read_array
from core.sources import Batch, BatchSource, MappedSource, ResidentSource, TorchSource

__all__ = ["KINDS", "Batch", "BatchSource", "FfcvSource", "open_files", "open_source"]

_log = logging.getLogger(__name__)

KINDS = ("auto", "resident", "ffcv", "torch")
_BATCHES_AHEAD = 2  # FFCV keeps this many and two more: 200 MB for batches of 256 at 224²
_BUILDING = threading.Lock()  # Starting an epoch writes the batch size into the one loader and walks its graph.


def open_source(
    manifest: Manifest,
    *,
    frame: Frame,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    kind: str = "auto",
    memory: int | None = None,
) -> BatchSource:
    """Opens images for training or evaluation.

    Args:
        manifest: The images.
        frame: What is kept of each, which is what batches have.
        rows: The only rows of the manifest that may ever be asked for.
        device: Where the batches shall be.
        kind: ``resident`` (decoded once, kept on the device), ``ffcv`` (streamed), ``torch`` (decoded each time), or
            ``auto``: resident if the pixels fit `memory`, else ffcv, else torch.
        memory: Bytes of the device's memory that the pixels may take; None for 40 % of what is free.

    Raises:
        InputError: The kind is unknown or can't be had here, an image can't be decoded, or the cache has no room.
    """
    if kind not in KINDS:
        raise InputError(f"`kind` must be one of {', '.join(KINDS)}, but got kind={kind!r}. Choose one of them.")
    assert rows.size == 0 or (rows.min() >= 0 and rows.max() < len(manifest)), "rows that the manifest doesn't have"
    budget = MEMORY.of(free_memory(device)) if memory is None else memory
    chosen, why = _choose(kind, len(np.unique(rows)) * frame.size**2 * 3, device, budget)
    _log.info("batches come from the %s source: %s", chosen, why)
    if chosen == "ffcv":
        return FfcvSource(manifest, rows, frame=frame, device=device)
    if chosen == "torch":
        files = [manifest.file(row) for row in range(len(manifest))]
        return TorchSource(files, manifest.labels, rows, frame=frame, device=device)
    pixels = decode_once(manifest, frame)
    if device.type == "cpu":
        return MappedSource(pixels, manifest.labels, rows, frame=frame)
    return ResidentSource(pixels, manifest.labels, rows, frame=frame, device=device)


def open_files(
    paths: Sequence[Path],
    *,
    frame: Frame,
    device: torch.device,
    sha256: Sequence[str] | None = None,
    memory: int | None = None,
    kind: str = "auto",
) -> BatchSource:
    """Opens new images, whose rows are their places in `paths` and whose labels are -1.

    They are decoded at once and kept on the device; where they don't fit there, each time they are asked for.

    Args:
        paths: Image files.
        frame: What is kept of each.
        device: Where the batches shall be.
        sha256: Hash of each file's bytes. Given, the decoded pixels stay in the cache, where all processes of a machine
            share them; without, they are gone with this one.
        memory: Bytes of the device's memory that the pixels may take; None for 40 % of what is free.
        kind: ``torch`` decodes each image whenever it is asked for; any other of `KINDS` leaves the choice.

    Raises:
        InputError: Some cannot be decoded, all of which are named, or the cache has no room.
    """
    rows = np.arange(len(paths), dtype=np.int64)
    labels, needed = np.full_like(rows, -1), len(paths) * frame.size**2 * 3
    on_device = MEMORY.of(free_memory(device)) if memory is None else memory
    here = torch.device("cpu")
    # Mapped pixels take no memory that others need.
    fits = (sha256 is not None and device == here) or needed <= on_device
    if kind == "torch" or not fits or (sha256 is None and needed > MEMORY.of(free_memory(here))):
        refuse_unreadable(paths, among=len(paths))
        return TorchSource(paths, labels, rows, frame=frame, device=device)
    if sha256 is None:
        pixels = decode_files(paths, frame)
    else:
        pixels = read_array(ensure_array_of_files(paths, sha256, frame))
    if device == here:
        return MappedSource(pixels, labels, rows, frame=frame)
    return ResidentSource(pixels, labels, rows, frame=frame, device=device)


def _choose(kind: str, needed: int, device: torch.device, budget: int) -> tuple[str, str]:
    """The kind of source and the reason.

    Args:
        kind: What was asked for.
        needed: Bytes of the uint8 pixels.
        device: Where they would be kept.
        budget: Bytes that they may take there, unless they were asked to be resident.
    """
    if kind in ("ffcv", "torch"):
        return kind, "asked for"
    free = free_memory(device)
    sizes = f"{needed / 1e9:.2f} GB of pixels, {free / 1e9:.2f} GB free on {device.type}"
    if kind == "resident":
        if needed > free:
            raise InputError(
                f"`kind` must be ffcv or torch where the pixels don't fit, but got kind='resident' ({sizes}). "
                "Choose one of them, or auto."
            )
        return kind, f"asked for ({sizes})"
    limit = f"{budget / 1e9:.2f} GB may be used"
    if needed <= budget:
        return "resident", f"{sizes}, {limit}"
    from core.beton import HAVE_FFCV

    return "ffcv" if HAVE_FFCV else "torch", f"{sizes}, only {limit}" + ("" if HAVE_FFCV else "; ffcv isn't installed")


def decode_ahead(
    manifest: Manifest,
    frame: Frame,
    *,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    kind: str,
    memory: int,
) -> None:
    """Writes into the cache what a source of some kind will read from it; arguments as of `open_source`.

    Raises:
        InputError: As `open_source`.
    """
    chosen, _ = _choose(kind, len(np.unique(rows)) * frame.size**2 * 3, device, memory)
    if chosen == "resident":
        decode_once(manifest, frame)
    elif chosen == "ffcv":
        from core.beton import ensure_beton

        ensure_beton(manifest, frame)


def decode_once(manifest: Manifest, frame: Frame) -> Pixels:
    """All pixels, memory-mapped: from an array of our own, or from a beton where one has been written to be streamed.

    They are decoded unless this machine has done so before. FFCV is left out of it: importing it here and in its writer
    takes longer than decoding some thousand images.

    Raises:
        InputError: An image can't be decoded, or the cache has no room.
    """
    if (found := find_beton(manifest, frame)) is not None:
        return found
    return read_array(ensure_array(manifest, frame))


class FfcvSource(BatchSource):
    """Streams a beton through FFCV, on the CPU or to the GPU."""

    name = "ffcv"

    def __init__(self, manifest: Manifest, rows: npt.NDArray[np.int64], *, frame: Frame, device: torch.device) -> None:
        """Writes the beton unless it is there, and compiles its loader unless this process has done so.

        Raises:
            InputError: FFCV cannot be imported, an image cannot be decoded, or the cache cannot hold the beton.
        """
        from core.beton import HAVE_FFCV, ensure_beton

        if not HAVE_FFCV:
            raise InputError(
                "`kind` must be resident or torch where ffcv cannot be imported, but got kind='ffcv'. "
                "Choose one of them, or install ffcv with make."
            )
        super().__init__(rows, frame=frame, device=device)
        self._loader = _compiled_loader(ensure_beton(manifest, frame), device)
        self._epochs: set[Any] = set()

    def _batches(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        rows_on_device, start = torch.from_numpy(rows).to(self.device), 0
        epoch = self._start_epoch(rows, min(batch_size, len(rows)))
        try:
            for images, labels in epoch:
                # FFCV's tensors are views of buffers that it fills again.
                copies = [tensor.to(self.device, copy=True) for tensor in (images, labels[:, 0])]
                yield Batch(copies[0], copies[1], rows_on_device[start : start + len(images)])
                start += len(images)
            if epoch.error is not None:
                raise RuntimeError(f"FFCV failed while reading {self._loader.fname}") from epoch.error
        finally:
            epoch.stop()
            self._epochs.discard(epoch)

    def _start_epoch(self, rows: npt.NDArray[np.int64], batch_size: int) -> Any:
        on_device: AbstractContextManager[object] = nullcontext()
        if self.device.type == "cuda":
            on_device = torch.cuda.device(self.device)
            # The new epoch's buffers may be blocks that kernels still under way read; FFCV fills them on streams of its
            # own that wait for no such kernel.
            torch.cuda.current_stream(self.device).synchronize()
        with _BUILDING, on_device:
            self._loader.batch_size = batch_size
            epoch = _epoch_class()(self._loader, rows.astype(np.uint64))
        self._epochs.add(epoch)
        return epoch

    def close(self) -> None:
        super().close()
        for epoch in tuple(self._epochs):
            epoch.error = RuntimeError("the source was closed in the middle of an epoch")
            epoch.stop()


@functools.cache
def _compiled_loader(path: Path, device: torch.device) -> Any:
    """The one FFCV loader of a beton in this process: a new one compiles for 4 to 13 s, an epoch of this one doesn't.

    FFCV's seed and orders stay unused: each epoch is given its rows.
    """
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToDevice, ToTensor, ToTorchImage

    read_pixels(path)  # Damage that FFCV would follow out of the file and crash.
    # With non_blocking=True the pinned buffer can be filled again before its copy is done.
    to_device = [ToDevice(device, non_blocking=False)] if device.type == "cuda" else []
    to_device_too = [ToDevice(device, non_blocking=False)] if device.type == "cuda" else []
    return Loader(
        str(path),
        batch_size=1,  # each epoch sets its own
        num_workers=available_cores(),
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        batches_ahead=_BATCHES_AHEAD,
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor(), *to_device, ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), *to_device_too],
        },
    )


@functools.cache
def _epoch_class() -> Any:
    """FFCV's iterator over an epoch, mended; made on demand because importing FFCV takes 3 s."""
    from ffcv.loader.epoch_iterator import EpochIterator

    class Epoch(EpochIterator):  # type: ignore[misc]
        """A thread that fills batches, which tells when it failed and can be ended."""

        error: BaseException | None = None

        def run(self) -> None:
            """Fills batches; FFCV's own leaves the consumer waiting for ever if that raises."""
            try:
                super().run()
            except BaseException as error:  # Whatever it was, the consumer raises from it.
                self.error = error
                self.output_queue.put(None)

        def stop(self) -> None:
            """Ends the thread, within a batch, and lets go of its buffers; FFCV's close() does neither."""
            self.iter_ixes = iter(())
            self.terminate_event.set()
            while self.is_alive() or not self.output_queue.empty():
                with suppress(queue.Empty):
                    self.output_queue.get(timeout=0.01)
            self.output_queue.put(None)  # Whoever asks for one more batch gets the end, not a wait for ever.
            self.memory_allocations = None

    return Epoch
