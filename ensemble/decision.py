"""From the members' probabilities to one class when recall counts.

Every class counts the same in the macro recall, so each member is first corrected for the class frequencies that it
learned, p / prior^tau. The correction comes before the vote, because averaging flattens probabilities. Then the most
probable class is chosen. A temperature scales the probabilities that are told, and never changes that choice.

Shapes: M members, N examples, C classes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from core.errors import InputError, one_line, shorten
from core.metrics import SMALLEST_PROBABILITY, Floats, correct_prior
from core.shapes import NUMBER, find_misfit

VOTES = ("mean", "geometric")
VIEWS = (1, 4, 8)
LARGEST_TAU = 3.0  # nobody has seen more than 2 pay; prior^tau must not underflow
TEMPERATURES = (0.1, 10.0)  # beyond these, probabilities are either all 0 and 1 or all alike
# How the rule stands in ensemble.json, so that a later version with other rules can't be misread: that of format 1,
# and the words of format 2, which has numbers beside them.
RULE_1 = {"correction": "p / prior", "vote": "mean", "choice": "argmax"}
_WORDS = {"correction": "p / prior^tau", "choice": "argmax"}
_FIELDS = {"correction": str, "tau": NUMBER, "vote": str, "views": int, "choice": str, "temperature": NUMBER}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the members' probabilities become one class. The defaults are those of format 1, where nothing is fitted.

    Attributes:
        tau: How much of its prior is taken out of each member: 0 nothing, 1 all.
        vote: Whether the members' probabilities are averaged (``mean``) or their logarithms (``geometric``).
        views: How many turned and mirrored views of an image each member sees.
        temperature: Divides the logarithms of the voted probabilities, after the choice.
    """

    tau: float = 1.0
    vote: str = "mean"
    views: int = 1
    temperature: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The rule as `ensemble.json` has it from format 2 on."""
        return {
            "correction": _WORDS["correction"],
            "tau": self.tau,
            "vote": self.vote,
            "views": self.views,
            "choice": _WORDS["choice"],
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, decision: Any, *, version: int) -> Self:
        """Reads what `ensemble.json` says.

        Args:
            decision: Its `decision`.
            version: Its format.

        Raises:
            InputError: It is a rule that this version doesn't know.
        """
        if version < 2:
            if decision != RULE_1:
                raise _unknown(str(RULE_1), decision)
            return cls()
        if misfit := find_misfit(decision, _FIELDS):
            raise _unknown("a rule of this version", decision, misfit)
        if surplus := sorted(decision.keys() - _FIELDS.keys()):
            raise _unknown("a rule of this version", decision, f"it has {surplus[0]!r} too")
        if any(decision[name] != words for name, words in _WORDS.items()):
            raise _unknown(str(_WORDS), decision)
        rule = cls(**{name: value for name, value in decision.items() if name not in _WORDS})
        if fault := rule._find_fault():
            raise _unknown("a rule of this version", decision, fault)
        return rule

    def _find_fault(self) -> str:
        """What is wrong with the values, in words; empty if nothing is."""
        low, high = TEMPERATURES
        if self.vote not in VOTES:
            return f"vote must be one of {', '.join(VOTES)}"
        if self.views not in VIEWS:
            return f"views must be one of {', '.join(map(str, VIEWS))}"
        if not 0 <= self.tau <= LARGEST_TAU:
            return f"tau must be 0 to {LARGEST_TAU:g}"
        return "" if low <= self.temperature <= high else f"temperature must be {low:g} to {high:g}"


PLAIN = Rule()


def correct_members(probs_MNC: Floats, priors_MC: Floats, tau: float = 1.0) -> npt.NDArray[np.float64]:
    """Each member's probabilities as if all classes were equally frequent (M, N, C); see `core.metrics`."""
    pairs = zip(probs_MNC, priors_MC, strict=True)
    return np.stack([correct_prior(probs_NC, prior_C, tau) for probs_NC, prior_C in pairs])


def pool(probs_KNC: Floats, priors_KC: Floats) -> npt.NDArray[np.float64]:
    """What K networks believe together (N, C): the mean of what each does by p / prior, with the mean prior put back.

    A member of several networks is corrected by its mean prior like any other; at tau 1 that gives the mean of its
    corrected networks, since what is averaged first and corrected afterwards is flattened towards frequent classes.

    Args:
        probs_KNC: What each believes, uncorrected.
        priors_KC: The class frequencies that each learned.
    """
    return put_prior(correct_members(probs_KNC, priors_KC).mean(axis=0), np.mean(priors_KC, axis=0))


def put_prior(corrected_NC: Floats, prior_C: Floats) -> npt.NDArray[np.float64]:
    """Undoes a correction by p / prior: probabilities (N, C) that this prior corrects to those given."""
    weighted_NC = np.asarray(corrected_NC, np.float64) * prior_C
    told_NC: npt.NDArray[np.float64] = weighted_NC / weighted_NC.sum(axis=1, keepdims=True)
    return told_NC


def choose(probs_NC: Floats) -> npt.NDArray[np.int64]:
    """Index of the most probable class (N,); of equals, the first."""
    chosen_N: npt.NDArray[np.int64] = np.argmax(probs_NC, axis=1).astype(np.int64)
    return chosen_N


def temper(probs_NC: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) whose logarithms are divided by a temperature: above 1 less sure, below 1 surer.

    `choose` gives the same of the result as of `probs_NC`.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    told_NC: npt.NDArray[np.float64] = np.asarray(probs_NC, np.float64)
    if temperature == 1:
        return told_NC
    logs_NC = np.log(np.maximum(told_NC, SMALLEST_PROBABILITY)) / temperature
    powers_NC = np.exp(logs_NC - logs_NC.max(axis=1, keepdims=True))
    tempered_NC: npt.NDArray[np.float64] = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    # Two that differ in their last bit may come out equal, and then the first would be chosen.
    chosen_N = choose(told_NC)
    tied = np.flatnonzero(choose(tempered_NC) != chosen_N)
    tempered_NC[tied, chosen_N[tied]] = np.nextafter(tempered_NC[tied].max(axis=1), np.inf)
    assert np.array_equal(choose(tempered_NC), chosen_N), "a temperature changes no decision"
    return tempered_NC


def _unknown(known: str, decision: Any, fault: str = "") -> InputError:
    why = f" ({fault})" if fault else ""
    return InputError(
        f"`decision` must be {known}, but got decision={shorten(one_line(str(decision)))}{why}. "
        "Update this project or build the ensemble anew."
    )
