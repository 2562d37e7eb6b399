"""The images that an exported ensemble is quantised on and judged by: training and validation, never test.

Shapes: N images, S stored side, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.artifacts import StudiesFolder
from core.comparing import Contest, Difference
from core.errors import InputError
from core.framing import Frame
from core.metrics import Floats
from core.pixels import decode_files
from ensemble.crossfit import Truth
from ensemble.decision import choose
from ensemble.export_card import Input
from ensemble.operating import Flagged, OperatingPoint, flag, judge_flags
from ensemble.parts import find_part
from ensemble.spec import EnsembleSpec
from ensemble.studies import Study, read_studies
from ensemble.tables import percent

Rows = npt.NDArray[np.int64]


class Images(NamedTuple):
    """Some images of an ensemble's study."""

    files: list[Path]
    labels: Rows  # true class of each (N,)
    groups: tuple[str, ...]  # lesion of each (N,)


class Loss(NamedTuple):
    """What quantising costs on validation images. The rule was fitted to them, so that only the difference tells."""

    images: int
    float32: float  # macro recall
    int8: float
    lost: Difference
    changed: float  # share of the decisions
    flagged: tuple[tuple[Flagged, Flagged], ...] = ()  # by each operating point, in float32 and in int8

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "images": self.images,
            "macro_recall_float32": self.float32,
            "macro_recall_int8": self.int8,
            "lost": self.lost.value,
            "lost_interval": list(self.lost.interval),
            "decisions_changed": self.changed,
            "operating_points": [{"float32": plain.to_dict(), "int8": int8.to_dict()} for plain, int8 in self.flagged],
        }

    def told(self) -> Iterator[str]:
        """The figures in sentences."""
        low, high = (100 * end for end in self.lost.interval)
        yield (
            f"macro recall on {self.images:,} validation images: {self.float32:.1%} in float32, {self.int8:.1%} in "
            f"int8, {100 * self.lost.value:.1f} points lost (95% interval {low:.1f} to {high:.1f}); "
            f"{self.changed:.1%} of the decisions changed"
        )
        for plain, int8 in self.flagged:
            yield (
                f"flagged for {int8.class_name} from p = {int8.threshold:.3f}, which was fitted in float32: "
                f"sensitivity {percent(plain.sensitivity)} in float32, {percent(int8.sensitivity)} in int8; "
                f"specificity {percent(plain.specificity)} in float32, {percent(int8.specificity)} in int8"
            )
            # The hair is that of `ensemble.operating.fit_threshold`.
            if int8.sensitivity is not None and int8.sensitivity < int8.min_sensitivity - 1e-9:
                yield f"in int8 that finds less of {int8.class_name} than the {int8.min_sensitivity:g} asked for"


def find_images(spec: EnsembleSpec, studies: Path, places: Sequence[Path], name: str) -> Images:
    """Finds one part of the images that an ensemble was searched on.

    Args:
        spec: The ensemble.
        studies: The folder that its studies lie in.
        places: Where the images are now, as `--data`; none if they haven't moved.
        name: ``train`` or ``val``.

    Raises:
        InputError: The study or the data are not there, or not the same.
    """
    assert name in ("train", "val"), "the test split stays sealed"
    manifest, rows, part = find_part(_find_study(spec, studies), name, places)
    return Images([manifest.file(row) for row in rows.tolist()], part.labels, part.groups)


def _find_study(spec: EnsembleSpec, studies: Path) -> Study:
    name = spec.members[0].study
    if not StudiesFolder(studies).study(name).exists:
        raise InputError(
            f"`--studies` must be the folder that the study {name} lies in, as int8 is calibrated on its training "
            f"images, but {studies} has none of that name. Give the right one, or leave --int8 out."
        )
    (study,) = read_studies(StudiesFolder(studies), [name])
    if study.info["split"] != spec.split or study.info["data"]["fingerprint"] != spec.data.get("fingerprint"):
        raise InputError(
            f"`--studies` must hold the study that the ensemble was built from, but {name} in {studies} is of other "
            "images or another split. Give the right folder, or leave --int8 out."
        )
    return study


def draw_balanced(labels_N: Rows, count: int) -> Rows:
    """Places of some images, as equal numbers of each class as there are, sorted; the same ones every time."""
    order = np.random.default_rng(0).permutation(len(labels_N))
    seen, ranks = Counter[int](), []
    for label in labels_N[order].tolist():
        ranks.append(seen[label])
        seen[label] += 1
    return np.sort(order[np.argsort(ranks, kind="stable")[:count]])


def decode_for(frames: Sequence[Frame], files: Sequence[Path]) -> dict[str, npt.NDArray[np.uint8]]:
    """Pixels of images (N, S, S, 3) by the names of inputs.

    Raises:
        InputError: Some can't be decoded.
    """
    return {Input.of(frame).name: decode_files(files, frame) for frame in frames}


def judge_loss(
    images: Images,
    float32_NC: Floats,
    int8_NC: Floats,
    classes: Sequence[str],
    points: Sequence[OperatingPoint] = (),
) -> Loss:
    """Compares probabilities in float32 and int8 of the same images, and what the same thresholds flag of them."""
    chosen_2N = np.stack([choose(float32_NC), choose(int8_NC)])
    hits_2N = chosen_2N == images.labels
    truth = Truth.of(images.labels, images.groups, len(classes))
    recalls = truth.recalls(hits_2N)
    plain, quantised = (
        judge_flags(points, flag(points, probs_NC, classes), chosen_N, truth, classes)
        for probs_NC, chosen_N in zip((float32_NC, int8_NC), chosen_2N, strict=True)
    )
    return Loss(
        images=len(images.labels),
        float32=float(recalls[0]),
        int8=float(recalls[1]),
        lost=Contest(images.labels, hits_2N, images.groups).differences()[1],
        changed=float((chosen_2N[0] != chosen_2N[1]).mean()),
        flagged=tuple(zip(plain, quantised, strict=True)),
    )
