"""Parameter groups, optimiser, and the learning rate as a pure function of the step."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from core.config import TrainConfig

STEP_DECAY = 0.1  # factor at each of the two steps
STEP_MILESTONES = (0.5, 0.75)  # shares of the run, as in He et al. 2016, section 4.2
PLATEAU_DECAY = 0.5
PLATEAU_PATIENCE = 2  # epochs without a better validation recall before each decay
SGD_MOMENTUM = 0.9


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """The parameters that learn, in two groups: matrices and kernels decay, biases and norms (one axis) don't."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimiser over the parameters of `model` that learn; its learning rate is set at every step."""
    groups = parameter_groups(model, config.weight_decay)
    # One fused kernel for all tensors: a MobileNet has 150 small ones, and on a GPU launching them would dominate.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=SGD_MOMENTUM, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused)


def reset_optimizer(optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
    """Brings an optimiser of `build_optimizer` back to before its first step, with the config's values.

    Args:
        optimizer: Of the config's kind and depth.
        config: Of the run to come.
    """
    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    decaying, others = optimizer.param_groups
    decaying["weight_decay"] = config.weight_decay
    for group in (decaying, others):
        group["lr"] = config.lr


def learning_rate(config: TrainConfig, progress: float, val_recalls: Sequence[float]) -> float:
    """The learning rate at a point of the run.

    Args:
        config: Peak, warm-up and schedule.
        progress: Epochs done, with the fraction of the present one; in [0, epochs).
        val_recalls: Validation recall of each epoch done; only ``plateau`` looks at it.

    Source of the cosine: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """
    if progress < config.warmup_epochs:
        return config.lr * progress / config.warmup_epochs
    share = (progress - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    match config.schedule:
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * share))
        case "step":
            return config.lr * STEP_DECAY ** sum(share >= milestone for milestone in STEP_MILESTONES)
        case "plateau":
            return config.lr * PLATEAU_DECAY ** count_plateaus(val_recalls)


def count_plateaus(val_recalls: Sequence[float]) -> int:
    """How often the recall has failed to improve for `PLATEAU_PATIENCE` epochs in a row."""
    best, waited, plateaus = -math.inf, 0, 0
    for recall in val_recalls:
        if recall > best:
            best, waited = recall, 0
            continue
        waited += 1
        if waited == PLATEAU_PATIENCE:
            plateaus, waited = plateaus + 1, 0
    return plateaus
