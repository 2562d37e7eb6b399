"""Classifiers built from timm's backbones; as a command, fetches pretrained weights.

``python -m core.backbones --fetch efficientnet_b3 --out efficientnet_b3.safetensors``
``python -m core.backbones --check efficientnet_b3``
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from core.archs import LARGEST_SIZE, Arch, resolve_arch
from core.cli import Parser, run, write
from core.errors import InputError, counted, few

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
        InputError: The weights are another architecture's, or the architecture refuses the image size or can't be used.
    """
    from core.classifier import Classifier, find_head
    from core.stochastic_depth import insert_stochastic_depth

    if arch.image_size > LARGEST_SIZE:
        raise InputError(
            f"`image_size` must be at most {LARGEST_SIZE:,} pixels, but got image_size={arch.image_size}. Choose a "
            "smaller one."
        )
    with _seeded(seed):
        backbone = _create(arch)
    head_name = find_head(backbone)
    if weights is not None and weights.state:
        if weights.image_size is not None:
            _fit_to_images(backbone, replace(arch, image_size=_size_of(weights)))
        _load_backbone(backbone, head_name, weights, arch)
    _fit_to_images(backbone, arch)
    # Seeded afresh, so that the head of a seed is the same whatever the backbone drew.
    with _seeded(seed):
        backbone.reset_classifier(num_classes)  # type: ignore[operator]
    insert_stochastic_depth(backbone, drop_path_shares(arch.timm_name))
    model = Classifier(backbone)
    check_forward(model, arch)
    return model


def build_skeleton(arch: Arch) -> "Classifier":
    """A classifier without memory for its weights, of which everything else can be told.

    Raises:
        InputError: The architecture can't be used.
    """
    import torch

    from core.classifier import Classifier

    with torch.device("meta"):
        return Classifier(_create(arch))


def _create(arch: Arch) -> "nn.Module":
    import timm

    try:
        return timm.create_model(arch.timm_name, pretrained=False, drop_rate=0.0)
    except TypeError as error:  # what timm lists besides classifiers takes other arguments
        raise InputError(
            f"`arch` must be an image classifier, but timm can't build {arch.timm_name} as one ({error}). Choose "
            "another."
        ) from error


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


def _size_of(weights: "Weights") -> int:
    text = weights.image_size or ""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 6):
        raise InputError(
            f"`weights` must tell the size of their images in pixels, but what comes from {weights.origin} says "
            f"{text[:20]!r}. Restore the file."
        )
    return int(text)


def _load_backbone(backbone: "nn.Module", head_name: str, weights: "Weights", arch: Arch) -> None:
    """Loads every tensor but the head's; names and shapes must agree, counters of batches aside."""
    import torch

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
    loaded = backbone.state_dict()  # by now of types that can be asked
    if wrong := [name for name in sorted(given) if not torch.isfinite(loaded[name]).all()]:
        raise InputError(
            f"`weights` must be finite numbers, but what comes from {weights.origin} has NaN or infinity in "
            f"{counted(len(wrong), 'tensor')}: {few(wrong)}. Give the file of an earlier epoch, or other weights."
        )


def _fit_to_images(backbone: "nn.Module", arch: Arch) -> None:
    """Has a transformer take images of another size than its weights', where timm knows how to resample positions."""
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if own is None or own == (arch.image_size, arch.image_size) or not hasattr(backbone, "set_input_size"):
        return
    patch = max(backbone.patch_embed.patch_size)  # type: ignore[union-attr, arg-type]
    if arch.image_size % patch:  # timm would leave out the border
        raise InputError(
            f"`image_size` must be a multiple of the {patch} pixels of a patch of {arch.timm_name}, but got "
            f"image_size={arch.image_size}. Its own is {own[0]}."
        )
    try:
        with warnings.catch_warnings():
            # How timm uses torch while it resamples is not for our users to mend.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers\.interpolate")
            backbone.set_input_size(img_size=(arch.image_size, arch.image_size))  # type: ignore[operator]
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise _refused_size(arch, error) from error


def _refused_size(arch: Arch, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"`image_size` must be one that {arch.timm_name} accepts, but got image_size={arch.image_size} ({reason}). "
        f"Its own is {resolve_arch(arch.name).image_size}."
    )


def _is_optional(name: str, head_name: str) -> bool:
    return name.startswith(f"{head_name}.") or name.endswith("num_batches_tracked")


def check_forward(model: "Classifier", arch: Arch) -> None:
    """Sends one image through the model, and through timm's own, which must say the same.

    Raises:
        InputError: The architecture refuses images of this size: too small, or not the one size of a transformer. Or it
            makes something else of an image than its head does of its features.
    """
    import torch

    was_training = model.training
    device, size = next(model.parameters()).device, arch.image_size
    # No black one: without biases every network would say nothing of it.
    image = torch.linspace(-1, 1, 3 * size * size, device=device).view(1, 3, size, size)
    try:
        with torch.no_grad():
            ours, theirs = model.eval()(image), model.backbone(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _refused_size(arch, error) from error
    finally:
        model.train(was_training)
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise InputError(
            f"`arch` must be a classifier whose head sees pooled features and nothing else, but {arch.timm_name} "
            "comes to another result with its own. Choose another."
        )


def main(args: argparse.Namespace) -> int:
    """Fetches weights into a file, or says in one line where they would come from."""
    from core.files import check_new_tensors
    from core.weights import explain_missing, find_sources, resolve_weights

    if args.check and args.out:
        raise InputError(
            f"`--out` must be given with --fetch, as --check writes nothing, but got --out {args.out}. Leave it out."
        )
    if args.check:
        arch = resolve_arch(args.check)
        source = next(find_sources(arch), None)
        write(f"{arch.name}: {source.origin}" if source else explain_missing(arch))
        return 0 if source else 1
    if args.out is None:
        raise InputError("`--out` must name the file to write, but got none. Add --out FILE.safetensors.")
    check_new_tensors(args.out)
    if args.out.exists():
        raise InputError(f"`--out` must be a new file, but {args.out} is there. Name another one, or remove it.")
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
