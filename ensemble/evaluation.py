"""How an ensemble and its members fare on some rows.

Shapes: M members, N examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.metrics import (
    ConfidenceBin,
    Floats,
    Interval,
    LesionBootstrap,
    accuracy,
    confidence_bins,
    confusion_matrix,
    expected_calibration_error,
    macro_recall,
    negative_log_likelihood,
)
from ensemble.classes import ClassScores, score_classes
from ensemble.crossfit import Hits, Truth
from ensemble.decision import choose, correct_members
from ensemble.ladder import BEST_SINGLE, Rung, climb
from ensemble.operating import Flagged, judge_flags
from ensemble.parts import Part
from ensemble.spec import EnsembleSpec
from ensemble.votes import Vote, take_vote
from ensemble.watching import Watched, watch


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
        per_class: Each class against the rest.
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
    per_class: tuple[ClassScores, ...]
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
            "classes": [row.to_dict() for row in self.per_class],
            "confusion": self.confusion_CC.tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How the blend and each member fare on one part of the data.

    Attributes:
        part: Images, lesions and true classes.
        probs_NC: The blend's probabilities, by which classes are chosen.
        blend: Scores of the blend.
        members: Scores of each member.
        ladder: What each step gains, from the best single trials by plain argmax to the ensemble.
        over_single: The ensemble against the best single trial, both by p / prior.
        flags: Which images each operating point flags (N,).
        flagged: How the flags of each operating point fare.
        watched: Melanoma, and the classes of the operating points, looked at closely.
    """

    part: Part
    probs_NC: npt.NDArray[np.float64]
    blend: Scores
    members: tuple[Scores, ...]
    ladder: tuple[Rung, ...]
    over_single: Rung
    flags: Sequence[Hits]
    flagged: tuple[Flagged, ...]
    watched: tuple[Watched, ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.part.images)

    @property
    def lesions(self) -> int:
        """How many lesions the images show."""
        return len(set(self.part.groups))

    @property
    def reliability(self) -> tuple[ConfidenceBin, ...]:
        """How sure the blend is, and how often it is right."""
        return confidence_bins(self.part.labels, self.probs_NC)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "images": self.images,
            "lesions": self.lesions,
            "ensemble": self.blend.to_dict(),
            "members": [scores.to_dict() for scores in self.members],
            "ladder": [rung.to_dict() for rung in self.ladder],
            "gain_over_best_single": self.over_single.gain,
            "gain_over_best_single_interval": list(self.over_single.gain_interval or ()),
            "operating_points": [flagged.to_dict() for flagged in self.flagged],
            "watched": [watched.to_dict() for watched in self.watched],
            "reliability": [each._asdict() for each in self.reliability],
        }


def evaluate(
    probs_MNC: Floats, spec: EnsembleSpec, part: Part, vote: Vote | None = None, plain_MNC: Floats | None = None
) -> Evaluation:
    """Evaluates the members and their vote on one part of the data.

    Args:
        probs_MNC: What each member believes of the part's images, uncorrected. Members are judged by p / prior, as the
            trials were.
        spec: The members and their rule.
        part: The images' lesions and true classes.
        vote: Their vote where anything was fitted to these very images, out of fold; None takes it by the rule.
        plain_MNC: What each believes of one view, where `probs_MNC` are of several.
    """
    vote = vote or take_vote(probs_MNC, spec, plain_MNC)
    plain_MNC = probs_MNC if plain_MNC is None else plain_MNC
    corrected_MNC = correct_members(probs_MNC, np.asarray([member.prior for member in spec.members]))
    truth = Truth.of(part.labels, part.groups, len(spec.classes))
    bootstrap = truth.bootstrap
    names, singles = [member.name for member in spec.members], best_singles(spec)
    steps = [(f"{BEST_SINGLE}{names[m]}", plain_MNC[m]) for m in singles]
    over_single = ((f"{BEST_SINGLE}p / prior", corrected_MNC[singles[-1]]), ("ensemble", vote.probs_NC))
    chosen_N = choose(vote.probs_NC)
    return Evaluation(
        part=part,
        probs_NC=vote.probs_NC,
        blend=_score("Ensemble", vote.raw_NC, vote.probs_NC, part, spec.classes, bootstrap),
        members=tuple(
            _score(name, raw_NC, corrected_NC, part, spec.classes, bootstrap)
            for name, raw_NC, corrected_NC in zip(names, probs_MNC, corrected_MNC, strict=True)
        ),
        ladder=climb([*steps, *vote.steps], part, bootstrap),
        over_single=climb(over_single, part, bootstrap)[1],
        flags=vote.flags,
        flagged=judge_flags(spec.operating_points, vote.flags, chosen_N, truth, spec.classes),
        watched=watch(spec.operating_points, vote.flags, vote.probs_NC, chosen_N, part, spec.classes, bootstrap),
    )


def best_singles(spec: EnsembleSpec) -> list[int]:
    """Places of the best member of each architecture by validation recall, the best of all last."""
    best: dict[str, int] = {}
    for place, member in enumerate(spec.members):
        arch = member.arch.timm_name
        if arch not in best or member.recall > spec.members[best[arch]].recall:
            best[arch] = place
    return sorted(best.values(), key=lambda place: (spec.members[place].recall, -place))


def _score(
    name: str, raw_NC: Floats, corrected_NC: Floats, part: Part, classes: Sequence[str], bootstrap: LesionBootstrap
) -> Scores:
    predictions_N = choose(corrected_NC)
    confusion_CC = confusion_matrix(part.labels, predictions_N, len(classes))
    argmax_CC = confusion_matrix(part.labels, choose(raw_NC), len(classes))
    return Scores(
        name=name,
        recall=macro_recall(confusion_CC),
        interval=bootstrap.interval(predictions_N == part.labels),
        recall_argmax=macro_recall(argmax_CC),
        accuracy=accuracy(confusion_CC),
        accuracy_argmax=accuracy(argmax_CC),
        ece=expected_calibration_error(part.labels, corrected_NC),
        nll=negative_log_likelihood(part.labels, corrected_NC),
        per_class=score_classes(corrected_NC, predictions_N, part, classes),
        confusion_CC=confusion_CC,
    )
