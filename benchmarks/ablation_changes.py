"""What benchmarks.ablation changes, one at a time: each costs what the base costs, unless its name says otherwise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.config import TrainConfig
from core.errors import InputError

if TYPE_CHECKING:
    from benchmarks.setup import Task

BASE = "base"
LARGER = "size-1.5"  # the one change that costs more
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
    "augment-0.5": {"augment_strength": 0.5},
    "augment-1.5": {"augment_strength": 1.5},
    LARGER: {},  # depends on the base's
}


def changed_values(name: str, image_size: int) -> dict[str, Any]:
    """The fields of `TrainConfig` that a change sets.

    Args:
        name: Of the change; the base changes nothing.
        image_size: The base's, pixels.
    """
    if name == LARGER:
        return {"image_size": max(round(1.5 * image_size / _STEP), image_size // _STEP + 1) * _STEP}
    return CHANGES.get(name, {})


def choose_changes(only: Sequence[str], timm_name: str, epochs: int) -> list[str]:
    """The changes to measure: those that were asked for, or all that this backbone and run have a place for.

    Raises:
        InputError: One was asked for that they have no place for.
    """
    from core.backbones import drop_path_shares

    impossible = {name for name, values in CHANGES.items() if values.get("average_last", 0) > epochs}
    if not drop_path_shares(timm_name):
        impossible |= {name for name, values in CHANGES.items() if "drop_path" in values}
    if wrong := [name for name in only if name in impossible]:
        raise InputError(
            f"`--only` must name changes that {timm_name} and {epochs} epochs have a place for, but got {wrong[0]}. "
            "Leave it out, or take another backbone or more epochs."
        )
    return list(only) or [name for name in CHANGES if name not in impossible]


def base_values(task: "Task", depth: int | None) -> dict[str, Any]:
    """The base: the first trial of a search with this backbone.

    Args:
        task: Backbone and images.
        depth: Blocks that learn; None for the first trial's.
    """
    from core.backbones import build_classifier
    from search.space import build_space

    model = build_classifier(task.arch, num_classes=len(task.manifest.classes), weights=None, seed=0)
    space = build_space(task.arch.timm_name, model.max_unfreeze_depth, pretrained=bool(task.weights.state))
    return space.known_good | ({} if depth is None else {"unfreeze_depth": depth})


def config_of(task: "Task", epochs: int, base: dict[str, Any], name: str) -> TrainConfig:
    """The config of a change."""
    return task.config(epochs, **{**base, **changed_values(name, task.arch.image_size)})
