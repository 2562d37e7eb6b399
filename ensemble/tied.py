"""The trials of each architecture that may be as good as its best: those vote, unless a number is asked for.

Shapes: M members, N examples, C classes.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.comparing import Contest, Difference
from core.metrics import Floats
from ensemble.decision import choose, correct_members
from ensemble.members import Selection
from ensemble.parts import Part

MOST = 5  # of an architecture are looked at: more cost as many forward passes and gain little


class Behind(NamedTuple):
    """How a trial compares with the best of its architecture."""

    best: int  # place of that one
    by: Difference  # what that one is better by


def keep_tied(candidates: Selection, part: Part, probs_MNC: Floats) -> tuple[Selection, Floats]:
    """Leaves out the trials that are worse than the best of their architecture.

    A trial is tied with the best if the 95 % interval of the paired difference in macro recall, over lesions, holds 0.

    Args:
        candidates: Who may vote.
        part: The images that judge them.
        probs_MNC: What each believes of these, uncorrected.

    Returns:
        Who votes, and what they believe.
    """
    members = candidates.members
    priors_MC, archs = np.asarray([member.prior for member in members]), [m.study.timm_name for m in members]
    behind_M = behind_best(probs_MNC, priors_MC, archs, part.labels, part.groups)
    kept = [place for place, behind in enumerate(behind_M) if behind.by.is_tie]
    left_out = list(candidates.left_out)
    for member, behind in zip(members, behind_M, strict=True):
        if not behind.by.is_tie:
            best, (low, high) = members[behind.best].name, behind.by.interval
            points = f"{100 * behind.by.value:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
            left_out.append((member.name, f"not tied with {best}, which is {points} better"))
    return dataclasses.replace(candidates, members=[members[m] for m in kept], left_out=left_out), probs_MNC[kept]


def behind_best(
    probs_MNC: Floats,
    priors_MC: Floats,
    archs: Sequence[str],
    labels_N: npt.NDArray[np.int64],
    groups_N: Sequence[str],
) -> list[Behind]:
    """How each compares with the best of its architecture on these images (M,), by argmax p / prior.

    Which one is the best is asked here and not of what ranked them: that may be a mean over runs of several seeds, of
    which other networks vote.
    """
    hits_MN = np.stack([choose(probs_NC) == labels_N for probs_NC in correct_members(probs_MNC, priors_MC)])
    recalls_M = np.mean([hits_MN[:, labels_N == c].mean(axis=1) for c in np.unique(labels_N)], axis=0)
    behind: dict[int, Behind] = {}
    for arch in dict.fromkeys(archs):
        places = [place for place, of in enumerate(archs) if of == arch]
        best = max(places, key=lambda place: recalls_M[place])  # of equals the first
        places = [best, *(place for place in places if place != best)]
        differences = Contest(labels_N, hits_MN[places], groups_N).differences()
        behind |= {place: Behind(best, by) for place, by in zip(places, differences, strict=True)}
    return [behind[place] for place in range(len(archs))]
