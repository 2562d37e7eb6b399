"""Names of architectures, and the classifiers built from them; as a command, fetches pretrained weights.

``python -m core.backbones --fetch efficientnet_b3 --out efficientnet_b3.safetensors``
``python -m core.backbones --check efficientnet_b3``
"""

import argparse
import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli import run, write
from core.errors import InputError

# torch and timm take seconds to import and --help must not: they are imported inside functions.
if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

    from core.classifier import Classifier
    from core.weights import Weights

ALIASES = {"mobilenet": "mobilenetv2_100"}
# The size that EfficientNet-B3 was scaled to (Tan, Le 2019); timm's tag trains at 288 and tests at 320.
IMAGE_SIZES = {"efficientnet_b3": 300}


@dataclass(frozen=True, kw_only=True)
class Arch:
    """An architecture and what its pretrained weights expect.

    Attributes:
        name: As the user wrote it.
        timm_name: Name of the timm model, without a tag.
        image_size: Side of the square that the model sees, pixels.
        mean: Mean of each channel, red first, of pixels scaled to 0-1.
        std: Standard deviation of each channel, likewise.
        weight_tag: timm's tag of the pretrained weights; None where timm knows none.
    """

    name: str
    timm_name: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weight_tag: str | None

    @property
    def full_name(self) -> str:
        """timm's name with the tag."""
        return f"{self.timm_name}.{self.weight_tag}" if self.weight_tag else self.timm_name


def resolve_arch(name: str) -> Arch:
    """Looks up an architecture.

    Args:
        name: ``mobilenet``, or any timm model with or without a tag; without one, timm's default tag is meant.

    Raises:
        InputError: timm has no such model or tag; the nearest names are in the message.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    timm_name, _, tag = ALIASES.get(name, name).partition(".")
    known = timm.list_models()
    if timm_name not in known:
        raise InputError(_unknown("a timm model", name, [*ALIASES, *known]))
    tagged = timm.list_models(f"{timm_name}.*", include_tags=True)
    if tag and f"{timm_name}.{tag}" not in tagged:
        raise InputError(_unknown(f"{timm_name} with one of its tags", name, tagged))
    cfg = pretrained_cfg(f"{timm_name}.{tag}" if tag else timm_name)
    data = resolve_model_data_config(None, pretrained_cfg=asdict(cfg))  # type: ignore[no-untyped-call]
    return Arch(
        name=name,
        timm_name=timm_name,
        image_size=IMAGE_SIZES.get(timm_name, data["input_size"][-1]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        weight_tag=cfg.tag,
    )


def _unknown(rule: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5) or [*ALIASES, *IMAGE_SIZES]
    return f"`arch` must be {rule}, but got arch={name!r}. Use {' or '.join(near)}, for example."


def pretrained_cfg(full_name: str) -> "PretrainedCfg":
    """What timm knows of the weights of a model that it lists: ``hf_hub_id``, ``license``, ``classifier`` and more."""
    import timm

    cfg = timm.get_pretrained_cfg(full_name)
    assert cfg is not None, f"timm lists {full_name} but has no config for it"
    return cfg


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

    with _seeded(seed):
        backbone = timm.create_model(arch.timm_name, pretrained=False, drop_rate=0.0)
    head_name = find_head(backbone)
    if weights is not None and weights.state:
        _load_backbone(backbone, head_name, weights, arch)
    # Seeded afresh, so that the head of a seed is the same whatever the backbone drew.
    with _seeded(seed):
        backbone.reset_classifier(num_classes)  # type: ignore[operator]
    model = Classifier(backbone)
    check_image_size(model, arch)
    return model


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
    parser = argparse.ArgumentParser(
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
