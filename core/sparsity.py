"""L1 regularisation: weights that the loss doesn't hold against a steady pull become zero, and stay it.

A gradient of λ|w| would let them tremble around zero. The proximal step ends there (Duchi, Singer, "Efficient online
and batch learning using forward backward splitting", JMLR 2009, section 5.1): after a step of the optimiser with rate η
each weight moves towards zero by η λ, at most as far as zero. As AdamW's decay it is apart from the gradient, so that λ
means the same whatever the optimiser makes of the gradient's size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def shrink(optimizer: torch.optim.Optimizer, l1: float) -> None:
    """Moves the weights towards zero, biases and norms left out, in a few launches for all of them.

    Nothing is read from a card: a recorded step does it too, at the rate that its tensor holds by then.

    Args:
        optimizer: Of `core.optim.build_optimizer`, with the rate of the step that it has just taken.
        l1: λ, per step and unit of the learning rate.
    """
    for group in optimizer.param_groups:
        if not (group["decays"] and group["params"]):
            continue
        # Without a history: this is no part of what is differentiated.
        weights = [weight.detach() for weight in group["params"]]
        sizes = torch._foreach_abs(weights)
        lr = group["lr"]
        if isinstance(lr, Tensor):
            torch._foreach_add_(sizes, lr, alpha=-l1)
        else:
            torch._foreach_add_(sizes, -l1 * lr)
        torch._foreach_clamp_min_(sizes, 0.0)
        torch._foreach_mul_(sizes, torch._foreach_sign(weights))
        torch._foreach_copy_(weights, sizes)


def share_of_zeros(model: nn.Module, state: Mapping[str, Tensor]) -> float:
    """How many of the weights that learn are exactly zero, as a share of them; those that `shrink` moves.

    Args:
        model: Says which learn.
        state: Their values: a state dict of the model.
    """
    weights = [state[name] for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = [weight for weight in weights if weight.ndim > 1]
    zeros = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))
