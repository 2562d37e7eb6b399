"""How an ensemble and its members fare on some rows.

Shapes: M members, N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import (
    Floats,
    Interval,
    Ints,
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    expected_calibration_error,
    macro_recall,
    negative_log_likelihood,
    recall_per_class,
    wilson_interval,
)
from ensemble.decision import choose, correct_members
from ensemble.parts import Part
from ensemble.spec import EnsembleSpec
from ensemble.voting import soft_vote


class ClassRecall(NamedTuple):
    """How much of one class was found."""

    name: str
    images: int
    lesions: int
    recall: float | None  # None where no image is of this class
    interval: Interval | None  # 95 %, over lesions


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """How one classifier fares.

    Attributes:
        name: Of the classifier.
        recall: Macro recall of the decision.
        interval: 95 % interval of the macro recall, bootstrapped over lesions.
        recall_argmax: Macro recall of the plain argmax, without prior correction.
        accuracy: Of the decision; equals its micro recall.
        accuracy_argmax: Of the plain argmax.
        ece: Expected calibration error of the corrected probabilities.
        nll: Negative log likelihood of them, nats.
        per_class: Recall of each class.
        confusion_CC: Counts; the row is the true class.
    """

    name: str
    recall: float
    interval: Interval
    recall_argmax: float
    accuracy: float
    accuracy_argmax: float
    ece: float
    nll: float
    per_class: tuple[ClassRecall, ...]
    confusion_CC: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON can hold them."""
        return {
            "name": self.name,
            "macro_recall": self.recall,
            "macro_recall_interval": list(self.interval),
            "macro_recall_argmax": self.recall_argmax,
            "accuracy": self.accuracy,
            "accuracy_argmax": self.accuracy_argmax,
            "expected_calibration_error": self.ece,
            "negative_log_likelihood": self.nll,
            "classes": [
                {**row._asdict(), "interval": None if row.interval is None else list(row.interval)}
                for row in self.per_class
            ],
            "confusion": self.confusion_CC.tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How the blend and each member fare on one part of the data.

    Attributes:
        part: Images, lesions and true classes.
        probs_NC: The blend's probabilities, in which all classes count as equally frequent.
        blend: Scores of the blend.
        members: Scores of each member.
    """

    part: Part
    probs_NC: npt.NDArray[np.float64]
    blend: Scores
    members: tuple[Scores, ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.part.images)

    @property
    def lesions(self) -> int:
        """How many lesions the images show."""
        return len(set(self.part.groups))

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "images": self.images,
            "lesions": self.lesions,
            "ensemble": self.blend.to_dict(),
            "members": [scores.to_dict() for scores in self.members],
        }


def evaluate(probs_MNC: Floats, spec: EnsembleSpec, part: Part) -> Evaluation:
    """Evaluates the members and their vote on one part of the data.

    Args:
        probs_MNC: What each member believes of the part's images, uncorrected.
        spec: Names, priors and weights of the members.
        part: The images' lesions and true classes.
    """
    weights_M = [member.weight for member in spec.members]
    corrected_MNC = correct_members(probs_MNC, np.asarray([member.prior for member in spec.members]))
    voted_NC = soft_vote(corrected_MNC, weights_M)
    names = [member.name for member in spec.members]
    return Evaluation(
        part=part,
        probs_NC=voted_NC,
        blend=_score("Ensemble", soft_vote(probs_MNC, weights_M), voted_NC, part, spec.classes),
        members=tuple(
            _score(name, raw_NC, corrected_NC, part, spec.classes)
            for name, raw_NC, corrected_NC in zip(names, probs_MNC, corrected_MNC, strict=True)
        ),
    )


def _score(name: str, raw_NC: Floats, corrected_NC: Floats, part: Part, classes: Sequence[str]) -> Scores:
    predictions_N = choose(corrected_NC)
    confusion_CC = confusion_matrix(part.labels, predictions_N, len(classes))
    argmax_CC = confusion_matrix(part.labels, choose(raw_NC), len(classes))
    return Scores(
        name=name,
        recall=macro_recall(confusion_CC),
        interval=bootstrap_interval(part.labels, predictions_N, part.groups, len(classes)),
        recall_argmax=macro_recall(argmax_CC),
        accuracy=accuracy(confusion_CC),
        accuracy_argmax=accuracy(argmax_CC),
        ece=expected_calibration_error(part.labels, corrected_NC),
        nll=negative_log_likelihood(part.labels, corrected_NC),
        per_class=_recalls(confusion_CC, part, classes),
        confusion_CC=confusion_CC,
    )


def _recalls(confusion_CC: Ints, part: Part, classes: Sequence[str]) -> tuple[ClassRecall, ...]:
    rows = []
    groups = np.asarray(part.groups, dtype=str)
    for c, (name, recall) in enumerate(zip(classes, recall_per_class(confusion_CC), strict=True)):
        images, lesions = int((part.labels == c).sum()), len(np.unique(groups[part.labels == c]))
        interval = wilson_interval(float(recall), lesions) if images else None
        rows.append(ClassRecall(name, images, lesions, float(recall) if images else None, interval))
    return tuple(rows)
