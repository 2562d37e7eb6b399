"""What is told of each image in a file of predictions."""

from collections.abc import Sequence
from typing import Any

from ensemble.export_card import ExportCard
from ensemble.operating import flag_columns
from ensemble.spec import EnsembleSpec


def told(spec: EnsembleSpec | ExportCard, probs_C: Sequence[float]) -> dict[str, Any]:
    """Columns for one image: the probability of each class, and 1 or 0 where an operating point flags it or not."""
    return probability_columns(spec, probs_C) | flag_columns(spec.operating_points, probs_C, spec.classes)


def probability_columns(spec: EnsembleSpec | ExportCard, probs_C: Sequence[float]) -> dict[str, Any]:
    """Columns for one image: the probability of each class."""
    return {f"p_{name}": p for name, p in zip(spec.classes, probs_C, strict=True)}
