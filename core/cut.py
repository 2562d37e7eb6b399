"""A network cut in two where learning begins, so that what lies before the cut need not be computed twice.

The cut is found in the network's own graph, traced with torch.fx, and not in its list of blocks: a graph also knows the
poolings and reshapes between blocks, which have no parameters, and whether anything jumps over the cut.
"""

import logging
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import fx, nn

from core.tracing import are_close, holders, trace

_log = logging.getLogger(__name__)


class Cut(NamedTuple):
    """The halves of a network; they share its modules, and so its parameters, modes and devices."""

    frozen: nn.Module  # images (B, 3, H, W) to activations (B, ...): nothing in it learns
    learning: nn.Module  # activations to what the whole network gives


def cut_network(network: nn.Module, *, frozen: Collection[str], learning: Collection[str]) -> Cut | None:
    """Cuts where the first learning tensor comes into play.

    Args:
        network: Takes images, (B, 3, H, W).
        frozen: Names, in `network`, of the parameters and buffers that don't learn.
        learning: Those that do.

    Returns:
        The halves; None for a network whose flow depends on its input, or where more than one tensor crosses the cut.
    """
    try:
        graph = trace(network, _SpineTracer(_modules_astride(network, frozen, learning)))
    # Whatever a model's own Python does with a stand-in for a tensor.
    except Exception as error:
        _log.info("%s cannot be cut: %s", type(network).__name__, error)
        return None
    before = _nodes_before(graph, learning)
    crossing = {source for node in graph.nodes if node not in before for source in node.all_input_nodes} & before
    crossing = {node for node in crossing if node.op != "get_attr"}
    if len(crossing) != 1:
        _log.info("%s cannot be cut: %d tensors cross", type(network).__name__, len(crossing))
        return None
    (boundary,) = crossing
    return Cut(_first_half(network, graph, before, boundary), _second_half(network, graph, before, boundary))


def agrees(cut: Cut, network: nn.Module, images: torch.Tensor) -> bool:
    """Whether both halves in turn give what the network gives: a trace can't follow what a model does in plain Python.

    Args:
        cut: Its halves.
        network: In evaluation mode.
        images: A few.
    """
    with torch.no_grad():
        activations = cut.frozen(images)
        # Some models hand a list from block to block, and a tensor could hold other rows than images.
        if not isinstance(activations, torch.Tensor) or len(activations) != len(images):
            return False
        whole, halves = network(images), cut.learning(activations)
    return are_close(whole, halves)


def is_way(between: nn.Module, early: Cut, late: Cut, images: torch.Tensor) -> bool:
    """Whether a module leads from one cut of a network to a later one, bit by bit.

    Args:
        between: The module.
        early: The first cut.
        late: The later one.
        images: A few; the network is in evaluation mode.
    """
    with torch.no_grad():
        return torch.equal(between(early.frozen(images)), late.frozen(images))


class _SpineTracer(fx.Tracer):
    """Steps only into modules that lie astride the cut. What is within a half stays one call, whatever it does."""

    def __init__(self, astride: Collection[nn.Module]) -> None:
        super().__init__()
        self._astride = astride

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self._astride


def _modules_astride(network: nn.Module, frozen: Collection[str], learning: Collection[str]) -> set[nn.Module]:
    """The modules with tensors of both kinds, and the way down to the first of them."""
    astride = holders(frozen) & holders(learning)
    return {module for name, module in network.named_modules() if name in astride} | {network}


def _nodes_before(graph: fx.Graph, learning: Collection[str]) -> set[fx.Node]:
    """The nodes that no learning tensor has a part in."""
    before: set[fx.Node] = set()
    learns = {"call_module": holders(learning), "get_attr": set(learning)}
    for node in graph.nodes:
        takes_part = node.op == "output" or str(node.target) in learns.get(node.op, ())
        if not takes_part and before.issuperset(node.all_input_nodes):
            before.add(node)
    return before


def _first_half(network: nn.Module, graph: fx.Graph, before: set[fx.Node], boundary: fx.Node) -> nn.Module:
    half, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node in before:
            copies[node] = half.node_copy(node, copies.__getitem__)
    half.output(copies[boundary])
    return _as_module(network, half)


def _second_half(network: nn.Module, graph: fx.Graph, before: set[fx.Node], boundary: fx.Node) -> nn.Module:
    half = fx.Graph()
    copies = {boundary: half.placeholder("activations")}
    for node in graph.nodes:
        # A frozen tensor that both halves use belongs to both.
        if node not in before or node.op == "get_attr":
            copies[node] = half.node_copy(node, copies.__getitem__)
    return _as_module(network, half)


def _as_module(network: nn.Module, half: fx.Graph) -> nn.Module:
    module = fx.GraphModule(network, half)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
