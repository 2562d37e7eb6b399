"""From a command line's settings to a study that is ready to run, or a refusal that says what to change."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.archs import SMALLEST_SIZE, Arch, resolve_arch
from core.artifacts import StudiesFolder, StudyFolder
from core.backbones import build_classifier
from core.budget import Budget
from core.cache import cache_folder
from core.classifier import Classifier
from core.cli import write
from core.config import TrainConfig
from core.datasets import load_manifest
from core.dataspec import DataSpec
from core.demo import VERSION, write_demo
from core.errors import InputError
from core.framing import Framing
from core.manifest import Manifest
from core.seeds import AUGMENT, SAMPLER, derive_seed
from core.splits import Split, split_manifest
from core.trainer import CHECKPOINT_SHARE, TrainData, Trainer
from core.unlabelled import Unlabelled, find_unlabelled, held_out_rows, leave_out, refuse_weights_that_know
from core.uses import least_depth
from core.weights import Weights
from search.leases import Leases
from search.resources import Resources
from search.settled import find_framing, find_weights
from search.space import Space, build_space, with_unlabelled
from search.storage import open_leases

DEMO_IMAGES = 600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for; see `python -m search.run --help`."""

    arch: str
    data: DataSpec
    studies: StudiesFolder
    database: str
    study: str | None
    epochs: int
    image_size: int | None
    search_size: int | None
    weights: str
    seed: int
    sampler: str
    pruner: str
    device: torch.device
    source: str
    patience: int
    memory: Budget
    disk: Budget
    views: int
    workers: int
    backend: str
    scheduler: str
    grace_s: float
    tune: tuple[str, ...] = ()
    unlabelled: Path | None = None
    framing: Framing | None = None

    @property
    def resources(self) -> Resources:
        """Where to compute, and what may be used."""
        return Resources(device=self.device, source=self.source, memory=self.memory, disk=self.disk)


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A study that is ready to run.

    Attributes:
        settings: What the user asked for.
        arch: The backbone, with the image size and the framing in force.
        manifest: All rows.
        data: Where they are.
        split: Their parts.
        weights: First weights.
        space: What the study searches.
        folder: Where the study lies.
        unlabelled: Images without labels that trials learn from too; None learns from labelled ones alone.
        serves: Name of the study that its best trials are trained again in; empty if they stand for themselves.
    """

    settings: Settings
    arch: Arch
    manifest: Manifest
    data: DataSpec
    split: Split
    weights: Weights
    space: Space
    folder: StudyFolder
    unlabelled: Unlabelled | None = None
    serves: str = ""

    def __post_init__(self) -> None:
        # A config refuses values that break its rules: now, and not after an hour of decoding.
        TrainConfig.from_dict({**self.fixed, **self.space.known_good})

    @property
    def fixed(self) -> dict[str, Any]:
        """Fields of `TrainConfig` that no trial varies."""
        settings = self.settings
        return {
            "arch": self.arch.timm_name,
            "image_size": self.arch.image_size,
            "epochs": settings.epochs,
            "warmup_epochs": min(0.5, settings.epochs / 2),
            "patience": settings.patience,
            "seed": settings.seed,
            "augment_seed": derive_seed(settings.seed, AUGMENT),
            "views": settings.views,
        }

    @property
    def known_good(self) -> TrainConfig:
        """The config of the first trial."""
        return TrainConfig.from_dict({**self.fixed, **self.space.known_good})

    def at_search_size(self) -> "Setup":
        """The same study on small images, which finds the trials that this one trains."""
        size = self.settings.search_size
        assert size is not None, "only asked where there is one"
        arch = dataclasses.replace(self.arch, image_size=size)
        folder = self.settings.studies.study(small_name(self.folder.name, size))
        return dataclasses.replace(self, arch=arch, folder=folder, serves=self.folder.name)

    @property
    def study_name(self) -> str:
        """Name of the study that the user asked for, also while another one serves it."""
        return self.serves or self.folder.name

    def leases(self) -> Leases:
        """Who runs which trial."""
        return open_leases(self.folder, self.settings.database, grace_s=self.settings.grace_s)

    def sampler_seed(self, number: int) -> int:
        """Seed of the sampler for a trial; 32 bits, as NumPy's older generators take no more."""
        return derive_seed(self.settings.seed, SAMPLER, number) % 2**32

    def open_trainer(self) -> Trainer:
        """Decodes or opens the pixels and builds the model. The test rows' pixels stay closed."""
        settings = self.settings
        opened = settings.resources.open(self.manifest, self.arch, self.split.unsealed, self.unlabelled)
        return Trainer(
            arch=self.arch,
            weights=self.weights,
            data=TrainData.of(self.manifest, self.split, opened.source, opened.unlabelled),
            device=settings.device,
            seed=settings.seed,
            activations=opened.activations,
            checkpoint_share=CHECKPOINT_SHARE,
        )


def prepare(settings: Settings) -> Setup:
    """Resolves names, data, split, weights and space; writes nothing into the studies folder.

    Raises:
        InputError: Something is unknown, missing or unreadable.
    """
    arch = resolve_arch(settings.arch)
    if settings.image_size is not None:
        arch = dataclasses.replace(arch, image_size=settings.image_size)
    if settings.search_size is not None and not SMALLEST_SIZE <= settings.search_size < arch.image_size:
        raise InputError(
            f"`--search-size` must be at least {SMALLEST_SIZE} pixels and below the image size of {arch.image_size}, "
            f"but got --search-size {settings.search_size}. Choose half the image size, say, or leave it out."
        )
    data = locate_data(settings.data)
    manifest = load_manifest(data)
    split = split_manifest(manifest, seed=settings.seed)
    if len(split.left_out):
        _log.warning(
            "%s images are left out: their lesions are in a stricter official part", f"{len(split.left_out):,}"
        )
    name = settings.study or ("demo-" if manifest.demo else "") + settings.arch
    folder = settings.studies.study(name)
    folders = [folder]
    if settings.search_size is not None:
        folders.append(settings.studies.study(small_name(name, settings.search_size)))
    arch = dataclasses.replace(arch, framing=find_framing(settings, folders))
    weights = find_weights(settings, arch, folders)
    sealed = held_out_rows(split)
    refuse_weights_that_know(weights, manifest, sealed)
    model = build_classifier(arch, num_classes=len(manifest.classes), weights=weights, seed=settings.seed)
    space = build_space(
        arch.timm_name,
        model.max_unfreeze_depth,
        parameters=model.body_size,
        pretrained=bool(weights.state),
        tuned=find_places(settings.tune, model, arch),
    )
    if settings.search_size is not None:  # which the backbone may refuse, too
        small = dataclasses.replace(arch, image_size=settings.search_size)
        build_classifier(small, num_classes=len(manifest.classes), weights=weights, seed=settings.seed)
    unlabelled = None
    if settings.unlabelled is not None:
        found = find_unlabelled(settings.unlabelled, flag="--unlabelled", columns=data.columns)
        unlabelled, told = leave_out(found, manifest, sealed, data.columns)
        _log.info("unlabelled images: %s", told)
        space = with_unlabelled(space)
    return Setup(
        settings=settings,
        arch=arch,
        manifest=manifest,
        data=data,
        split=split,
        weights=weights,
        space=space,
        folder=folder,
        unlabelled=unlabelled,
    )


def find_places(tune: Sequence[str], model: Classifier, arch: Arch) -> dict[str, int]:
    """The fields that ``--tune`` names, each with the blocks that must learn for it to do anything.

    Raises:
        InputError: The architecture has no place for one.
    """
    places = {}
    for field in tune:
        depth = least_depth(field, model)
        if depth is None:
            raise InputError(
                f"`--tune` must name fields that {arch.timm_name} has a place for, but got {field}, and timm leaves "
                "out no residual branches of it. Leave it out, or choose another architecture."
            )
        places[field] = depth
    return places


def locate_data(data: DataSpec) -> DataSpec:
    """What was asked for, else `data/` if there is one, else the built-in demo images, said loudly."""
    if data.places:
        return data
    if Path("data").is_dir():
        return dataclasses.replace(data, places=(Path("data"),))
    if data.columns:
        raise InputError("`--data` must be given where columns are, but got none. Say which table they are of.")
    write("NO --data GIVEN AND NO FOLDER data/: using built-in DEMO images. Their results say nothing about real skin.")
    return DataSpec((write_demo(cache_folder("demo") / f"{DEMO_IMAGES}-images-{VERSION}", images=DEMO_IMAGES),))


def small_name(name: str, size: int) -> str:
    """Name of the study that searches on small images for another."""
    return f"{name}-{size}px"
