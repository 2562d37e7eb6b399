"""Where a command computes and what it may use: its arguments, and the pixels and activations that come of them."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

# torch takes seconds to import and --help must not: it comes after the parsing.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from core.activations import Activations
    from core.archs import Arch
    from core.budget import Budget
    from core.manifest import Manifest
    from core.semisupervised import UnlabelledImages
    from core.sources import BatchSource
    from core.unlabelled import Unlabelled


class Opened(NamedTuple):
    """What a command's pixels and activations come from."""

    source: "BatchSource"
    activations: "Activations"
    unlabelled: "UnlabelledImages | None"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What `add_resource_arguments` has read.

    Attributes:
        device: Where to compute.
        source: Kind of the source of pixels.
        memory: Of the device, for pixels and activations.
        disk: For remembered activations.
    """

    device: "torch.device"
    source: str
    memory: "Budget"
    disk: "Budget"

    def open(
        self,
        manifest: "Manifest",
        arch: "Arch",
        rows: "npt.NDArray[np.int64]",
        unlabelled: "Unlabelled | None" = None,
    ) -> "Opened":
        """Decodes or opens the pixels of `rows`, and of no others, those of unlabelled images if there are any, and the
        place where activations are remembered."""
        from core.activations import open_activations
        from core.cache import cache_folder
        from core.device import free_memory
        from core.disk_tier import room_for_activations
        from core.loaders import open_files, open_source
        from core.semisupervised import UnlabelledImages

        memory, folder = self.memory.of(free_memory(self.device)), cache_folder("activations")
        disk = self.disk.of(room_for_activations(folder))
        source = open_source(
            manifest,
            frame=arch.frame,
            rows=rows,
            device=self.device,
            kind=self.source,
            memory=memory,
        )
        left = max(0, memory - source.held)
        besides = None
        if unlabelled is not None:
            files, sha256 = unlabelled.files, unlabelled.sha256
            try:
                pool = open_files(
                    files, frame=arch.frame, device=self.device, sha256=sha256, memory=left, kind=self.source
                )
            except BaseException:
                source.close()
                raise
            besides = UnlabelledImages(source=pool, count=len(unlabelled))
            left = max(0, left - pool.held)
        activations = open_activations(device=self.device, memory=left, disk=disk, folder=folder)
        return Opened(source, activations, besides)


def add_resource_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, `--source`, `--memory` and `--disk`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--source", default="auto", help="where pixels come from: auto, resident, ffcv or torch (default: auto)"
    )
    parser.add_argument(
        "--memory", default="40%", help="of the device, for pixels and activations: a size or a share (default: 40%%)"
    )
    parser.add_argument(
        "--disk", help="for remembered activations: a size, a share or 0 (default: 40%% of what is free, at most 50GB)"
    )


def read_resource_arguments(args: argparse.Namespace) -> Resources:
    """What the flags of `add_resource_arguments` say.

    Raises:
        InputError: One of them is unknown here.
    """
    from core.budget import DISK, Budget
    from core.device import resolve_device
    from core.loaders import KINDS

    refuse_unknown("source", args.source, KINDS)
    return Resources(
        device=resolve_device(args.device),
        source=args.source,
        memory=Budget.parse("--memory", args.memory),
        disk=DISK if args.disk is None else Budget.parse("--disk", args.disk),
    )


def refuse_unknown(name: str, value: str, choices: "tuple[str, ...]") -> None:
    """Checks that an argument is one of the words that there are.

    Raises:
        InputError: It is none.
    """
    from core.errors import InputError

    if value not in choices:
        raise InputError(f"`--{name}` must be one of {', '.join(choices)}, but got --{name}={value}. Choose one.")
