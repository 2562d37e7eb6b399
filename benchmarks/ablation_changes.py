"""What benchmarks.ablation changes, one at a time: each costs what the base costs, unless its name says otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.config import TrainConfig
from core.errors import InputError

if TYPE_CHECKING:
    from benchmarks.setup import Task
    from core.archs import Arch
    from core.classifier import Classifier

BASE = "base"
LARGER, LONGER = "size-1.5", "epochs-2"  # the two changes that cost more
CENTRE = "framing-centre"  # what studies from before there was a choice see
_OF_ARCH = ("image_size", "framing")
_STEP = 32  # pixels: what strides of most networks divide

CHANGES: dict[str, dict[str, Any]] = {
    "weights-0": {"rebalance": 0.0},
    "weights-1": {"rebalance": 1.0},
    "logits-0.5": {"loss": "logit_adjusted", "rebalance": 0.5},
    "logits-1": {"loss": "logit_adjusted", "rebalance": 1.0},
    "sampler-0.5": {"loss": "cross_entropy", "sampler": "balanced", "rebalance": 0.5},
    "sampler-1": {"loss": "cross_entropy", "sampler": "balanced", "rebalance": 1.0},
    "focal-1": {"loss": "focal", "focal_gamma": 1.0, "rebalance": 0.0},
    "focal-2": {"loss": "focal", "focal_gamma": 2.0, "rebalance": 0.0},
    "ema-0.5": {"ema": 0.5},
    "ema-1": {"ema": 1.0},
    "ema-2": {"ema": 2.0},
    "last-3": {"average_last": 3},
    "layers-0.8": {"layer_decay": 0.8},
    "layers-0.6": {"layer_decay": 0.6},
    "paths-0.1": {"drop_path": 0.1},
    "paths-0.2": {"drop_path": 0.2},
    "mixup-0.2": {"mixup": 0.2},
    "mixup-0.4": {"mixup": 0.4},
    "cutmix-0.2": {"cutmix": 0.2},
    "cutmix-1": {"cutmix": 1.0},
    "l1-0.001": {"l1": 0.001},
    "l1-0.01": {"l1": 0.01},
    "dropout-0": {"drop_rate": 0.0},
    "dropout-0.5": {"drop_rate": 0.5},
    "decay-0": {"weight_decay": 0.0},
    "decay-0.1": {"weight_decay": 0.1},
    "smooth-0": {"label_smoothing": 0.0},
    "smooth-0.15": {"label_smoothing": 0.15},
    "patience-2": {"patience": 2},
    "augment-0.5": {"augment_strength": 0.5},
    "augment-1.5": {"augment_strength": 1.5},
    LARGER: {},  # these two depend on the base's
    LONGER: {},
    CENTRE: {"framing": "centre"},
}


def changed_values(name: str, *, image_size: int, epochs: int) -> dict[str, Any]:
    """The fields of `TrainConfig` that a change sets, or of the backbone.

    Args:
        name: Of the change; the base changes nothing.
        image_size: The base's, pixels.
        epochs: The base's.
    """
    if name == LARGER:
        return {"image_size": max(round(1.5 * image_size / _STEP), image_size // _STEP + 1) * _STEP}
    if name == LONGER:
        return {"epochs": 2 * epochs}
    return CHANGES.get(name, {})


def changed_arch(arch: "Arch", values: Mapping[str, Any]) -> "Arch":
    """The backbone as what a change sets has it."""
    return replace(arch, **{field: values[field] for field in _OF_ARCH if field in values})


def choose_changes(only: Sequence[str], model: "Classifier", timm_name: str, *, epochs: int, depth: int) -> list[str]:
    """The changes to measure: those that were asked for, or all that this backbone and run have a place for.

    Args:
        only: Those that were asked for, if any.
        model: The backbone.
        timm_name: Its name.
        epochs: Of a run.
        depth: Blocks that learn.

    Raises:
        InputError: One was asked for that they have no place for.
    """
    from core.uses import least_depth

    impossible = {name for name, values in CHANGES.items() if values.get("average_last", 0) > epochs}
    for name, values in CHANGES.items():
        least = [least_depth(field, model) for field in values]
        if any(each is None or each > depth for each in least):
            impossible.add(name)
    if wrong := [name for name in only if name in impossible]:
        raise InputError(
            f"`--only` must name changes that {timm_name} with {depth} blocks that learn and {epochs} epochs have a "
            f"place for, but got {wrong[0]}. Leave it out, or take another backbone, --depth or more epochs."
        )
    return list(only) or [name for name in CHANGES if name not in impossible]


def base_values(task: "Task", model: "Classifier", depth: int | None) -> dict[str, Any]:
    """The base: the first trial of a search with this backbone.

    Args:
        task: Backbone and images.
        model: The backbone.
        depth: Blocks that learn; None for the first trial's.
    """
    from search.space import build_space

    space = build_space(
        task.arch.timm_name,
        model.max_unfreeze_depth,
        parameters=model.body_size,
        pretrained=bool(task.weights.state),
    )
    return space.known_good | ({} if depth is None else {"unfreeze_depth": depth})


def config_of(task: "Task", epochs: int, base: Mapping[str, Any], values: Mapping[str, Any]) -> TrainConfig:
    """The config that what a change sets makes of the base's."""
    fields = {field: value for field, value in values.items() if field != "framing"}
    return task.config(fields.pop("epochs", epochs), **{**base, **fields})
