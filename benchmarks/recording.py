"""Recorded trials: the learning curves that benchmarks.curves wrote, up to where a search would have ended them.

Legend: T recorded trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A recorded trial, as far as a search without a pruner would have run it.

    Attributes:
        number: Its number in the file.
        params: Its parameters.
        recalls: Validation recall after each epoch.
        elapsed_s: Seconds from its start to the end of each epoch.
        complete: Whether it gave a model; else its loss became NaN.
    """

    number: int
    params: dict[str, Any]
    recalls: tuple[float, ...]
    elapsed_s: tuple[float, ...]
    complete: bool = True

    @property
    def final(self) -> float:
        """What the search has of it: its best recall, or nothing."""
        return max(self.recalls) if self.complete else 0.0

    def cost_s(self, epochs: int) -> float:
        """Seconds of its first epochs."""
        return self.elapsed_s[epochs - 1] if epochs else 0.0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The trials of a file.

    Attributes:
        curves: T of them.
        epochs: Of a trial that nothing ends.
        image_size: Pixels.
        provenance: What the file says of itself.
    """

    curves: list[Curve]
    epochs: int
    image_size: int
    provenance: dict[str, Any]


def read_curves(file: Path, patience: int) -> Recording:
    """The trials that benchmarks.curves wrote.

    Args:
        file: Where.
        patience: Epochs without gain after which a search ends a trial; 0 never.

    Raises:
        InputError: The file is another one, or holds fewer than two trials.
    """
    from core.files import read_json

    if not file.is_file():
        raise InputError(f"Curves must be in a file that exists, but got {file}. Write one with benchmarks.curves.")
    content = read_json(file)
    try:
        fixed = content["provenance"]["fixed"]
        curves = [curve_of(trial, patience) for trial in content["trials"]]
        recording = Recording(
            curves=curves,
            epochs=fixed["epochs"],
            image_size=fixed["image_size"],
            provenance=content["provenance"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file} must be written by benchmarks.curves, but it lacks {error}. Write it anew."
        ) from error
    if not any(curve.complete for curve in curves):
        raise InputError(f"{file} must hold a complete trial, but it holds none. Record some with benchmarks.curves.")
    return recording


def curve_of(trial: Mapping[str, Any], patience: int) -> Curve:
    """A trial of a file, up to where patience ends it."""
    epochs = epochs_of_patience(trial["recall"], patience)
    return Curve(
        number=trial["number"],
        params=trial["params"],
        recalls=tuple(trial["recall"][:epochs]),
        elapsed_s=tuple(trial["elapsed_s"][:epochs]),
        complete=epochs is not None or not trial["reason"],
    )


def epochs_of_patience(recalls: Sequence[float], patience: int) -> int | None:
    """Epochs until patience ends a trial, by the trainer's rule; None if it doesn't.

    >>> epochs_of_patience([0.5, 0.6, 0.6, 0.55, 0.7], 2)
    4
    """
    best, best_epoch = -1.0, 0
    for epoch, recall in enumerate(recalls):
        if recall > best:
            best, best_epoch = recall, epoch
        if 0 < patience <= epoch - best_epoch:
            return epoch + 1
    return None
