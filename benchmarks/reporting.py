"""What every benchmark ends with: a table, a JSON file with machine and versions, and one line `ratio: X`."""

import argparse
import math
import os
import platform
import resource
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from core.cli import write
from core.device import cpu_name
from core.durations import utc
from core.errors import shorten
from core.files import can_lie_at, write_json
from core.versions import installed_versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

RESULTS = Path(__file__).parent / "results"


def json_file(text: str) -> Path:
    """An argparse type: a JSON file that can be written once the work is done."""
    file = Path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file, but {shorten(text)} is a folder. Name a file in it")
    if not can_lie_at(file):
        raise argparse.ArgumentTypeError(f"must be in a folder that can be written to, but {shorten(text)} isn't")
    return file


def add_out_argument(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds `--out`, where the JSON file goes."""
    parser.add_argument(
        "--out",
        type=json_file,
        default=RESULTS / f"{name}.json",
        help=f"JSON file (default: benchmarks/results/{name}.json)",
    )


def machine() -> dict[str, Any]:
    """What a rate depends on besides the code."""
    import psutil
    import torch

    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def peak_memory_gb() -> float:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # bytes there, kilobytes elsewhere


class TreeMemory:
    """The most memory that this process's children, and theirs, have had at once; a look a second, in a thread.

    What processes share, mapped files above all, is left out, or it would count once for each of them.

    Attributes:
        peak_gb: The most so far.
    """

    def __init__(self) -> None:
        self.peak_gb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        while not self._over.wait(1):
            held = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    memory: Any = process.memory_info()
                    held += memory.rss - getattr(memory, "shared", 0)
            self.peak_gb = max(self.peak_gb, held / 1e9)


def device_memory_gb(device: "torch.device") -> float:
    """The most that this process has had on a card by PyTorch's count, or resident where it computes on the CPU."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else peak_memory_gb()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def interval(values: "npt.NDArray[np.float64]") -> dict[str, float]:
    """The middle 95 % of resampled values."""
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def student_interval(values_S: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's 95 % interval of the mean of a few values; None for a single one, of which there is none."""
    from scipy.stats import t

    if len(values_S) < 2:
        return None, None
    half = t.ppf(0.975, len(values_S) - 1) * statistics.stdev(values_S) / math.sqrt(len(values_S))
    mean = statistics.mean(values_S)
    return float(mean - half), float(mean + half)


def show(values: Mapping[str, float], digits: int = 2) -> str:
    """A spread in words."""
    return f"{values['median']:.{digits}f} ({values['low']:.{digits}f} to {values['high']:.{digits}f})"


def finish(out: Path, *, rows: Sequence[Mapping[str, Any]], ratio: float, about: str) -> None:
    """Writes the JSON file and the last line.

    Args:
        out: The file.
        rows: The table.
        ratio: The number that the benchmark is about.
        about: What the ratio is of.
    """
    content = {
        "about": about,
        "ratio": ratio,
        "rows": list(rows),
        "peak_memory_gb": peak_memory_gb(),
        "command": "python -m " + " ".join([_module(), *sys.argv[1:]]),
        "machine": machine(),
        "versions": installed_versions(),
        "created": utc(),
    }
    write_json(out, content)
    write(f"{about}; {out}")
    write(f"ratio: {ratio:.3g}")


def _module() -> str:
    path = Path(sys.argv[0]).resolve()
    return f"benchmarks.{path.stem}"
