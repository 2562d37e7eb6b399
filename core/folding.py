"""Batch norms folded into the convolutions before them: the same function of images in fewer operations.

In evaluation mode a batch norm scales and shifts each channel, which the convolution before it can do with other
weights (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3.2). Which convolution that is, and that nothing else takes its output, is read from the network's
graph, traced with torch.fx.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_log = logging.getLogger(__name__)

# Their weights are used as they are: others standardise theirs first, which would undo the scaling.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_TOLERANCE = 1e-3  # of the largest output, as `core.cut`: a wrong trace is off by much more, other sums by much less


def fold_norms(network: nn.Module, images: Tensor) -> nn.Module:
    """A network's function of images, for evaluation alone.

    Args:
        network: Takes images alone, (B, 3, H, W), and is in evaluation mode; it stays as it is.
        images: A few, on which both are compared.

    Returns:
        Shares with `network` what wasn't folded; `network` itself where nothing can be.
    """
    if not any(type(module) in _NORMS for module in network.modules()):
        return network
    try:
        graph = _Tracer().trace(network)
    # Whatever a model's own Python does with a stand-in for a tensor: fx has no error of its own for it.
    except Exception as error:
        _log.info("%s is not folded: %s", type(network).__name__, error)
        return network
    folded = fx.GraphModule(network, graph)
    for first, then in _pairs(graph):
        convolution, norm = folded.get_submodule(first), folded.get_submodule(then)
        # By type, as those that inherit from them may compute something else.
        if type(convolution) in _CONVOLUTIONS and type(norm) in _NORMS and _is_fixed(norm):
            folded.set_submodule(first, fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)))
            folded.set_submodule(then, _after(norm))
    with torch.inference_mode():
        whole, fewer = network(images), folded(images)
    if (whole - fewer).abs().max() > _TOLERANCE * whole.abs().max():
        _log.info("%s is not folded: its trace leads elsewhere", type(network).__name__)
        return network
    return folded


def _pairs(graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Modules of which the second takes what the first gives, and nothing else does; each is called once."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if len(node.all_input_nodes) != 1:
            continue
        (source,) = node.all_input_nodes
        alone = source.op == node.op == "call_module" and len(source.users) == 1
        if alone and calls[source.target] == calls[node.target] == 1:
            yield str(source.target), str(node.target)


class _Tracer(fx.Tracer):
    """Steps into all modules but those that are folded."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _CONVOLUTIONS + _NORMS) or super().is_leaf_module(m, module_qualified_name)


def _is_fixed(norm: nn.Module) -> bool:
    """Whether it normalises by statistics of its own and not by the batch's."""
    return cast(nn.BatchNorm2d, norm).running_mean is not None


def _after(norm: nn.Module) -> nn.Module:
    """What a norm does when it has normalised."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
