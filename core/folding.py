"""Batch norms folded into the convolutions before them: the same function of images in fewer operations.

In evaluation mode a batch norm scales and shifts each channel, which the convolution before it can do with other
weights (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3.2). Which convolution that is, and that nothing else takes its output, is read from the network's
graph, traced with torch.fx.
"""

import copy
import logging
from collections import Counter
from collections.abc import Iterator
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.tracing import TRACING, are_close, trace

_log = logging.getLogger(__name__)

# Known by their exact type: those that inherit from them may standardise their weights first, which undoes the scaling.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_norms(network: nn.Module, images: Tensor) -> nn.Module:
    """A network's function of images, for evaluation alone.

    Args:
        network: Takes images alone, (B, 3, H, W), and is in evaluation mode; it stays as it is.
        images: A few, on which both are compared.

    Returns:
        A network of its own; `network` itself where no norm can be folded.
    """
    if not any(type(module) in _NORMS for module in network.modules()):
        return network
    with TRACING, torch.no_grad():
        try:
            if (folded := _folded(network)) is None:
                return network
            fewer = folded(images)
        # Whatever a model's own Python does with a stand-in for a tensor, or with modules that aren't there any more.
        except Exception as error:
            _log.debug("a network is not folded: %s", error)
            return network
        if not are_close(network(images), fewer):
            _log.debug("a network is not folded: its trace leads elsewhere")
            return network
    return folded


def _folded(network: nn.Module) -> nn.Module | None:
    """The network without the norms that can be folded; None if there are none."""
    # A copy: a forward may keep what it sees in itself, and would be left with a stand-in.
    copied = copy.deepcopy(network)
    graph = trace(copied, _Tracer())
    folded = fx.GraphModule(copied, graph)
    pairs = list(_pairs(folded))
    for first, then in pairs:
        convolution, norm = folded.get_submodule(first), folded.get_submodule(then)
        folded.set_submodule(first, fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)))
        folded.set_submodule(then, _after(norm))
    return folded if pairs else None


def _pairs(network: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Convolutions and norms, each of which takes what its convolution gives and has to do with nothing else."""
    targets = Counter(str(node.target) for node in network.graph.nodes if node.op in ("call_module", "get_attr"))
    for node in network.graph.nodes:
        if len(node.all_input_nodes) != 1:
            continue
        (source,) = node.all_input_nodes
        if source.op != "call_module" or node.op != "call_module" or len(source.users) != 1:
            continue
        names = str(source.target), str(node.target)
        convolution, norm = map(network.get_submodule, names)
        # A weight that is read, or an activation inside a norm that is called by itself, would go or change.
        alone = all(sum(n for each, n in targets.items() if f"{each}.".startswith(f"{name}.")) == 1 for name in names)
        if alone and type(convolution) in _CONVOLUTIONS and type(norm) in _NORMS and _is_fixed(norm):
            yield names


class _Tracer(fx.Tracer):
    """Keeps convolutions and norms whole, whatever inherits from them too; besides what torch.nn has."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _CONVOLUTIONS + _NORMS) or super().is_leaf_module(m, module_qualified_name)


def _is_fixed(norm: nn.Module) -> bool:
    """Whether it normalises by statistics of its own and not by the batch's."""
    return cast(nn.BatchNorm2d, norm).running_mean is not None


def _after(norm: nn.Module) -> nn.Module:
    """What a norm does when it has normalised."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
