"""What both sides of benchmarks.search are given, and the processes that they run in."""

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.dataspec import DataSpec
from core.framing import Framing

if TYPE_CHECKING:
    from benchmarks.setup import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What both sides are given.

    Attributes:
        data: Where the images are.
        arch: The backbone.
        image_size: Pixels; None for the backbone's own.
        framing: What of a photo both sides see.
        weights: As `--weights`.
        images: Training and validation images to take, random ones; None for all.
        epochs: Of a trial.
        search_size: Pixels that our search is given as `--search-size`; None for none.
        search_workers: Processes that our search is given as `--workers`.
        workers: Processes that decode for the plain side.
        device: Name of the device.
        folder: Where a side may keep files.
    """

    data: DataSpec
    arch: str
    image_size: int | None
    framing: Framing
    weights: str
    images: tuple[int | None, int | None]
    epochs: int
    search_size: int | None
    search_workers: int
    workers: int
    device: str
    folder: Path

    def task(self) -> "Task":
        """The same in every process."""
        from benchmarks.setup import open_task

        return open_task(
            self.data,
            self.arch,
            image_size=self.image_size,
            framing=self.framing,
            weights=self.weights,
            train_images=self.images[0],
            val_images=self.images[1],
        )


STATE: dict[str, Any] = {}  # of the process that runs a side


@contextmanager
def process_of(opener: Callable[[Plan], None], plan: Plan) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(opener, plan).result()
        yield pool


def open_ours(plan: Plan) -> None:
    from benchmarks.setup import activations_in, open_trainer
    from core.device import resolve_device

    task, device = plan.task(), resolve_device(plan.device)
    activations = activations_in(plan.folder / "activations", device, gigabytes=40)
    STATE.update(plan=plan, task=task, trainer=open_trainer(task, device, activations=activations))


def open_plain(plan: Plan, *, reflect: bool = False) -> None:
    from benchmarks.plain_search import PlainTrainer
    from core.device import resolve_device

    task = plan.task()
    trainer = PlainTrainer(task, resolve_device(plan.device), workers=plan.workers, reflect=reflect)
    STATE.update(plan=plan, task=task, trainer=trainer)
