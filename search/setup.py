"""From a command line's settings to a study that is ready to run, or a refusal that says what to change."""

import dataclasses
import logging
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from core.activations import open_activations
from core.archs import Arch, resolve_arch
from core.artifacts import StudiesFolder, StudyFolder
from core.backbones import build_classifier
from core.budget import Budget
from core.cache import cache_folder
from core.cli import write
from core.config import TrainConfig
from core.datasets import load_manifest
from core.dataspec import DataSpec
from core.demo import VERSION, write_demo
from core.device import free_memory
from core.disk_tier import room_for_activations
from core.errors import InputError
from core.loaders import open_source
from core.manifest import Manifest
from core.pixels import pixels_key
from core.seeds import AUGMENT, SAMPLER, derive_seed
from core.shapes import find_misfit
from core.splits import Split, joined_groups, split_manifest
from core.trainer import TrainData, Trainer
from core.versions import installed_versions
from core.weights import Weights, resolve_weights
from search.space import Space, build_space

DEMO_IMAGES = 600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for; see `python -m search.run --help`."""

    arch: str
    data: DataSpec
    studies: StudiesFolder
    study: str | None
    epochs: int
    image_size: int | None
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A study that is ready to run.

    Attributes:
        settings: What the user asked for.
        arch: The backbone, with the image size in force.
        manifest: All rows.
        data: Where they are.
        split: Their parts.
        weights: First weights.
        space: What the study searches.
        folder: Where the study lies.
    """

    settings: Settings
    arch: Arch
    manifest: Manifest
    data: DataSpec
    split: Split
    weights: Weights
    space: Space
    folder: StudyFolder

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

    def sampler_seed(self, number: int) -> int:
        """Seed of the sampler for a trial; 32 bits, as NumPy's older generators take no more."""
        return derive_seed(self.settings.seed, SAMPLER, number) % 2**32

    def open_trainer(self) -> Trainer:
        """Decodes or opens the pixels and builds the model. The test rows' pixels stay closed."""
        rows = np.concatenate([self.split.train, self.split.val])
        settings, device = self.settings, self.settings.device
        memory, folder = settings.memory.of(free_memory(device)), cache_folder("activations")
        disk = settings.disk.of(room_for_activations(folder))
        source = open_source(
            self.manifest,
            image_size=self.arch.image_size,
            rows=np.sort(rows),
            device=device,
            kind=settings.source,
            memory=memory,
        )
        data = TrainData(
            source=source,
            labels=self.manifest.labels,
            train_rows=self.split.train,
            val_rows=self.split.val,
            classes=self.manifest.classes,
            pixels=pixels_key(self.manifest, source.stored_size),
        )
        return Trainer(
            arch=self.arch,
            weights=self.weights,
            data=data,
            device=device,
            seed=settings.seed,
            activations=open_activations(device=device, memory=max(0, memory - source.held), disk=disk, folder=folder),
        )


def prepare(settings: Settings) -> Setup:
    """Resolves names, data, split, weights and space; writes nothing into the studies folder.

    Raises:
        InputError: Something is unknown, missing or unreadable.
    """
    arch = resolve_arch(settings.arch)
    if settings.image_size is not None:
        arch = dataclasses.replace(arch, image_size=settings.image_size)
    data = locate_data(settings.data)
    manifest = load_manifest(data)
    split = split_manifest(manifest, seed=settings.seed)
    if len(split.left_out):
        _log.warning(
            "%s images are left out: their lesions are in a stricter official part", f"{len(split.left_out):,}"
        )
    folder = settings.studies.study(settings.study or ("demo-" if manifest.demo else "") + settings.arch)
    weights = find_weights(settings, arch, folder)
    model = build_classifier(arch, num_classes=len(manifest.classes), weights=weights, seed=settings.seed)
    space = build_space(arch.timm_name, model.max_unfreeze_depth, pretrained=bool(weights.state))
    return Setup(
        settings=settings,
        arch=arch,
        manifest=manifest,
        data=data,
        split=split,
        weights=weights,
        space=space,
        folder=folder,
    )


def start_or_continue(setup: Setup, study: optuna.Study) -> None:
    """Writes what the study is, or checks that it is still the same. Only for the holder of the study's lock.

    A study that never got to a trial, as its cache was full or a word was wrong, is free to become another.

    Raises:
        InputError: The study was started with something else, or its folder and Optuna's journal disagree.
    """
    folder, weights = setup.folder, setup.weights
    known = {trial.number for trial in study.get_trials(deepcopy=False)}
    records = folder.read_trials()
    if {record.number for record in records} - known or (known and not folder.exists):
        raise InputError(
            f"The folder of a study and Optuna's journal must hold the same trials, but those of {folder.name} differ. "
            "Restore what was removed, or start another study with --study NAME."
        )
    if bad := [record.folder for record in records if not set(setup.space.distributions) <= set(record.config)]:
        raise InputError(f"{bad[0]} must hold the config of a trial, but its config.json lacks parts. Restore it.")
    rows = split_rows(setup.manifest, setup.split)
    if folder.exists and known:
        refuse_differences(folder.read_study(), describe_study(setup), folder.name)
        # The order of every array of probabilities, and what each row's views and batches hang on.
        if folder.read_split() != rows:
            raise InputError(
                f"The images of {folder.name} must have the names and the order that its split.csv lists, but they "
                "differ. Put them where they lay, or start another study with --study NAME."
            )
        return
    weights_file = setup.settings.studies.weights_file(weights.hash)
    if weights.state and not weights_file.is_file():
        weights.save(weights_file)
    folder.write_study(describe_study(setup), rows)


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


def find_weights(settings: Settings, arch: Arch, folder: StudyFolder) -> Weights:
    """The study's own weights once it has been started, so that a vanished hub changes nothing; else others."""
    if settings.weights == "auto" and folder.exists:
        study = folder.read_study()
        if misfit := find_misfit(study, {"weights": {"hash": str, "spec": str}, "arch": {"timm_name": str}}):
            raise InputError(f"{folder.root / 'study.json'} must tell of its weights, but {misfit}. Restore it.")
        stored = study["weights"]
        if study["arch"]["timm_name"] != arch.timm_name:  # refused later, if it has trials
            return resolve_weights(settings.weights, arch)
        if stored["spec"] == "none":
            return resolve_weights("none", arch)
        file = settings.studies.weights_file(stored["hash"])
        if file.is_file():
            return Weights.load(file)
    return resolve_weights(settings.weights, arch)


def describe_study(setup: Setup) -> dict[str, Any]:
    """What `study.json` says."""
    manifest, split, settings = setup.manifest, setup.split, setup.settings
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {
        "name": setup.folder.name,
        "arch": dataclasses.asdict(setup.arch),
        "demo": manifest.demo,
        "data": {
            "root": manifest.where,
            **setup.data.to_dict(),
            "layout": manifest.layout,
            "fingerprint": manifest.fingerprint,
            "classes": list(manifest.classes),
            "images": len(manifest),
            "groups": len(set(manifest.groups)),
            "grouped": manifest.grouped,
        },
        "split": {"seed": split.seed} | {name: manifest.fingerprint_of(rows) for name, rows in parts.items()},
        "space": {"hash": setup.space.fingerprint(), "parameters": setup.space.describe()},
        "weights": {
            "hash": setup.weights.hash,
            "origin": setup.weights.origin,
            "license": setup.weights.license,
            "spec": settings.weights if setup.weights.state else "none",
        },
        "epochs": settings.epochs,
        "patience": settings.patience,
        "views": settings.views,
        "augment_seed": setup.fixed["augment_seed"],
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "versions": installed_versions(),
        "command": shlex.join(["python", "-m", "search.run", *sys.argv[1:]]),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def split_rows(manifest: Manifest, split: Split) -> list[dict[str, str]]:
    """The rows of `split.csv`, in the manifest's order."""
    lesions = lesion_names(manifest)
    parts = {"train": split.train, "val": split.val, "test": split.test, "left out": split.left_out}
    part_of_row = {int(row): part for part, rows in parts.items() for row in rows}
    return [
        {
            "image": manifest.paths[row],
            "label": manifest.classes[manifest.labels[row]],
            "group": lesions[row],
            "split": part_of_row[row],
        }
        for row in range(len(manifest))
    ]


def lesion_names(manifest: Manifest) -> list[str]:
    """The lesion of each row; lesions that are joined as near-duplicates go by the first one's name."""
    joined_N = joined_groups(manifest)
    first: dict[int, str] = {}
    for group, name in sorted(zip(joined_N.tolist(), manifest.groups, strict=True)):
        first.setdefault(group, name)
    return [first[group] for group in joined_N.tolist()]


def refuse_differences(study: dict[str, Any], now: dict[str, Any], name: str) -> None:
    """Compares everything that makes trials comparable.

    Raises:
        InputError: Something differs; it says what, and how to start another study.
    """
    try:
        facts = [_identity(study), _identity(now)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The study.json of {name} must be whole, but is damaged ({error}). Restore it.") from error
    pairs = [(what, facts[0][what], facts[1][what]) for what in facts[0]]
    if differing := [f"{what} (was {was[1]}, now {is_[1]})" for what, was, is_ in pairs if was[0] != is_[0]]:
        raise InputError(
            f"The study {name} must be continued with what it was started with, but these differ: "
            f"{'; '.join(differing)}. Give what it was started with, or start another study with --study NAME."
        )


def _identity(study: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """What makes trials comparable: to compare, and in words."""
    data, split, weights = study["data"], study["split"], study["weights"]
    return {
        "architecture": (study["arch"]["timm_name"], study["arch"]["timm_name"]),
        "image size": (study["arch"]["image_size"], str(study["arch"]["image_size"])),
        "data": (data["fingerprint"], f"{data['images']:,} images with fingerprint {data['fingerprint'][:8]}"),
        "split": ((split["train"], split["val"], split["test"]), f"seed {split['seed']}"),
        "space": (study["space"]["hash"], study["space"]["hash"][:8]),
        "weights": (weights["hash"], f"{weights['origin']}, hash {weights['hash'][:8]}"),
        "epochs": (study["epochs"], str(study["epochs"])),
        "patience": (study["patience"], str(study["patience"])),
        "views": (_views(study), _views(study) or "one an epoch"),
    }


def _views(study: dict[str, Any]) -> str:
    """How many views of an image there are, if not as many as epochs; studies of before there were views had these."""
    views = study.get("views", study["epochs"])
    return "" if views == study["epochs"] else str(views)
