"""The members' vote on some images, step by step, by the rule or out of fold.

Shapes: M members, N examples, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.metrics import Floats
from ensemble.crossfit import Hits
from ensemble.decision import Rule, correct_members, temper
from ensemble.fitting import Fit
from ensemble.operating import flag
from ensemble.spec import EnsembleSpec
from ensemble.voting import soft_vote

Probs = npt.NDArray[np.float64]
VoteStep = tuple[str, Probs]


class Vote(NamedTuple):
    """What the members' vote says (N, C), step by step."""

    raw_NC: Probs  # of the uncorrected members
    steps: tuple[VoteStep, ...]  # names and probabilities, from the vote of uncorrected members that see one view
    flags: Sequence[Hits]  # which images each operating point flags (N,)

    @property
    def probs_NC(self) -> Probs:
        """By the whole decision rule."""
        return self.steps[-1][1]


def take_vote(probs_MNC: Floats, spec: EnsembleSpec, plain_MNC: Floats | None = None) -> Vote:
    """Lets the members vote as the spec says.

    Args:
        probs_MNC: What each member believes, uncorrected.
        spec: Priors and weights of the members, and the rule.
        plain_MNC: The same of one view, where `probs_MNC` are of several.
    """
    weights_M, rule = [member.weight for member in spec.members], spec.rule
    priors_MC = np.asarray([member.prior for member in spec.members])
    plain_MNC = probs_MNC if plain_MNC is None else plain_MNC
    raw_NC, plain_NC, voted_NC = (
        soft_vote(values_MNC, weights_M, rule.vote)
        for values_MNC in (
            plain_MNC,
            correct_members(plain_MNC, priors_MC, rule.tau),
            correct_members(probs_MNC, priors_MC, rule.tau),
        )
    )
    probs_NC = temper(voted_NC, rule.temperature)
    steps = name_steps(rule, raw_NC, plain_NC, voted_NC, probs_NC)
    return Vote(soft_vote(probs_MNC, weights_M, rule.vote), steps, flag(spec.operating_points, probs_NC, spec.classes))


def vote_out_of_fold(fit: Fit, plain: Fit, flags: Sequence[Hits] = ()) -> Vote:
    """The vote on the rows that it was fitted to, each time by what was fitted to the other folds.

    Args:
        fit: The fit.
        plain: The fit with one view, which may be the same one.
        flags: Which rows each operating point flags, likewise.
    """
    # Where one view was taken, other folds may have taken more: only the fit itself has the choice in it.
    plain = plain if fit.rule.views > 1 else fit
    told = (plain.raw_NC, plain.corrected_NC, fit.corrected_NC, fit.probs_NC)
    steps = name_steps(fit.rule, *told, plain_tau=plain.rule.tau)
    return Vote(fit.raw_NC, steps, flags)


def name_steps(
    rule: Rule, raw_NC: Probs, plain_NC: Probs, voted_NC: Probs, probs_NC: Probs, *, plain_tau: float | None = None
) -> tuple[VoteStep, ...]:
    """The steps of a rule with their names: the vote, the prior correction, views if there are several, temperature.

    Args:
        rule: The rule.
        raw_NC: What the vote of one view says.
        plain_NC: The same, corrected.
        voted_NC: The corrected vote of all views.
        probs_NC: The same after the temperature.
        plain_tau: How much of the prior was taken out of one view; None for the rule's.
    """
    views = [(f"+ {rule.views} views", voted_NC)] if rule.views > 1 else []
    return (
        ("vote", raw_NC),
        (f"+ prior correction (tau {rule.tau if plain_tau is None else plain_tau:g})", plain_NC),
        *views,
        (f"+ temperature ({rule.temperature:.2f})", probs_NC),
    )
