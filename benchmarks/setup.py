"""What the benchmarks of training and of searching have in common: images of which some are taken, and a trainer."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.archs import Arch, resolve_arch
from core.config import TrainConfig
from core.dataspec import DataSpec
from core.framing import Framing
from core.manifest import Manifest
from core.seeds import AUGMENT, Rows, derive_seed
from core.splits import Split
from core.weights import Weights, resolve_weights

if TYPE_CHECKING:
    import torch

    from core.activations import Activations
    from core.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One backbone on some images, split as a search would split them.

    Attributes:
        arch: The backbone, with the image size in force.
        weights: Its first weights.
        manifest: All images.
        split: Their parts; train and validation cut down to what was asked for.
        seed: Of split, choice, first weights and order.
    """

    arch: Arch
    weights: Weights
    manifest: Manifest
    split: Split
    seed: int

    @property
    def rows(self) -> Rows:
        """The rows that are trained on and validated on, sorted."""
        return np.sort(np.concatenate([self.split.train, self.split.val]))

    def fixed(self, epochs: int) -> dict[str, object]:
        """The fields of `TrainConfig` that no trial varies, as `python -m search.run` sets them."""
        return {
            "arch": self.arch.timm_name,
            "image_size": self.arch.image_size,
            "epochs": epochs,
            "warmup_epochs": min(0.5, epochs / 2),
            "seed": self.seed,
            "augment_seed": derive_seed(self.seed, AUGMENT),
        }

    def provenance(self, device: "torch.device") -> dict[str, Any]:
        """What runs of this task must share to be compared, besides their settings."""
        import torch

        from core.device import describe_device

        return {
            "data": f"{self.manifest.layout}, fingerprint {self.manifest.fingerprint}",
            "arch": self.arch.timm_name,
            "image_size": self.arch.image_size,
            "framing": self.arch.framing,
            "weights": f"{self.weights.origin}, hash {self.weights.hash}",
            "device": describe_device(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def config(self, epochs: int, **values: object) -> TrainConfig:
        """A config of this task."""
        return TrainConfig.from_dict({**self.fixed(epochs), **values})


def open_task(
    data: DataSpec,
    arch: str,
    *,
    image_size: int | None = None,
    framing: Framing = "whole",
    weights: str = "auto",
    train_images: int | None = None,
    val_images: int | None = None,
    seed: int = 0,
) -> Task:
    """Reads the images and takes random ones of each part, never of the test.

    Args:
        data: Where the images are.
        arch: As `--arch`.
        image_size: As `--image-size`; None for the backbone's own.
        framing: As `--framing`.
        weights: As `--weights`.
        train_images: Training images to take; None for all.
        val_images: Validation images likewise.
        seed: As `Task.seed`.

    Raises:
        InputError: Something is unknown, missing or unreadable, or the weights know images of a sealed part.
    """
    from core.datasets import load_manifest
    from core.splits import split_manifest
    from core.unlabelled import held_out_rows, refuse_weights_that_know

    resolved = dataclasses.replace(resolve_arch(arch), framing=framing)
    if image_size is not None:
        resolved = dataclasses.replace(resolved, image_size=image_size)
    manifest = load_manifest(data)
    split = split_manifest(manifest, seed=seed)
    chosen = dataclasses.replace(
        split, train=_some(split.train, train_images, seed), val=_some(split.val, val_images, seed)
    )
    first = resolve_weights(weights, resolved)
    refuse_weights_that_know(first, manifest, held_out_rows(split))
    return Task(arch=resolved, weights=first, manifest=manifest, split=chosen, seed=seed)


def _some(rows: Rows, count: int | None, seed: int) -> Rows:
    if count is None or count >= len(rows):
        return rows
    return np.sort(np.random.default_rng(derive_seed(seed, count)).choice(rows, count, replace=False))


def write_table(task: Task, folder: Path) -> Path:
    """Lists the images of a task, their parts as official ones, for `--data`; the test part is listed and stays closed.

    Args:
        task: What to list.
        folder: Where the table goes, and links to the images.
    """
    from core.layouts.cleaned import CleanedRow, write_cleaned

    manifest, file = task.manifest, folder / "images.csv"
    for number, root in enumerate(manifest.roots):  # a table lies above its images
        if not (link := folder / f"images-{number}").exists():
            link.symlink_to(root)
    parts = {"train": task.split.train, "val": task.split.val, "test": task.split.test}
    rows = []
    for part, chosen in parts.items():
        for row in chosen.tolist():
            path = manifest.file(row)
            number = next(n for n, root in enumerate(manifest.roots) if path.is_relative_to(root))
            rows.append(
                CleanedRow(
                    file=folder / f"images-{number}" / path.relative_to(manifest.roots[number]),
                    label=manifest.classes[manifest.labels[row]],
                    group=manifest.groups[row],
                    split=part,
                    sha256=manifest.sha256[row],
                )
            )
    write_cleaned(file, rows)
    return file


def open_trainer(
    task: Task,
    device: "torch.device",
    *,
    activations: "Activations | None",
    source: str = "auto",
) -> "Trainer":
    """What runs configs of a task; its source, of a kind of `--source`, is open until `trainer.data.source.close()`."""
    from core.loaders import open_source
    from core.trainer import TrainData, Trainer

    opened = open_source(task.manifest, frame=task.arch.frame, rows=task.rows, device=device, kind=source)
    return Trainer(
        arch=task.arch,
        weights=task.weights,
        data=TrainData.of(task.manifest, task.split, opened),
        device=device,
        seed=task.seed,
        activations=activations,
    )


def activations_in(folder: Path, device: "torch.device", *, gigabytes: float) -> "Activations":
    """A place for remembered activations on disk that holds nothing else."""
    from core.activations import open_activations

    folder.mkdir(parents=True, exist_ok=True)
    on_device = 0 if device.type == "cpu" else int(gigabytes * 1e9)
    return open_activations(device=device, memory=on_device, disk=int(gigabytes * 1e9), folder=folder)
