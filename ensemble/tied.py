"""The trials of each architecture that may be as good as its best: those vote, unless a number is asked for.

Shapes: M members, N examples, C classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.comparing import Contest, Difference
from core.metrics import Floats
from ensemble.decision import choose, correct_members
from ensemble.members import Selection
from ensemble.parts import Part

MOST = 5  # of an architecture are looked at: more cost as many forward passes and gain little


def keep_tied(candidates: Selection, part: Part, probs_MNC: Floats) -> tuple[Selection, Floats]:
    """Leaves out the trials that are worse than the best of their architecture.

    A trial is tied with the best if the 95 % interval of the paired difference in macro recall, over lesions, holds 0.

    Args:
        candidates: Who may vote, the best of an architecture first.
        part: The images that judge them.
        probs_MNC: What each believes of these, uncorrected.

    Returns:
        Who votes, and what they believe.
    """
    members = candidates.members
    priors_MC, archs = np.asarray([member.prior for member in members]), [m.study.timm_name for m in members]
    behind_M = behind_best(probs_MNC, priors_MC, archs, part.labels, part.groups)
    kept = [place for place, behind in enumerate(behind_M) if behind.is_tie]
    left_out = list(candidates.left_out)
    for member, behind in zip(members, behind_M, strict=True):
        if not behind.is_tie:
            best, (low, high) = members[archs.index(member.study.timm_name)].name, behind.interval
            points = f"{100 * behind.value:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
            left_out.append((member.name, f"not tied with {best}, which is {points} better"))
    return dataclasses.replace(candidates, members=[members[m] for m in kept], left_out=left_out), probs_MNC[kept]


def behind_best(
    probs_MNC: Floats,
    priors_MC: Floats,
    archs: Sequence[str],
    labels_N: npt.NDArray[np.int64],
    groups_N: Sequence[str],
) -> list[Difference]:
    """By how much the first of its architecture is better than each (M,), by argmax p / prior."""
    hits_MN = np.stack([choose(probs_NC) == labels_N for probs_NC in correct_members(probs_MNC, priors_MC)])
    behind: dict[int, Difference] = {}
    for arch in dict.fromkeys(archs):
        places = [place for place, of in enumerate(archs) if of == arch]
        behind |= zip(places, Contest(labels_N, hits_MN[places], groups_N).differences(), strict=True)
    return [behind[place] for place in range(len(archs))]
