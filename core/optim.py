"""Parameter groups, optimiser, and the learning rate as a pure function of the step."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from core.classifier import Classifier
from core.config import TrainConfig

STEP_DECAY = 0.1  # factor at each of the two steps
STEP_MILESTONES = (0.5, 0.75)  # shares of the run, as in He et al. 2016, section 4.2
PLATEAU_DECAY = 0.5
PLATEAU_PATIENCE = 2  # epochs without a better validation recall before each decay
SGD_MOMENTUM = 0.9

Group = dict[str, object]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[Group]:
    """The parameters that learn, in two groups: matrices and kernels decay, biases and norms (one axis) don't."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay, "decays": True},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0, "decays": False},
    ]


def layered_groups(model: Classifier, weight_decay: float) -> list[Group]:
    """As `parameter_groups`, of the head and of each block apart, with their `distance` from the head, in blocks."""
    parameters = dict(model.backbone.named_parameters())
    blocks = [[parameters.pop(name) for name in block if name in parameters] for block in model.blocks]
    layers = [list(parameters.values()), *reversed(blocks)]  # what no block has is the head
    return [
        group | {"distance": distance}
        for distance, layer in enumerate(layers)
        for group in parameter_groups(nn.ParameterList(layer), weight_decay)
        if group["params"]
    ]


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's optimiser over the parameters of `model` that learn; `set_rate` sets its rate at every step.

    Args:
        config: Kind and values.
        model: A classifier where the config's rates differ between blocks.
    """
    if config.layer_decay < 1:
        assert isinstance(model, Classifier), "only a classifier has blocks"
        groups = layered_groups(model, config.weight_decay)
    else:
        groups = parameter_groups(model, config.weight_decay)  # each group more is a launch more on a GPU
    # One fused kernel for all tensors: a MobileNet has 150 small ones, and on a GPU launching them would dominate.
    device = next(model.parameters()).device
    fused, on_card = device.type in ("cpu", "cuda"), device.type == "cuda"
    if on_card:  # where a recorded step finds it
        groups = [{**group, "lr": torch.tensor(config.lr, device=device)} for group in groups]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=SGD_MOMENTUM, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, fused=fused, capturable=on_card)


def reset_optimizer(optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
    """Brings an optimiser of `build_optimizer` back to before its first step, with the config's values.

    Args:
        optimizer: Of the config's kind and depth, in layers where the config's rates are.
        config: Of the run to come.
    """
    optimizer.state.clear()
    optimizer.zero_grad(set_to_none=True)
    for group in optimizer.param_groups:
        group["weight_decay"] = config.weight_decay if group["decays"] else 0.0
    set_rate(optimizer, config, config.lr)


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, lr: float) -> None:
    """Sets the learning rate: `lr` for the head, for each block `layer_decay` times that of the next one towards it.

    Source: Clark et al., "ELECTRA", ICLR 2020, section 3.1; here by whole blocks.
    """
    for group in optimizer.param_groups:
        rate = lr * config.layer_decay ** group.get("distance", 0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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
