"""All that an ensemble learns from validation, or from confirmed trials: who votes, by which rule, from where to flag.

Shapes: V views, M members, N examples, C classes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ensemble.choosing import fit_members, keep_voters
from ensemble.confirmed import read_confirmed
from ensemble.crossfit import Truth
from ensemble.describing import describe
from ensemble.evaluation import Evaluation, evaluate
from ensemble.members import FitTo, Selection
from ensemble.operating import check_lesions, fit_points
from ensemble.parts import read_validation
from ensemble.spec import EnsembleSpec
from ensemble.tied import MOST, keep_tied
from ensemble.viewing import among, fit_views
from ensemble.votes import vote_out_of_fold

# What the members of a spec believe of each view of the validation images (V, M, N, C), V being the spec's views.
See = Callable[[Selection, EnsembleSpec], npt.NDArray[np.float64]]


# Trials an architecture: so many; those that are tied with its best (`ensemble.tied`); or as many as pay
# (`ensemble.choosing.ways_to_vote`).
TopK = int | Literal["tied", "auto"]


class Wanted(NamedTuple):
    """What may be chosen, and by what."""

    vote: str = "mean"  # see `ensemble.choosing.ways_to_vote`, as for the next
    top_k: TopK = "tied"
    fit_to: FitTo = "validation"  # see `ensemble.members.choose_members`
    tau: float | None = None  # see `ensemble.fitting.fit_rule`
    views: tuple[int, ...] = (1,)  # numbers of views to choose from
    min_sensitivity: Sequence[tuple[str, float]] = ()  # see `ensemble.operating.fit_points`

    @property
    def exactly(self) -> int | None:
        """Trials that each architecture must have; None for however many."""
        return self.top_k if isinstance(self.top_k, int) else None

    @property
    def at_most(self) -> int | None:
        """Trials of an architecture that are looked at; None for all."""
        return MOST if self.top_k == "tied" else self.exactly


class Learned(NamedTuple):
    """What was learned."""

    selection: Selection
    spec: EnsembleSpec
    validation: Evaluation  # out of fold where anything was fitted


def learn(candidates: Selection, wanted: Wanted, command: str, see: See) -> Learned:
    """Chooses among trials and fits their vote to validation, or to what they believed out of fold.

    Args:
        candidates: Who may vote.
        wanted: What may be chosen.
        command: The command line, for the record.
        see: Shows the validation images to the members, where more than one view may be chosen.

    Raises:
        InputError: What trials believed is damaged, or a threshold is asked for that the rows don't allow; that is told
            before anything is shown.
    """
    confirmed = wanted.fit_to == "confirmed"
    part, probs_MNC = (read_confirmed if confirmed else read_validation)(candidates.members)
    classes = candidates.members[0].study.info["data"]["classes"]
    check_lesions(wanted.min_sensitivity, Truth.of(part.labels, part.groups, len(classes)), classes)
    if wanted.top_k == "tied":
        candidates, probs_MNC = keep_tied(candidates, part, probs_MNC)
    fit, chooser = fit_members(
        candidates.members, part, probs_MNC, vote=wanted.vote, top_k=wanted.at_most, tau=wanted.tau
    )
    selection, voting = keep_voters(candidates, fit, wanted.vote)
    plain, told_MNC, plain_MNC, ways = fit, probs_MNC[voting], None, chooser.compared()
    if wanted.views != (1,) and not confirmed:
        spec = describe(selection, fit, ways, (), command)
        seen_VMNC = see(
            selection, dataclasses.replace(spec, rule=dataclasses.replace(spec.rule, views=max(wanted.views)))
        )
        priors_MC, weigh = np.asarray([member.prior for member in spec.members]), among(voting, chooser.weigh)
        fit, plain = fit_views(seen_VMNC, priors_MC, fit.truth, weigh, offered=wanted.views, tau=wanted.tau)
        told_MNC, plain_MNC = seen_VMNC[: fit.rule.views].mean(axis=0), seen_VMNC[0]
    points, flags = fit_points(wanted.min_sensitivity, fit.probs_NC, fit.truth, classes)
    vote = vote_out_of_fold(fit, plain, flags)
    if confirmed:  # networks that hadn't seen a row saw one view of it; others see as many as were asked for
        fit = dataclasses.replace(fit, rule=dataclasses.replace(fit.rule, views=wanted.views[0]))
    spec = describe(selection, fit, ways, points, command)
    return Learned(selection, spec, evaluate(told_MNC, spec, part, vote, plain_MNC))
