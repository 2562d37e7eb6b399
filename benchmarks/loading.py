"""How fast images come: python -m benchmarks.loading --data D.

The same JPEG files at the same stored size from FFCV (a beton of raw pixels, which is our source, and one of the
files' own JPEG bytes), from our resident source and from torchvision's plain way in its best setting, all in random
order on all cores; once as uint8 at the stored size, once augmented and normalised at the model's size. Beside them two
ceilings, bare loops on all cores without any loader: FFCV's call of libjpeg-turbo alone, and that with FFCV's resize.
Every contestant has a process of its own, warmed up, and they take turns within each repeat. The last line is what the
resident source gives over what the plain DataLoader gives, without augmentation.

Legend: B images of a batch, S stored side in pixels.
"""

import argparse
import dataclasses
import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.reporting import add_out_argument, finish, peak_memory_gb, show, spread
from core import cli
from core.dataspec import add_data_arguments, read_data_arguments
from core.errors import InputError

if TYPE_CHECKING:
    import torch

    from core.manifest import Manifest
    from core.seeds import Rows

BATCH_SIZE = 128  # that of evaluation
# Of FFCV's JPEG path, which keeps every decoded image of the batches under way: 0.98 of its ceiling with 32 images at
# once on two cores, 0.67 with 128, whose buffers leave the cache (200x150 files; 0.99 and 0.93 with 600x450).
JPEG_BATCH_PER_CORE, JPEG_AHEAD = 16, 1
LEAST_S = 1.0  # of a measurement: faster epochs are repeated
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
RAW, JPEG, RESIDENT, PLAIN = "ffcv raw", "ffcv jpeg", "resident", "plain"
TURBO, BARE = "libjpeg-turbo alone", "ffcv jpeg, bare loop"
_JPEG_MODE = 0  # FFCV's number for JPEG samples

# Every call is an epoch: each image once, as batches that are ready to be used.
Epoch = Callable[[], "Iterator[torch.Tensor]"]


@dataclass(frozen=True)
class Plan:
    """What all contestants are given.

    Attributes:
        manifest: The images, no others.
        order: The rows as every epoch visits them.
        image_size: Side of the square that a model would see, pixels.
        device: Name of the device where batches shall be.
        augmented: Whether random views are asked for instead of the stored squares.
        folder: Where a contestant may keep files.
    """

    manifest: "Manifest"
    order: "Rows"
    image_size: int
    device: str
    augmented: bool
    folder: Path

    @property
    def stored_size(self) -> int:
        """S, pixels."""
        from core.images import stored_size

        return stored_size(self.image_size)

    @property
    def files(self) -> list[Path]:
        """The files in the order of the epoch."""
        return [self.manifest.file(row) for row in self.order]


# Gets a contestant ready in its process; what has to be closed goes onto the stack.
Opener = Callable[[Plan, ExitStack], Epoch]


class Measurement(NamedTuple):
    """One contestant's turn."""

    images: int
    elapsed_s: float
    cpu_s: float  # of the process and its workers
    peak_gb: float  # resident, of the process, and what its workers have now
    mean: float  # of the pixels that were touched


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = cli.Parser(prog="python -m benchmarks.loading", description=__doc__)
    add_data_arguments(parser, help="folder of labelled JPEG images or CSV file; repeated, they are merged")
    parser.add_argument("--images", type=cli.positive_int, default=2000, help="evenly spread (default: 2000)")
    parser.add_argument("--image-size", type=cli.positive_int, default=224, metavar="PIXELS", help="default: 224")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--device", default="auto", help="default: auto")
    add_out_argument(parser, "loading")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs both races and holds the first to the bars."""
    import numpy as np

    from core.cache import cache_folder
    from core.datasets import load_manifest
    from core.device import available_cores, resolve_device

    if not args.data:
        raise InputError("`--data` must be given, but got none. Name a folder of labelled JPEG images.")
    manifest = some_of(load_manifest(read_data_arguments(args, args.data)), args.images)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=cache_folder("loading")) as folder:
        plan = Plan(
            manifest=manifest,
            order=np.random.default_rng(0).permutation(len(manifest)).astype(np.int64),
            image_size=args.image_size,
            device=str(resolve_device(args.device)),
            augmented=False,
            folder=Path(folder),
        )
        cli.write(f"{len(manifest):,} images, stored at {plan.stored_size}², {available_cores()} cores, {plan.device}")
        for augmented in (False, True):
            rows += race(dataclasses.replace(plan, augmented=augmented), args.repeats)
    bars = judge(rows)
    write_results(rows, bars)
    about = "images per second, the resident source over the plain DataLoader at its best, without augmentation"
    finish(args.out, rows=[*rows, *bars], ratio=bars[-1]["ratio"]["median"], about=about)
    return 0 if all(bar["holds"] for bar in bars) else 1


def some_of(manifest: "Manifest", count: int) -> "Manifest":
    """At most `count` images of a manifest, evenly spread over it."""
    import numpy as np

    rows = np.linspace(0, len(manifest) - 1, min(count, len(manifest))).astype(np.int64)
    names = ("paths", "groups", "sha256", "phashes", *(["splits"] if manifest.splits else []))
    columns: dict[str, Any] = {name: tuple(getattr(manifest, name)[row] for row in rows) for name in names}
    return dataclasses.replace(manifest, labels=manifest.labels[rows], **columns)


def race(plan: Plan, repeats: int) -> list[dict[str, Any]]:
    """Lets all contestants take turns; one row of the table each."""
    from core.device import available_cores

    openers = contestants(plan.augmented)
    turns: dict[str, list[Measurement]] = {name: [] for name in openers}
    with ExitStack() as stack, cli.progress("loading images", len(openers) * (1 + repeats)) as bar:
        processes = {}
        for name, opener in openers.items():
            # Spawned, because threads of numba and OpenMP don't survive a fork.
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            processes[name] = stack.enter_context(pool)
            stack.callback(pool.submit, _close)
            pool.submit(_open, opener, plan).result()
            bar.advance()
        for _ in range(repeats):
            for name, pool in processes.items():
                turns[name].append(pool.submit(_take_turn, len(plan.order), plan.device).result())
                bar.advance()
    return [_row(name, plan, measured, available_cores()) for name, measured in turns.items()]


def _row(name: str, plan: Plan, turns: Sequence[Measurement], cores: int) -> dict[str, Any]:
    return {
        "name": name,
        "augmented": plan.augmented,
        "images": len(plan.order),
        "images_per_s": [turn.images / turn.elapsed_s for turn in turns],
        "images_per_s_and_core": spread([turn.images / turn.elapsed_s / cores for turn in turns]),
        "images_per_cpu_s": [turn.images / turn.cpu_s for turn in turns],
        "peak_memory_gb": max(turn.peak_gb for turn in turns),
        "mean": turns[-1].mean,
    }


# In the contestant's process -----------------------------------------------------------------------------------------

_epochs: list[Epoch] = []
_at_end = ExitStack()


def _open(opener: Opener, plan: Plan) -> None:
    """Opens a contestant and runs its first epoch: compiling, starting workers, reading cold files."""
    import torch

    from core.device import keep_freed_memory

    keep_freed_memory(torch.device(plan.device))  # as in training
    _epochs.append(opener(plan, _at_end))
    _run_epoch(_epochs[0])


def _take_turn(images: int, device: str) -> Measurement:
    """Runs epochs until they have taken long enough to be timed.

    Args:
        images: What an epoch must give.
        device: Where batches lie.
    """
    import torch

    seen, sums = 0, 0.0
    cpu_s, start = _cpu_s(), time.perf_counter()
    while True:
        count, mean = _run_epoch(_epochs[0])
        if count != images:
            raise RuntimeError(f"an epoch of {images} images gave {count}")
        seen, sums = seen + count, sums + mean * count
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        elapsed_s = time.perf_counter() - start
        if elapsed_s >= LEAST_S:
            return Measurement(seen, elapsed_s, _cpu_s() - cpu_s, _peak_gb(), sums / seen)


def _run_epoch(epoch: Epoch) -> tuple[int, float]:
    """Touches every image; returns how many there were and the mean of their middle rows."""
    import torch

    count, sums = 0, []
    for images in epoch():
        rows = images[:, :, images.shape[2] // 2]
        sums.append(rows.mean(dtype=torch.float32) * len(images))
        count += len(images)
    return count, float(torch.stack(sums).sum()) / count


def _close() -> None:
    _epochs.clear()
    _at_end.close()


def _cpu_s() -> float:
    """Processor time of this process and its workers, which live on between epochs."""
    import psutil

    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(float(each.user + each.system) for each in times)


def _peak_gb() -> float:
    import psutil

    workers = psutil.Process().children(recursive=True)
    return peak_memory_gb() + sum(float(worker.memory_info().rss) for worker in workers) / 1e9


# The contestants -----------------------------------------------------------------------------------------------------


def contestants(augmented: bool) -> dict[str, Opener]:
    """How each is opened, by name; the ceilings only where there is no augmentation."""
    from core.device import available_cores

    cores = available_cores()
    opened: dict[str, Opener] = {
        RAW: partial(open_ours, kind="ffcv"),
        JPEG: open_ffcv_jpeg,
        RESIDENT: partial(open_ours, kind="resident"),
    }
    for workers, prefetch in dict.fromkeys([(0, 2), ((cores + 1) // 2, 2), (cores, 2), (cores, 4)]):
        name = f"{PLAIN}, {workers} workers, prefetch {prefetch}"
        opened[name] = partial(open_plain, workers=workers, prefetch=prefetch)
    if not augmented:
        opened[TURBO] = partial(open_loop, resize=False)
        opened[BARE] = partial(open_loop, resize=True)
    return opened


def open_ours(plan: Plan, at_end: ExitStack, *, kind: str) -> Epoch:
    """A source of ours, and our augmentation of its batches."""
    import torch

    from core.loaders import open_source

    if kind == "ffcv":
        import_ffcv()
    device = torch.device(plan.device)
    source = at_end.enter_context(
        open_source(plan.manifest, image_size=plan.image_size, rows=plan.order, device=device, kind=kind)
    )
    view = _view(plan)

    def epoch() -> "Iterator[torch.Tensor]":
        for batch in source.batches(plan.order, batch_size=BATCH_SIZE):
            yield view(batch.images, batch.rows)

    return epoch


def open_plain(plan: Plan, at_end: ExitStack, *, workers: int, prefetch: int) -> Epoch:
    """torchvision's transforms in the workers of a DataLoader; only what all images share is left for the device."""
    import torch

    from benchmarks.plain import PlainImages, normalise, plain_loader

    device = torch.device(plan.device)
    # Views are made of images at the model's own size: the fewer pixels, the faster.
    size, strength = (plan.image_size, 1.0) if plan.augmented else (plan.stored_size, 0.0)
    labels = plan.manifest.labels[plan.order].tolist()
    images = PlainImages(plan.files, labels, image_size=size, augment_strength=strength)
    loader = plain_loader(
        images, batch_size=BATCH_SIZE, workers=workers, prefetch=prefetch, pin_memory=device.type == "cuda"
    )

    def epoch() -> "Iterator[torch.Tensor]":
        for batch, _ in loader:
            batch = batch.to(device, non_blocking=True)
            yield normalise(batch, MEAN, STD) if plan.augmented else batch

    return epoch


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
    view = _view(plan)

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


def _view(plan: Plan) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
    """What our batches become: augmented views, or just what they are."""
    import torch

    from core.augment import Augmenter

    if not plan.augmented:
        return lambda images, rows: images
    augmenter = Augmenter(image_size=plan.image_size, mean=MEAN, std=STD, seed=0, device=torch.device(plan.device))
    augmenter.set_strength(1.0)
    return lambda images, rows: augmenter.train_view(images, rows, 0)


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


# The verdict ---------------------------------------------------------------------------------------------------------


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holds what was measured without augmentation to the bars; the last is the one that the benchmark is about.

    Turns of one repeat are compared: what slows the machine down for a while slows both.
    """
    found = {row["name"]: row for row in rows if not row["augmented"]}
    plain = [row for name, row in found.items() if name.startswith(PLAIN)]
    best = max(plain, key=lambda row: statistics.median(row["images_per_s"]))["name"]
    bars = []
    for ours, other, least in ((RAW, best, 3.0), (JPEG, BARE, 0.9), (RESIDENT, best, 20.0)):
        ratio, cpu_ratio = (
            spread([mine / its for mine, its in zip(found[ours][unit], found[other][unit], strict=True)])
            for unit in ("images_per_s", "images_per_cpu_s")
        )
        holds = ratio["median"] >= least
        bars.append(
            {"bar": f"{ours} / {other}", "least": least, "ratio": ratio, "cpu_ratio": cpu_ratio, "holds": holds}
        )
    return bars


def write_results(rows: Sequence[dict[str, Any]], bars: Sequence[dict[str, Any]]) -> None:
    """Prints both races and the verdict."""
    for augmented in (False, True):
        title = "augmented" if augmented else "without augmentation"
        cli.write(f"\n{title:<30} {'images/s and core':>22} {'images/s of CPU time':>22} {'peak GB':>8}")
        for row in (row for row in rows if row["augmented"] == augmented):
            rate, cpu_rate = row["images_per_s_and_core"], spread(row["images_per_cpu_s"])
            cli.write(f"{row['name']:<30} {show(rate, 0):>22} {show(cpu_rate, 0):>22} {row['peak_memory_gb']:>8.2f}")
    cli.write()
    for bar in bars:
        verdict = "yes" if bar["holds"] else "no"
        beside = f"by CPU time {show(bar['cpu_ratio'])}"
        cli.write(f"{bar['bar']} ≥ {bar['least']:g}: {show(bar['ratio'])} {verdict}; {beside}")


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
