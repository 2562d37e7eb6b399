"""The trials of each architecture that may be as good as its best: those vote, unless a number is asked for.

Shapes: M members, N examples, C classes.
"""

import dataclasses

import numpy as np

from core.comparing import Contest
from core.metrics import Floats
from ensemble.decision import choose, correct_members
from ensemble.members import Selection
from ensemble.parts import Part

MOST = 5  # of an architecture: more cost as many forward passes and gain little


def keep_tied(candidates: Selection, part: Part, probs_MNC: Floats) -> tuple[Selection, Floats]:
    """Leaves out the trials that are worse than the best of their architecture, and all but its five best.

    A trial is tied with the best if the 95 % interval of the paired difference in macro recall, over lesions, holds 0.

    Args:
        candidates: Who may vote, the best of an architecture first.
        part: The images that judge them.
        probs_MNC: What each believes of these, uncorrected.

    Returns:
        Who votes, and what they believe.
    """
    priors_MC = np.asarray([member.prior for member in candidates.members])
    chosen_MN = np.stack([choose(probs_NC) for probs_NC in correct_members(probs_MNC, priors_MC)])
    archs: dict[str, list[int]] = {}
    for place, member in enumerate(candidates.members):
        archs.setdefault(member.study.timm_name, []).append(place)
    kept, left_out = list[int](), list(candidates.left_out)
    for places in archs.values():
        contest = Contest(part.labels, chosen_MN[places[:MOST]], part.groups)
        best = candidates.members[places[0]].name
        for place, behind in zip(places, contest.differences(), strict=False):
            if behind.is_tie:
                kept.append(place)
                continue
            (low, high), name = behind.interval, candidates.members[place].name
            points = f"{100 * behind.value:.1f} points ({100 * low:.1f} to {100 * high:.1f})"
            left_out.append((name, f"not tied with {best}, which is {points} better"))
        left_out += [(candidates.members[place].name, f"{MOST} better ones vote") for place in places[MOST:]]
    members = [candidates.members[place] for place in kept]
    return dataclasses.replace(candidates, members=members, left_out=left_out), probs_MNC[kept]
