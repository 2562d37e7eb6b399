"""The only place where a range is written: one function per family of backbones, each with its known-good first trial.

A parameter has exactly the name of its field in `TrainConfig`. The ranges start from what fine-tuning of each family
on some thousand images is known to need.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from core.config import AUGMENT_STRENGTHS


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

    def describe(self) -> dict[str, str]:
        """Each parameter's range in words."""
        return {name: _describe(distribution) for name, distribution in self.distributions.items()}

    def fingerprint(self) -> str:
        """A hash of every range. Optuna takes a widened range in silence and then leaves it out of its joint model."""
        ranges = {name: distribution_to_json(distribution) for name, distribution in self.distributions.items()}
        return hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest()


def build_space(timm_name: str, max_unfreeze_depth: int, *, pretrained: bool) -> Space:
    """The space of a backbone.

    Args:
        timm_name: Name of the timm model.
        max_unfreeze_depth: Number of its blocks.
        pretrained: Whether it starts from pretrained weights. From noise, frozen blocks would stay noise, so that
            everything learns in every trial.
    """
    families: dict[str, Callable[[int], Space]] = {"mobilenet": mobilenet, "efficientnet": efficientnet}
    family = next((space for part, space in families.items() if part in timm_name), any_backbone)
    space = family(max_unfreeze_depth)
    if pretrained:
        return space
    everything: dict[str, BaseDistribution] = {
        "unfreeze_depth": IntDistribution(max_unfreeze_depth, max_unfreeze_depth)
    }
    return Space(
        distributions=space.distributions | everything,
        known_good=space.known_good | {"unfreeze_depth": max_unfreeze_depth},
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


def any_backbone(max_unfreeze_depth: int) -> Space:
    """Any other timm model: rates low enough for transformers, high enough for ResNets."""
    depth = (max_unfreeze_depth + 1) // 2
    return _space(max_unfreeze_depth, lr=(1e-5, 3e-4, 5e-3), drop_rate=(0.0, 0.2, 0.6), first_depth=depth)


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
