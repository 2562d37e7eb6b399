"""Classifiers built from timm's backbones; as a command, fetches pretrained weights.

``python -m core.backbones --fetch efficientnet_b3 --out efficientnet_b3.safetensors``
``python -m core.backbones --check efficientnet_b3``
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from core.archs import Arch, resolve_arch
from core.cli import Parser, run, write
from core.errors import InputError

# torch and timm take seconds to import and --help must not: they are imported inside functions.
if TYPE_CHECKING:
    from torch import nn

    from core.classifier import Classifier
    from core.weights import Weights

_log = logging.getLogger(__name__)


def build_classifier(arch: Arch, *, num_classes: int, weights: "Weights | None", seed: int) -> "Classifier":
    """Builds a classifier in which everything learns and nothing is dropped.

    Args:
        arch: The architecture, with the image size that is going to be used.
        num_classes: Outputs of the head.
        weights: Weights of everything but the head; None, or weights without tensors, start from random ones.
        seed: Of the head and, without weights, of the backbone; PyTorch's own generators stay as they are.

    Raises:
        InputError: The weights are another architecture's, or the architecture refuses the image size.
    """
    import timm

    from core.classifier import Classifier, find_head
    from core.stochastic_depth import insert_stochastic_depth

    with _seeded(seed):
        backbone = timm.create_model(arch.timm_name, pretrained=False, drop_rate=0.0)
    head_name = find_head(backbone)
    if weights is not None and weights.state:
        _load_backbone(backbone, head_name, weights, arch)
    # Seeded afresh, so that the head of a seed is the same whatever the backbone drew.
    with _seeded(seed):
        backbone.reset_classifier(num_classes)  # type: ignore[operator]
    insert_stochastic_depth(backbone, drop_path_shares(arch.timm_name))
    model = Classifier(backbone)
    check_image_size(model, arch)
    return model


@lru_cache(maxsize=8)
def drop_path_shares(timm_name: str) -> dict[str, float]:
    """Where timm would put stochastic depth in an architecture, and at which rate over the network's.

    Told by a twin without data that is made with it and runs once. Names alone would say too little: some such modules
    stand where nothing may be dropped, and those of EfficientNets beside branches that nothing runs past.

    Args:
        timm_name: Name of the timm model.

    Returns:
        Rates by the names of the modules; empty where the architecture has no place for it.
    """
    import timm
    import torch
    from timm.layers.drop import DropPath

    image_size = resolve_arch(timm_name).image_size
    rate = 0.5  # exact in binary, so that the shares are
    shares: dict[str, float] = {}
    try:
        with _seeded(0), torch.device("meta"), torch.no_grad():
            twin = timm.create_model(timm_name, pretrained=False, drop_path_rate=rate)
            for name, module in twin.named_modules():
                if isinstance(module, DropPath) and module.drop_prob > 0:
                    share = {name: module.drop_prob / rate}
                    module.register_forward_hook(lambda *called, share=share: shares.update(share))
            twin(torch.empty(2, 3, image_size, image_size))
    # Whatever a model does with an argument that it doesn't know, or with tensors that have no data.
    except Exception as error:
        _log.debug("%s has no stochastic depth: %s", timm_name, error)
        return {}
    return shares


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Runs with the CPU's generator seeded and puts it back; `torch.manual_seed` would reset the GPU's too."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _load_backbone(backbone: "nn.Module", head_name: str, weights: "Weights", arch: Arch) -> None:
    """Loads every tensor but the head's; names and shapes must agree, counters of batches aside."""
    expected = {name: tensor for name, tensor in backbone.state_dict().items() if not _is_optional(name, head_name)}
    given = {name: tensor for name, tensor in weights.state.items() if not _is_optional(name, head_name)}
    faults = [f"lacks {name}" for name in sorted(expected.keys() - given.keys())]
    faults += [f"has {name}, which is unknown" for name in sorted(given.keys() - expected.keys())]
    faults += [
        f"has {name} of shape {list(given[name].shape)} for {list(expected[name].shape)}"
        for name in sorted(expected.keys() & given.keys())
        if given[name].shape != expected[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 1} more disagreements" if len(faults) > 1 else ""
        raise InputError(
            f"`weights` must fit {arch.timm_name}, but what comes from {weights.origin} {faults[0]}{more}. "
            "Give weights of this architecture, or none."
        )
    backbone.load_state_dict(given, strict=False)


def _is_optional(name: str, head_name: str) -> bool:
    return name.startswith(f"{head_name}.") or name.endswith("num_batches_tracked")


def check_image_size(model: "Classifier", arch: Arch) -> None:
    """Sends one black image through the model.

    Raises:
        InputError: The architecture refuses images of this size: too small, or not the one size of a transformer.
    """
    import torch

    was_training = model.training
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval().forward(torch.zeros(1, 3, arch.image_size, arch.image_size, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"`image_size` must be one that {arch.timm_name} accepts, but got image_size={arch.image_size} ({reason}). "
            f"Its own is {resolve_arch(arch.name).image_size}."
        ) from error
    finally:
        model.train(was_training)


def main(args: argparse.Namespace) -> int:
    """Fetches weights into a file, or says in one line where they would come from."""
    from core.weights import explain_missing, find_sources, resolve_weights

    if args.check:
        arch = resolve_arch(args.check)
        source = next(find_sources(arch), None)
        write(f"{arch.name}: {source.origin}" if source else explain_missing(arch))
        return 0 if source else 1
    if args.out is None:
        raise InputError("`--out` must name the file to write, but got none. Add --out FILE.safetensors.")
    arch = resolve_arch(args.fetch)
    weights = resolve_weights("auto", arch)
    weights.save(args.out)
    write(f"{args.out}: {arch.name} from {weights.origin}, licence {weights.license or 'unknown'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m core.backbones",
        description="Pretrained weights for machines without a network, and where they come from on this one.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--fetch", metavar="ARCH", help="write the pretrained weights of ARCH to --out")
    task.add_argument("--check", metavar="ARCH", help="say where weights would come from; status 1 if from nowhere")
    parser.add_argument("--out", metavar="FILE", type=Path, help="safetensors file to write, for --weights FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run(main, _parser()))
