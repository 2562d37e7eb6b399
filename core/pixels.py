"""The pixels of a manifest, decoded once into one memory-mapped array; no torch and no ffcv here.

Legend: N images, S side of a stored image in pixels.
"""

import hashlib
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

import filelock
import numpy as np
import numpy.typing as npt
import PIL

from core import cli, images
from core.cache import cache_folder
from core.device import available_cores
from core.errors import InputError
from core.files import remove_leftovers_of, written_aside
from core.framing import Frame
from core.inspection import refuse_unreadable
from core.manifest import Manifest
from core.npy import NpyError, read_npy

_log = logging.getLogger(__name__)

_FORMAT = "1"  # of the files named by `pixels_key`: raise it when what is written into them changes
_HEADER_ALLOWANCE = 1 << 26  # bytes beside the samples: headers, tables and the unused end of the last page

UInt8Array = npt.NDArray[np.uint8]


class Pixels(Protocol):
    """Decoded images by row, each uint8 (S, S, 3), read when asked for."""

    def __getitem__(self, row: int, /) -> UInt8Array: ...


def pixels_key(manifest: Manifest, frame: Frame) -> str:
    """Names what a file of decoded pixels holds, hexadecimal.

    It changes with the images, their labels, groups, names and order, with the frame, and with whatever turns a
    file into pixels: `core.images` itself and the Pillow that it calls. A stale file can therefore never be found.

    Args:
        manifest: The images.
        frame: What is kept of each.
    """
    rows = zip(manifest.paths, manifest.sha256, manifest.labels.tolist(), strict=True)
    return _key(frame, [manifest.fingerprint, *(f"{p} {h} {y}" for p, h, y in rows)])


def _key(frame: Frame, content: Sequence[str]) -> str:
    code = hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()
    lines = [_FORMAT, PIL.__version__, code, str(frame.size), frame.framing, *content]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def decode_in_order(files: Sequence[Path], frame: Frame) -> Iterator[UInt8Array]:
    """Decodes on all cores (Pillow lets go of the GIL) and yields in the order of `files`.

    Raises:
        InputError: A file cannot be decoded; raised when its turn comes.
    """
    for decoded in _decoded(files, frame):
        yield decoded.result()


def decode_files(files: Sequence[Path], frame: Frame) -> UInt8Array:
    """Decodes all of some files into memory, uint8 (N, S, S, 3).

    Raises:
        InputError: Some cannot be decoded; all of them are named.
    """
    pixels, bad = np.empty((len(files), frame.size, frame.size, 3), np.uint8), list[Path]()
    with cli.progress("decoding images", len(files)) as bar:
        for place, decoded in enumerate(_decoded(files, frame)):
            if isinstance(decoded.exception(), InputError):
                bad.append(files[place])
            else:
                pixels[place] = decoded.result()
            bar.advance()
    if bad:
        refuse_unreadable(bad, among=len(files))
        images.load_image(bad[0], frame)  # it may have come back, or tells itself what inspecting doesn't see
        raise InputError(f"An image must stay readable, but {bad[0]} was not for a moment. Repeat the command.")
    return pixels


def _decoded(files: Sequence[Path], frame: Frame) -> Iterator["Future[UInt8Array]"]:
    """What each file gives, in their order; a few are decoded ahead."""
    cores = available_cores()
    waiting = iter(files)
    with ThreadPoolExecutor(cores) as pool:
        running: deque[Future[UInt8Array]] = deque()
        running.extend(pool.submit(images.load_image, file, frame) for file in islice(waiting, 2 * cores))
        try:
            while running:
                decoded = running.popleft()
                decoded.exception()  # waits
                yield decoded
                running.extend(pool.submit(images.load_image, file, frame) for file in islice(waiting, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def ensure_array(manifest: Manifest, frame: Frame) -> Path:
    """The ``.npy`` of all images in the cache, written on the first call; a damaged one again.

    Raises:
        InputError: An image cannot be decoded, or the cache cannot hold the file.
    """
    path = array_path(manifest, frame)
    return _ensure(path, lambda path: write_array(manifest, frame, path))


def array_path(manifest: Manifest, frame: Frame) -> Path:
    """Where the array of a manifest lies in the cache, once it is written."""
    return _place(pixels_key(manifest, frame))


def ensure_array_of_files(files: Sequence[Path], sha256: Sequence[str], frame: Frame) -> Path:
    """As `ensure_array`, of images that no manifest lists.

    Args:
        files: Where they are.
        sha256: Hash of each file's bytes, by which the array is found again wherever they lie.
        frame: What is kept of each.

    Raises:
        InputError: An image cannot be decoded, or the cache cannot hold the file.
    """
    return _ensure(_place(_key(frame, ["files", *sha256])), lambda path: _write(files, frame, path))


def _place(key: str) -> Path:
    return cache_folder("pixels") / f"pixels-{key}.npy"


def _ensure(path: Path, write: Callable[[Path], None]) -> Path:
    """An array in the cache, written by whoever asks first."""
    with one_writer(path):
        if find_array(path) is None:
            write(path)
    return path


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Lets processes that want the same file wait for the one that writes it, instead of decoding all images too.

    What one that was killed has left of it goes: it would be found by nobody, and may be gigabytes.
    """
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.info("another process is decoding the images; waiting for %s", path)
        lock.acquire()
    try:
        remove_leftovers_of(path)
        yield
    finally:
        lock.release()


def write_array(manifest: Manifest, frame: Frame, path: Path) -> None:
    """Decodes all images into `path`, uint8 (N, S, S, 3), aside and renamed.

    Raises:
        InputError: An image cannot be decoded, or the folder cannot hold the file.
    """
    _write([manifest.file(row) for row in range(len(manifest))], frame, path)


def _write(files: Sequence[Path], frame: Frame, path: Path) -> None:
    size = frame.size
    with writing_pixels(path, len(files), size) as aside, cli.progress("decoding images", len(files)) as bar:
        with aside.open("wb") as out:
            # Plain writes, not a writable memory map: a full disk is an OSError here and a fatal SIGBUS there.
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
            np.lib.format.write_array_header_1_0(out, header)
            for image in decode_in_order(files, frame):
                out.write(image.tobytes())
                bar.advance()


def read_array(path: Path) -> UInt8Array:
    """The memory-mapped pixels of a file that `write_array` made, uint8 (N, S, S, 3).

    Raises:
        InputError: The file is cut or damaged.
    """
    try:
        pixels = read_npy(path, mapped=True)
    except NpyError as error:
        raise damaged(path, str(error)) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise damaged(path, f"it holds {pixels.dtype} of shape {pixels.shape}")
    return pixels


def find_array(path: Path) -> UInt8Array | None:
    """What `read_array` reads, if the file is there and whole."""
    if not path.exists():
        return None
    try:
        return read_array(path)
    except InputError as error:
        _log.warning("%s It is written again now.", error)
        return None


def damaged(path: Path, why: str) -> InputError:
    """What to say of a file of pixels that cannot be trusted."""
    return InputError(f"`{path}` must be a whole file of pixels, but got a damaged one ({why}). Delete it.")


@contextmanager
def writing_pixels(path: Path, count: int, size: int) -> Iterator[Path]:
    """Yields a temporary path that becomes `path`; a lack of room or of rights is told in one sentence.

    Args:
        path: Where the file shall be.
        count: Images it will hold.
        size: Side of a stored image, pixels.

    Raises:
        InputError: The folder cannot hold the file, now or once it is half written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed, free = count * size * size * 3 + _HEADER_ALLOWANCE, shutil.disk_usage(path.parent).free
        if needed > free:
            raise InputError(
                f"`{path.parent}` must have room for {needed / 1e9:.2f} GB of decoded pixels, but got "
                f"{free / 1e9:.2f} GB free. Make room, or set DERMATUNE_CACHE to a folder on another disk."
            )
        with written_aside(path) as aside:
            yield aside
    except OSError as error:
        raise InputError(
            f"`{path}` must be writable, but got {error.strerror or error}. Make room or give rights there, "
            "or set DERMATUNE_CACHE to another folder."
        ) from error
    _log.info("wrote %s: %s images of %d² pixels", path.name, f"{count:,}", size)
