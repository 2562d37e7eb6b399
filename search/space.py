"""The only place where a range is written: one function per family of backbones, each with its known-good first trial.

A parameter has exactly the name of its field in `TrainConfig`. The ranges start from what fine-tuning of each family
on some thousand images is known to need. What `--tune` adds is off by default, as it has not been shown to pay.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from core.config import AUGMENT_STRENGTHS, Schedule
from core.errors import InputError

SMALL, LARGE = 10_000_000, 50_000_000  # parameters, of backbones whose family is none of ours


class Tunable(NamedTuple):
    """A field that a study searches if it is asked to.

    Attributes:
        distribution: Its range.
        first: Its value in the first trial.
    """

    distribution: BaseDistribution
    first: Any


# l1: from nothing that shows to most weights zero. Over the two thousand steps of a run on HAM10000 a weight is pulled
# by about l1 in all at a peak rate of 1e-3, over those of some hundred images by a tenth; pretrained weights are of
# the order of 0.01 to 0.1.
TUNABLE = {
    "l1": Tunable(FloatDistribution(1e-4, 1e-1, log=True), 1e-3),
    "mixup": Tunable(FloatDistribution(0.0, 1.0), 0.2),
    "cutmix": Tunable(FloatDistribution(0.0, 1.0), 0.2),
    "drop_path": Tunable(FloatDistribution(0.0, 0.3), 0.1),
    "layer_decay": Tunable(FloatDistribution(0.5, 1.0), 0.8),
    "ema": Tunable(FloatDistribution(0.0, 2.0), 1.0),
    "schedule": Tunable(CategoricalDistribution(get_args(Schedule)), "cosine"),
}


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a study searches.

    Attributes:
        distributions: Range of each parameter.
        known_good: Values of the first trial, one for each parameter.
    """

    distributions: dict[str, BaseDistribution]
    known_good: dict[str, Any]

    def __post_init__(self) -> None:
        assert set(self.known_good) == set(self.distributions), "the first trial must set every parameter"
        for name, value in self.known_good.items():
            distribution = self.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value)), f"{name}={value} is out of its range"

    @property
    def least_depth(self) -> int:
        """The fewest blocks that learn in a trial."""
        depths = self.distributions["unfreeze_depth"]
        assert isinstance(depths, IntDistribution)
        return depths.low

    def describe(self) -> dict[str, str]:
        """Each parameter's range in words."""
        return {name: _describe(distribution) for name, distribution in self.distributions.items()}

    def fingerprint(self) -> str:
        """A hash of every range. Optuna takes a widened range in silence and then leaves it out of its joint model."""
        ranges = {name: distribution_to_json(distribution) for name, distribution in self.distributions.items()}
        return hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest()


def read_tuned(text: str) -> tuple[str, ...]:
    """The fields that ``--tune`` names, each once.

    Raises:
        InputError: One is unknown, or two can't be together.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = ", ".join(TUNABLE)
    if wrong := [name for name in names if name not in TUNABLE] or ([""] if not names else []):
        raise InputError(
            f"`--tune` must be one or more of {known}, with commas between them, but got --tune={wrong[0] or text}. "
            "Choose among these; whatever else a study can search it searches without being asked."
        )
    if {"mixup", "cutmix"} <= set(names):
        raise InputError(
            "`--tune` must name one of mixup and cutmix, which mix the same images, but got both. Search them in two "
            "studies, with --study NAME."
        )
    return names


def build_space(
    timm_name: str,
    max_unfreeze_depth: int,
    *,
    parameters: int,
    pretrained: bool,
    tuned: Mapping[str, int] | None = None,
) -> Space:
    """The space of a backbone.

    Args:
        timm_name: Name of the timm model.
        max_unfreeze_depth: Number of its blocks.
        parameters: Of the backbone, the head's aside.
        pretrained: Whether it starts from pretrained weights. From noise, frozen blocks would stay noise, so that
            everything learns in every trial.
        tuned: Fields of `TUNABLE` that are searched besides, each with the blocks that must learn for it to do
            anything (`core.uses.least_depth`): in every trial at least as many do.
    """
    if "mobilenet" in timm_name:
        space = mobilenet(max_unfreeze_depth)
    elif "efficientnet" in timm_name:
        space = efficientnet(max_unfreeze_depth)
    else:
        space = any_backbone(max_unfreeze_depth, parameters)
    tuned = tuned or {}
    least = max(tuned.values(), default=0) if pretrained else max_unfreeze_depth
    depths: dict[str, BaseDistribution] = {"unfreeze_depth": IntDistribution(least, max_unfreeze_depth)}
    added = {name: TUNABLE[name] for name in tuned}
    return Space(
        distributions=space.distributions | depths | {name: each.distribution for name, each in added.items()},
        known_good=space.known_good
        | {"unfreeze_depth": max(least, space.known_good["unfreeze_depth"])}
        | {name: each.first for name, each in added.items()},
    )


def with_unlabelled(space: Space) -> Space:
    """The same space for trials that learn from unlabelled images too.

    The confidence begins lower than Sohn et al.'s 0.95: with smoothed labels and few images of a class, nothing is ever
    so sure.
    """
    more: dict[str, BaseDistribution] = {
        "unlabelled_weight": FloatDistribution(0.1, 3.0, log=True),
        "confidence": FloatDistribution(0.5, 0.95),
    }
    return Space(
        distributions=space.distributions | more,
        known_good=space.known_good | {"unlabelled_weight": 1.0, "confidence": 0.8},
    )


def mobilenet(max_unfreeze_depth: int) -> Space:
    """MobileNets: small and hard to overfit, so they stand high rates, little dropout and deep unfreezing."""
    depth = min(5, max_unfreeze_depth)
    return _space(max_unfreeze_depth, lr=(1e-4, 1e-3, 1e-2), drop_rate=(0.0, 0.2, 0.5), first_depth=depth)


def efficientnet(max_unfreeze_depth: int) -> Space:
    """EfficientNets: wider heads want more dropout, and squeeze-and-excitation lower rates."""
    depth = min(4, max_unfreeze_depth)
    return _space(max_unfreeze_depth, lr=(5e-5, 7e-4, 5e-3), drop_rate=(0.1, 0.3, 0.6), first_depth=depth)


def any_backbone(max_unfreeze_depth: int, parameters: int) -> Space:
    """Any other timm model, by its size: the larger it is, the lower the rates it stands and the more it overfits.

    Args:
        max_unfreeze_depth: Number of its blocks.
        parameters: Of the backbone, the head's aside.
    """
    depth = (max_unfreeze_depth + 1) // 2
    if parameters < SMALL:
        return _space(max_unfreeze_depth, lr=(5e-5, 7e-4, 7e-3), drop_rate=(0.0, 0.2, 0.5), first_depth=depth)
    if parameters < LARGE:
        return _space(max_unfreeze_depth, lr=(1e-5, 3e-4, 5e-3), drop_rate=(0.0, 0.2, 0.6), first_depth=depth)
    return _space(max_unfreeze_depth, lr=(3e-6, 1e-4, 1e-3), drop_rate=(0.0, 0.3, 0.7), first_depth=depth)


def _space(
    max_unfreeze_depth: int,
    *,
    lr: tuple[float, float, float],
    drop_rate: tuple[float, float, float],
    first_depth: int,
) -> Space:
    """A family's space: lowest, first and highest value of what differs between families, and what they share."""
    return Space(
        distributions={
            "lr": FloatDistribution(lr[0], lr[2], log=True),
            "drop_rate": FloatDistribution(drop_rate[0], drop_rate[2]),
            "unfreeze_depth": IntDistribution(0, max_unfreeze_depth),
            "batch_size": CategoricalDistribution((16, 32, 64)),
            "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
            "label_smoothing": FloatDistribution(0.0, 0.2),
            "rebalance": FloatDistribution(0.0, 1.0),
            "augment_strength": CategoricalDistribution(AUGMENT_STRENGTHS),
        },
        known_good={
            "lr": lr[1],
            "drop_rate": drop_rate[1],
            "unfreeze_depth": first_depth,
            "batch_size": 32,
            "weight_decay": 0.01,
            "label_smoothing": 0.05,
            "rebalance": 0.5,
            "augment_strength": 1.0,
        },
    )


def _describe(distribution: BaseDistribution) -> str:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return " | ".join(map(str, choices))
        case FloatDistribution(low=low, high=high, log=log) | IntDistribution(low=low, high=high, log=log):
            return f"{low:g} to {high:g}" + (", logarithmic" if log else "")
        case _:
            raise AssertionError(f"no words for {distribution}")
