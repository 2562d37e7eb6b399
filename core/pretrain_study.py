"""The study that a pre-training is for: whose sealed lesions are left out, whose labels tell how it comes along."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from core.archs import Arch
from core.cli import write
from core.datasets import load_manifest
from core.dataspec import DataSpec
from core.errors import InputError
from core.loaders import open_files
from core.manifest import Manifest
from core.pretrain_data import Labelled
from core.seeds import NEIGHBOURS, derive_seed
from core.splits import Split, joined_groups, split_manifest
from core.unlabelled import Unlabelled, held_out_rows, leave_out

_WATCHED = 2000  # labelled images by which embeddings are watched; a look at them takes seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What is known of a study.

    Attributes:
        manifest: Its labelled images.
        split: Their parts.
    """

    manifest: Manifest
    split: Split

    def leave_out(self, images: Unlabelled) -> Unlabelled:
        """The images that show none of its validation and test lesions; how many do is printed."""
        left, told = leave_out(images, self.manifest, held_out_rows(self.split))
        write(told)
        return left

    def open_labelled(self, arch: Arch, device: torch.device) -> Labelled:
        """Some of its training images; their source is open until it is closed."""
        rng = np.random.default_rng(derive_seed(self.split.seed, NEIGHBOURS))
        rows = np.sort(rng.permutation(self.split.train)[:_WATCHED])
        files = [self.manifest.file(row) for row in rows.tolist()]
        return Labelled(
            source=open_files(files, image_size=arch.image_size, device=device),
            labels=self.manifest.labels[rows],
            groups=joined_groups(self.manifest)[rows],
            num_classes=len(self.manifest.classes),
        )


def find_study(spec: DataSpec, *, seed: int, must_be: bool) -> Study | None:
    """Reads and splits labelled images as a search would.

    Args:
        spec: Where they are.
        seed: Of the split.
        must_be: The user says that these are a study's data.

    Returns:
        None if they need not be and aren't, which is said loudly.

    Raises:
        InputError: They must be and aren't.
    """
    try:
        manifest = load_manifest(spec)
        return Study(manifest=manifest, split=split_manifest(manifest, seed=seed))
    except InputError as error:
        if must_be:
            raise
        _log.warning("no lesions are left out, as no study's data are known; --labelled PLACE names them (%s)", error)
        return None
