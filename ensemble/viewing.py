"""How many turned and mirrored views of an image the members see: chosen by what each number gives out of fold.

Shapes: V views, M members, N examples, C classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.metrics import Floats
from ensemble.crossfit import Mask, Truth, simplest
from ensemble.decision import choose
from ensemble.fitting import Fit, Voters, Weigh, fit_rule, measure


def fit_views(
    views_VMNC: Floats,
    priors_MC: Floats,
    truth: Truth,
    weigh: Weigh,
    *,
    offered: Sequence[int],
    tau: float | None = None,
) -> tuple[Fit, Fit]:
    """Chooses among numbers of views, and fits the rule to them.

    More views cost as many more forward passes, so that the fewest are taken whose recall is within one standard error
    of the best.

    Args:
        views_VMNC: What each member believes of each view, uncorrected; the first is of the images as they are.
        priors_MC: The class frequencies that each learned.
        truth: The rows.
        weigh: Chooses who votes.
        offered: Numbers of views to choose from; one is taken as it is.
        tau: See `ensemble.fitting.fit_rule`.

    Returns:
        The fit with the number that was taken, and the fit with one view.
    """
    fits = {
        views: fit_rule(views_VMNC[:views].mean(axis=0), priors_MC, truth, weigh, tau=tau, views=views)
        for views in sorted({1, *offered})
    }
    hits_VN = np.stack([choose(fits[views].corrected_NC) == truth.labels_N for views in offered])

    def take(rows_N: Mask) -> int:
        return offered[simplest(hits_VN[:, rows_N], truth.take(rows_N), offered)]

    taken, plain = take(np.ones(len(truth.labels_N), bool)), fits[1]
    told = {name: getattr(plain, name).copy() for name in ("raw_NC", "corrected_NC", "probs_NC")}
    of_folds = []
    for fit_N, held_N in truth.held_out():
        of_folds.append(take(fit_N))
        for name, values_NC in told.items():
            values_NC[held_N] = getattr(fits[of_folds[-1]], name)[held_N]
    how = "as asked for" if len(offered) == 1 else f"{min(of_folds)} to {max(of_folds)} in {len(of_folds)} folds"
    steps = (
        *plain.steps[:-1],
        measure("views", f"{taken}, {how}, tau {fits[taken].rule.tau:g}", told["corrected_NC"], truth),
        measure("temperature", fits[taken].steps[-1].value, told["probs_NC"], truth),
    )
    return dataclasses.replace(fits[taken], steps=steps, **told), plain


def among(voting: npt.NDArray[np.int64], weigh: Weigh) -> Weigh:
    """Chooses as `weigh` does, but among some members only; equal weights where it would choose none of them.

    Args:
        voting: Places of these members among all.
        weigh: Chooses among all.
    """

    def weigh_some(rows_N: Mask) -> Voters:
        weights_M, vote = weigh(rows_N)
        some_M = weights_M[voting]
        return Voters(some_M / some_M.sum() if some_M.any() else np.full(len(voting), 1 / len(voting)), vote)

    return weigh_some
