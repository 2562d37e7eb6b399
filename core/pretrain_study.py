"""The study that a pre-training is for: whose sealed lesions are left out, whose labels tell how it comes along."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from core.archs import Arch
from core.cli import write
from core.datasets import load_manifest
from core.dataspec import NO_COLUMNS, Columns, DataSpec
from core.errors import InputError, counted, few
from core.loaders import open_files
from core.manifest import Manifest
from core.pretrain_data import Labelled
from core.seeds import NEIGHBOURS, derive_seed
from core.splits import Split, joined_groups, split_manifest
from core.unlabelled import Unlabelled, held_out_rows, leave_out, refuse_weights_that_know, rows_apart
from core.weights import Weights

_WATCHED = 2000  # labelled images by which features are watched; a look at them takes seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What is known of a study.

    Attributes:
        manifest: Its labelled images.
        split: Their parts.
        columns: What the user calls the columns of their tables.
    """

    manifest: Manifest
    split: Split
    columns: Columns = NO_COLUMNS

    @cached_property
    def sealed_rows(self) -> npt.NDArray[np.int64]:
        """Rows that nothing may learn from."""
        return held_out_rows(self.split)

    def apart_from(self, images: Unlabelled) -> list[str]:
        """Hash of each image, of whatever part, whose lesion none of some images shows."""
        rows = rows_apart(images, self.manifest, self.columns)
        return [self.manifest.sha256[row] for row in rows.tolist()]

    def refuse_weights(self, weights: Weights) -> None:
        """Makes sure that first weights don't know the sealed images from an earlier pre-training.

        Raises:
            InputError: They may.
        """
        refuse_weights_that_know(weights, self.manifest, self.sealed_rows)

    def leave_out(self, images: Unlabelled) -> Unlabelled:
        """The images that show none of its validation and test lesions; how many do is printed."""
        write(
            f"study: {self.manifest.where}, {counted(len(self.manifest), 'image')} of "
            f"{counted(len(self.manifest.classes), 'class')} ({few(self.manifest.classes)})"
        )
        left, told = leave_out(images, self.manifest, self.sealed_rows, self.columns)
        write(told)
        return left

    def open_labelled(self, arch: Arch, device: torch.device) -> Labelled:
        """Some of its training images; their source is open until it is closed."""
        rng = np.random.default_rng(derive_seed(self.split.seed, NEIGHBOURS))
        rows = np.sort(rng.permutation(self.split.train)[:_WATCHED])
        files = [self.manifest.file(row) for row in rows.tolist()]
        sha256 = [self.manifest.sha256[row] for row in rows.tolist()]
        return Labelled(
            source=open_files(files, frame=arch.frame, device=device, sha256=sha256),
            labels=self.manifest.labels[rows],
            groups=joined_groups(self.manifest)[rows],
            num_classes=len(self.manifest.classes),
        )


def find_study(spec: DataSpec, *, seed: int, named: bool) -> Study:
    """Reads and splits labelled images as a search would.

    Args:
        spec: Where they are.
        seed: Of the split.
        named: Whether the user has said that these are a study's data; else it is tried whether they are.

    Raises:
        InputError: They aren't.
    """
    try:
        manifest = load_manifest(spec)
        return Study(manifest=manifest, split=split_manifest(manifest, seed=seed), columns=spec.columns)
    except InputError as error:
        if named:
            raise
        raise InputError(
            "`--labelled` must name the labelled images of the study that the weights are for, so that none of its "
            f"validation and test lesions is learned from, but got none, and --data isn't taken for them: {error}"
        ) from error
