"""FFCV on the files' own JPEG bytes, and its ceilings: bare loops on all cores without any loader."""

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.loading_plan import Epoch, Plan, view_of
from core.errors import InputError

if TYPE_CHECKING:
    import torch

# Of FFCV's JPEG path, which keeps every decoded image of the batches under way: 0.98 of its ceiling with 32 images at
# once on two cores, 0.67 with 128, whose buffers leave the cache (200x150 files; 0.99 and 0.93 with 600x450).
JPEG_BATCH_PER_CORE, JPEG_AHEAD = 16, 1
_JPEG_MODE = 0  # FFCV's number for JPEG samples


def open_ffcv_jpeg(plan: Plan, at_end: ExitStack) -> Epoch:
    """FFCV as its user would have it, on a beton of the files' own bytes."""
    import_ffcv()
    import torch
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToDevice, ToTensor, ToTorchImage

    from core.device import available_cores

    device, side, cores = torch.device(plan.device), plan.stored_size, available_cores()
    batch_size = min(JPEG_BATCH_PER_CORE * cores, len(plan.order))
    path = plan.folder / "jpeg.beton"
    write_jpeg_beton(path, [plan.manifest.file(row) for row in range(len(plan.manifest))])
    to_device = [ToDevice(device, non_blocking=False)] if device.type == "cuda" else []
    loader = Loader(
        str(path),
        batch_size=batch_size,
        num_workers=cores,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        indices=plan.order.astype("uint64"),
        drop_last=False,
        batches_ahead=JPEG_AHEAD,
        pipelines={"image": [CenterCropRGBImageDecoder((side, side), 1), ToTensor(), *to_device, ToTorchImage()]},
    )
    view = view_of(plan)

    def epoch() -> "Iterator[torch.Tensor]":
        rows = torch.from_numpy(plan.order).to(device).split(batch_size)  # type: ignore[no-untyped-call]
        for (images,), part in zip(loader, rows, strict=True):
            yield view(images, part)

    return epoch


def import_ffcv() -> None:
    """Imports FFCV by way of `core.beton`, which gives it threads that can be trusted.

    Raises:
        InputError: It cannot be imported.
    """
    from core.beton import HAVE_FFCV

    if not HAVE_FFCV:
        raise InputError("`benchmarks.loading` must have ffcv, but it cannot be imported here. Install it with make.")


def open_loop(plan: Plan, at_end: ExitStack, *, resize: bool) -> Epoch:
    """A ceiling: what FFCV calls for a JPEG, for one image after the other, on all cores, from memory to memory."""
    import numpy as np
    import torch

    from core.device import available_cores

    cores, side = available_cores(), plan.stored_size
    loop = compile_loop(cores, resize=resize)
    jpegs = [read_jpeg(file) for file in plan.files]
    content = np.frombuffer(b"".join(jpeg.content for jpeg in jpegs), dtype=np.uint8)
    lengths = np.array([len(jpeg.content) for jpeg in jpegs])
    shapes = np.array([(jpeg.height, jpeg.width) for jpeg in jpegs], dtype=np.uint32)
    decoded = np.empty((cores, 3 * int(shapes.prod(1).max())), dtype=np.uint8)
    resized = np.empty((cores, side, side, 3), dtype=np.uint8)

    def epoch() -> "Iterator[torch.Tensor]":
        means = np.full(len(jpegs), np.nan, dtype=np.float32)
        loop(content, lengths.cumsum() - lengths, lengths, shapes, decoded, resized, means)
        yield torch.from_numpy(means)[:, None, None, None]

    return epoch


def compile_loop(cores: int, *, resize: bool) -> Any:
    """The loop of `open_loop`, compiled as FFCV compiles its own; one buffer a core, as nobody keeps the pixels."""
    import_ffcv()
    from ffcv.fields.rgb_image import get_center_crop
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.compiler import Compiler

    Compiler.set_num_threads(cores)
    on_all_cores = Compiler.get_iterator()
    decode_c, resize_c, crop_c = (Compiler.compile(function) for function in (imdecode, resize_crop, get_center_crop))

    def loop(content: Any, starts: Any, lengths: Any, shapes: Any, decoded: Any, resized: Any, means: Any) -> None:
        for core in on_all_cores(len(decoded)):
            for image in range(core, len(starts), len(decoded)):
                height, width = shapes[image]
                jpeg = content[starts[image] : starts[image] + lengths[image]]
                pixels = decoded[core][: 3 * height * width].reshape(height, width, 3)
                decode_c(jpeg, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                if resize:
                    i, j, h, w = crop_c(height, width, 0, 1)
                    resize_c(pixels, i, i + h, j, j + w, resized[core])
                    pixels = resized[core]
                means[image] = pixels[len(pixels) // 2].mean()

    compiled: Any = loop
    compiled.is_parallel = True
    return Compiler.compile(compiled)


class Jpeg(NamedTuple):
    """A file's bytes and what its header says."""

    content: bytes
    width: int
    height: int


def read_jpeg(file: Path) -> Jpeg:
    """Reads a file without decoding it.

    Raises:
        InputError: It is no JPEG that FFCV could decode.
    """
    from PIL import Image

    content = file.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            kind = f"{image.format}, {image.mode}"
            raise InputError(f"`--data` must hold colour or grey JPEG files, but got {file} ({kind}). Leave it out.")
        return Jpeg(content, image.width, image.height)


def write_jpeg_beton(path: Path, files: Sequence[Path]) -> None:
    """Writes files as they are, in the order given: FFCV's own writer would compress their pixels once more."""
    import numpy as np
    from ffcv.fields import RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter

    longest = max(file.stat().st_size for file in files)
    page = max(8 << 20, 1 << longest.bit_length())  # FFCV's default; no sample crosses pages
    writer = DatasetWriter(str(path), {"image": RGBImageField(write_mode="jpg")}, page_size=page, num_workers=1)
    writer.num_samples = len(files)
    writer.prepare()
    try:
        metadata = np.zeros(len(files), dtype=writer.metadata_type)
        allocator = MemoryAllocator(str(path), writer.data_region_start, page)
        with allocator:
            for row, jpeg in enumerate(map(read_jpeg, files)):
                allocator.set_current_sample(row)
                pointer, storage = allocator.malloc(len(jpeg.content))
                storage[:] = np.frombuffer(jpeg.content, dtype=np.uint8)
                metadata["f0"][row] = (_JPEG_MODE, jpeg.width, jpeg.height, pointer)
        writer.metadata_sm.buf[: metadata.nbytes] = metadata.tobytes()
        writer.finalize(allocator.allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()
