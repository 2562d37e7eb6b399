"""What an optimiser remembers, as named tensors that a file can hold."""

from collections.abc import Mapping

import torch

# What the optimisers of `core.optim` remember of a parameter; of Adam, AdamW is a subclass.
_SLOTS = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that it remembers, by ``NUMBER.SLOT``: the number of the parameter, and what is remembered of it."""
    return {
        f"{index}.{slot}": tensor
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, tensor in slots.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`, for an optimiser of the same parameters.

    Raises:
        ValueError, LookupError: The tensors aren't those of such an optimiser.
    """
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _read_slots(tensors, optimizer)})
    _lay_out_as_parameters(optimizer)


def _read_slots(
    tensors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, torch.Tensor]]:
    """What the optimiser remembers of each parameter, by the parameter's number.

    Fused optimisers walk parameter and moment by address: a moment of another shape would be read beyond its end.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".")
        expected = torch.Size() if slot == "step" else parameters[int(index)].shape
        if tensor.shape != expected or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
        slots.setdefault(int(index), {})[slot] = tensor
    (whole,) = (names for kind, names in _SLOTS.items() if isinstance(optimizer, kind))
    if any(index < 0 or set(names) != whole for index, names in slots.items()):
        raise ValueError(f"of a parameter it remembers other things than {' and '.join(sorted(whole))}")
    return slots


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives each moment the memory layout of its parameter.

    Files hold tensors row by row, kernels are channels_last here, and fused optimisers walk both by address without
    looking at strides: a moment in the other layout would be applied to the wrong weights, in silence.
    """
    for parameter, slots in optimizer.state.items():
        for name, moment in slots.items():
            if moment.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
