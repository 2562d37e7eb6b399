"""Networks read as graphs by torch.fx, and whether what is made of a graph computes the same."""

import threading
import warnings
from collections.abc import Iterable

from torch import Tensor, fx, nn

# While fx traces it has patched `nn.Module` for all threads: two at once would leave it patched for ever, and a network
# that another thread calls meanwhile may fail.
TRACING = threading.RLock()
_TOLERANCE = 1e-3  # of the largest number: a wrong trace is off by much more, another order of sums by much less


def trace(network: nn.Module, tracer: fx.Tracer) -> fx.Graph:
    """The graph of a network, which takes images alone.

    Other threads had better not compute meanwhile: see `TRACING`.

    Args:
        network: What its forward keeps of its input in itself is a stand-in afterwards.
        tracer: Knows what stays one call.

    Raises:
        Exception: Whatever a model's own Python does with a stand-in for a tensor; fx has no error of its own for it.
    """
    with TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a model's own, which it gives again whenever it computes
        return tracer.trace(network)


def holders(names: Iterable[str]) -> set[str]:
    """Names of the modules that something lies in, from the innermost to the network itself, whose name is empty.

    Args:
        names: Of tensors or modules in a network.
    """
    found: set[str] = set()
    for name in names:
        while name:
            name = name.rpartition(".")[0]
            if name in found:  # and so are those around it
                break
            found.add(name)
    return found


def are_close(whole: Tensor, other: Tensor) -> bool:
    """Whether two networks gave the same up to the order of sums; not where one gave NaN."""
    return bool((whole - other).abs().max() <= _TOLERANCE * whole.abs().max())
