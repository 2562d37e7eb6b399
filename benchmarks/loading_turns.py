"""The contestants of benchmarks.loading, and what runs in the process that each of them has of its own."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.ffcv_jpeg import import_ffcv, open_ffcv_jpeg, open_loop
from benchmarks.loading_plan import MEAN, STD, Epoch, Opener, Plan, view_of
from benchmarks.reporting import peak_memory_gb

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 128  # that of evaluation
LEAST_S = 1.0  # of a measurement: faster epochs are repeated
RAW, JPEG, RESIDENT, PLAIN = "ffcv raw", "ffcv jpeg", "resident", "plain"
TURBO, BARE = "libjpeg-turbo alone", "ffcv jpeg, bare loop"


class Measurement(NamedTuple):
    """One contestant's turn."""

    images: int
    elapsed_s: float
    cpu_s: float  # of the process and its workers
    peak_gb: float  # resident, of the process, and what its workers have now
    mean: float  # of the pixels that were touched


# In the contestant's process -----------------------------------------------------------------------------------------

_epochs: list[Epoch] = []
_at_end = ExitStack()


def open_contestant(opener: Opener, plan: Plan) -> None:
    """Opens a contestant and runs its first epoch: compiling, starting workers, reading cold files."""
    import torch

    from core.device import keep_freed_memory

    keep_freed_memory(torch.device(plan.device))  # as in training
    _epochs.append(opener(plan, _at_end))
    _run_epoch(_epochs[0])


def take_turn(images: int, device: str) -> Measurement:
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


def close_contestant() -> None:
    """Closes what the contestant has opened."""
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
        open_source(plan.manifest, frame=plan.frame, rows=plan.order, device=device, kind=kind)
    )
    view = view_of(plan)

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
