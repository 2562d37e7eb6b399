"""Images → `.beton`: FFCV's file of raw pixels and labels, from which it streams; written once.

FFCV 1.0.2 changes the process that imports it; `_prepare_ffcv` undoes that. Importing this module imports FFCV, which
takes three to six seconds; `core.beton_file` reads what it has written without it.
"""

import ctypes
import importlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core import cli
from core.beton_file import beton_path, find_beton, read_pixels
from core.errors import InputError
from core.framing import Frame
from core.manifest import Manifest
from core.pixels import (
    UInt8Array,
    array_path,
    decode_in_order,
    find_array,
    one_writer,
    read_array,
    writing_pixels,
)

_log = logging.getLogger(__name__)

SAFE_THREADING_LAYERS = ("tbb", "omp")  # Two loaders alive under numba's third, workqueue, abort the process.
_OLDEST_TBB = 12060  # numba refuses an older TBB_runtime_interface_version; Ubuntu 22.04 has 12050.
_STALL_S = 120.0  # silence of the writer after which it counts as stuck; one image takes milliseconds
_PAGE_BYTES = 8 << 20  # FFCV's default; samples don't cross pages, so that larger ones need larger pages


def _threading_layer() -> str:
    """The safe threading layer that numba will be able to load.

    pip puts TBB into ``<prefix>/lib``, where the dynamic linker doesn't look. Loaded once by its path, it is found by
    name. That also keeps an older system TBB, which FFCV's OpenCV would bring in first, out of numba's way.
    """
    for library in (Path(sys.prefix) / "lib" / "libtbb.so.12", Path("libtbb.so.12")):
        try:
            version = ctypes.CDLL(str(library)).TBB_runtime_interface_version()
        except (OSError, AttributeError):
            continue
        if version >= _OLDEST_TBB:
            return "tbb"
    return "omp"


def _prepare_ffcv() -> bool:
    """Imports FFCV with safe threads; False if it cannot be imported."""
    layer = os.environ.get("NUMBA_THREADING_LAYER", "")
    layer = layer if layer in SAFE_THREADING_LAYERS else _threading_layer()
    os.environ["NUMBA_THREADING_LAYER"] = layer  # Read when numba is imported, here and in our child processes.
    torch_threads = torch.get_num_threads()
    try:
        numba: Any = importlib.import_module("numba")  # Its annotations hide half of it from mypy.
        numba.config.THREADING_LAYER = layer  # For a numba that somebody else has imported already.
        from ffcv.pipeline.compiler import Compiler
    except (ImportError, OSError) as error:
        _log.info("ffcv cannot be imported (%s); the other sources serve", error)
        return False
    finally:
        torch.set_num_threads(torch_threads)
    assert numba.threading_layer() in SAFE_THREADING_LAYERS, f"numba runs on {numba.threading_layer()}"

    def set_numba_threads(cls: Any, n: int) -> None:
        cls.num_threads = min(n, numba.config.NUMBA_NUM_THREADS)  # numba refuses more.
        numba.set_num_threads(cls.num_threads)

    # FFCV's own also calls torch.set_num_threads for the whole process: on import, in the constructor, each epoch, and
    # from its reader thread, where nothing could restore it in time.
    Compiler.set_num_threads = classmethod(set_numba_threads)
    return True


HAVE_FFCV: bool = _prepare_ffcv()


def ensure_beton(manifest: Manifest, frame: Frame) -> Path:
    """The beton of a manifest in the cache, written on the first call; a damaged one is written again.

    Raises:
        InputError: An image cannot be decoded, or the cache cannot hold the file.
    """
    path = beton_path(manifest, frame)
    with one_writer(path):
        if find_beton(manifest, frame) is None:
            write_beton(manifest, frame, path)
    return path


def write_beton(manifest: Manifest, frame: Frame, path: Path) -> Path:
    """Writes every image at the stored size as raw pixels, and its label, in the manifest's order.

    FFCV's own writer waits for ever for a worker that raised. So its pieces run here in one child process, which
    decodes on all cores and writes in order (hence the same bytes on every run), and whose silence or end is noticed.
    What the cache has decoded already is copied.

    Args:
        manifest: The images; at least one.
        frame: What is kept of each.
        path: Where the file shall be; replaced if it exists.

    Returns:
        `path`.

    Raises:
        InputError: An image cannot be decoded (the sentence names it), or `path` cannot be written.
    """
    assert len(manifest), "a manifest without images"
    if not HAVE_FFCV:
        raise InputError("`path` must be written with ffcv, but ffcv cannot be imported here. Install it with make.")
    array = array_path(manifest, frame)
    decoded = array if find_array(array) is not None else None
    with writing_pixels(path, len(manifest), frame.size) as aside:
        _run_writer([manifest.file(row) for row in range(len(manifest))], decoded, manifest.labels, frame, aside)
        read_pixels(aside)  # FFCV ignores short writes, which is how a disk fills up.
    return path


def _run_writer(
    files: list[Path], decoded: Path | None, labels: npt.NDArray[np.int64], frame: Frame, path: Path
) -> None:
    """Runs `_write_in_child` and watches it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_write_in_child, args=(sender, files, decoded, labels, frame, path), daemon=True)
    child.start()
    sender.close()  # The child's end is now the only one, so that its death is an end of file here.
    done = 0
    try:
        with cli.progress("decoding images", len(files)) as bar:
            while receiver.poll(_STALL_S):
                try:
                    message = receiver.recv()
                except EOFError:
                    break
                if isinstance(message, Exception):
                    raise message
                bar.advance(message - done)
                done = message
            else:
                raise _writer_failed(files, done, f"nothing happened for {_STALL_S:g} s")
        child.join()
        if child.exitcode and child.exitcode > 0:
            raise RuntimeError(f"the writer of {path} failed; its traceback stands above")
        if child.exitcode:
            raise _writer_failed(files, done, f"the writer was ended by signal {-child.exitcode}")
    finally:
        child.kill()
        child.join()
        receiver.close()


def _writer_failed(files: list[Path], done: int, why: str) -> InputError:
    suspect = files[min(done, len(files) - 1)]
    return InputError(
        f"`{suspect}` must be an image that can be stored, but {why} there or soon after, "
        f"with {done:,} of {len(files):,} images written. Look at the file and at the free memory."
    )


def _write_in_child(
    sender: Connection,
    files: list[Path],
    decoded: Path | None,
    labels: npt.NDArray[np.int64],
    frame: Frame,
    path: Path,
) -> None:
    """Writes the beton; sends the count of images so far, or the exception that the user can mend."""
    try:
        images = decode_in_order(files, frame) if decoded is None else iter(read_array(decoded))
        _write_samples(path, images, labels, frame.size, sender.send)
    except InputError as error:
        sender.send(error)
    except OSError as error:
        sender.send(OSError(error.errno, error.strerror))


def _write_samples(
    path: Path, images: Iterable[UInt8Array], labels: npt.NDArray[np.int64], size: int, tell: Callable[[int], None]
) -> None:
    """What FFCV's `DatasetWriter.from_indexed_dataset` does, in this process."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, handle_sample

    page = max(_PAGE_BYTES, 1 << (size * size * 3 - 1).bit_length())
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(path), fields, page_size=page, num_workers=1)
    writer.num_samples = len(labels)
    writer.prepare()
    try:
        metadata = np.zeros(len(labels), dtype=writer.metadata_type)
        allocator = MemoryAllocator(str(path), writer.data_region_start, page)
        with allocator:
            for row, sample in enumerate(zip(images, labels, strict=True)):
                handle_sample(sample, row, metadata.dtype.names, metadata, allocator, fields)
                tell(row + 1)
        writer.metadata_sm.buf[: metadata.nbytes] = metadata.tobytes()
        writer.finalize(allocator.allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()
