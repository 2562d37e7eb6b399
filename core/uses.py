"""From which depth on a field of a config does anything to a network: what nothing uses is refused, not recorded."""

from core.classifier import Classifier
from core.config import TrainConfig
from core.errors import InputError
from core.stochastic_depth import StochasticDepth

# Fields that need blocks which learn, and the values that ask for nothing.
OFF = {"layer_decay": 1.0, "drop_path": 0.0, "cutmix": 0.0}


def least_depth(field: str, model: Classifier) -> int | None:
    """The smallest `unfreeze_depth` at which a field of `TrainConfig` makes a difference; None where there is none.

    Args:
        field: Its name.
        model: The network, whose own depth doesn't matter.
    """
    match field:
        case "layer_decay":
            return 1  # else the head, whose rate it leaves alone, is all that learns
        case "cutmix":
            return model.max_unfreeze_depth  # it pastes pixels, which what is frozen would have to see anew
        case "drop_path":
            return _depth_of_last_branch(model)
        case _:
            return 0


def _depth_of_last_branch(model: Classifier) -> int | None:
    """The depth of the last block with a residual branch that may be left out."""
    branches = [
        f"{name}.rate" for name, module in model.backbone.named_modules() if isinstance(module, StochasticDepth)
    ]
    depths = (
        depth for depth, block in enumerate(reversed(model.blocks), start=1) if not set(branches).isdisjoint(block)
    )
    return next(depths, None)


def refuse_unused(config: TrainConfig, model: Classifier) -> None:
    """Refuses a config that asks for what its network or its depth has no place for.

    Raises:
        InputError: It says what, and from which depth on there is a place.
    """
    for field, off in OFF.items():
        value = getattr(config, field)
        if value == off:
            continue
        depth = least_depth(field, model)
        if depth is None:
            raise InputError(
                f"`{field}` must be {off:g} for {config.arch}, of which timm leaves out no residual branches, but got "
                f"{field}={value:g}. Choose {off:g}, or another architecture."
            )
        if config.unfreeze_depth < depth:
            raise InputError(
                f"`{field}` must be {off:g} where fewer than {depth} of the {model.max_unfreeze_depth} blocks of "
                f"{config.arch} learn, but got {field}={value:g} with unfreeze_depth={config.unfreeze_depth}. Let more "
                f"blocks learn, or choose {off:g}."
            )
