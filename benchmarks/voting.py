"""How many trials should vote, and how: python -m benchmarks.voting STUDIES STUDIES ...

For each folder of studies (searches of the same backbones with other seeds, say): macro recall on validation, by
argmax p / prior^tau with tau fitted out of fold, of votes among the five best complete trials of each architecture.
Nothing is trained, no weights are read, and the test split stays sealed. The ratio is the recall of the default, the
mean of those tied with their architecture's best, over that of the best of each alone.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.reporting import add_out_argument, finish
from benchmarks.seeds import refuse_twice
from core.cli import Parser, run, write

if TYPE_CHECKING:
    from ensemble.fitting import Voters, Weigh
    from ensemble.weighting import Candidates

BEST = 5  # of each architecture: what a search keeps the weights of
TIED = "tied"
DEFAULT, ONE_OF_EACH = f"mean of those {TIED}", "mean of 1"


class Ballot(NamedTuple):
    """One way of voting."""

    name: str
    weigh: "Weigh"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.voting", description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that search.run wrote to")
    add_out_argument(parser, "voting")
    return parser


def main(args: argparse.Namespace) -> int:
    """Takes all votes in each folder, and shows their means."""
    refuse_twice(args.studies)
    recalls: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for folder in args.studies:
        for row in votes_of(folder):
            recalls.setdefault(row["vote"], []).append(row["macro_recall"])
            rows.append(row)
    everywhere = {name: values for name, values in recalls.items() if len(values) == len(args.studies)}
    for name, values in everywhere.items():
        write(f"{name:<36} {np.mean(values):.3f}   {'  '.join(f'{value:.3f}' for value in values)}")
    ratio = float(np.mean(recalls[DEFAULT]) / np.mean(recalls[ONE_OF_EACH]))
    finish(args.out, rows=rows, ratio=ratio, about=f"macro recall of the {DEFAULT} over that of the {ONE_OF_EACH}")
    return 0


def votes_of(folder: Path) -> list[dict[str, Any]]:
    """What each way of voting gives in one folder.

    Raises:
        InputError: It holds no studies that may vote together, or no complete trial.
    """
    from ensemble.crossfit import Truth
    from ensemble.fitting import fit_rule
    from ensemble.parts import read_validation
    from ensemble.weighting import Candidates

    members = best_trials(folder)
    part, probs_MNC = read_validation(members)
    truth = Truth.of(part.labels, part.groups, probs_MNC.shape[2])
    candidates = Candidates(
        probs_MNC=probs_MNC,
        priors_MC=np.asarray([member.prior for member in members]),
        archs=[member.study.arch for member in members],
        truth=truth,
    )
    rows = []
    for ballot in ballots(candidates, part.groups):
        fit = fit_rule(probs_MNC, candidates.priors_MC, truth, ballot.weigh)
        corrected = next(step for step in fit.steps if step.name == "tau")
        rows.append(
            {
                "studies": folder.name,
                "vote": ballot.name,
                "trials": int(np.count_nonzero(fit.weights_M)),
                "macro_recall": corrected.recall,
                "macro_recall_interval": list(corrected.interval),
                "accuracy": corrected.accuracy,
                "tau": fit.rule.tau,
                "images": len(part.labels),
            }
        )
    return rows


def best_trials(folder: Path) -> list[Any]:
    """The best complete trials of each study, as members.

    Raises:
        InputError: There is none.
    """
    from core.artifacts import StudiesFolder
    from core.errors import InputError
    from ensemble.members import Member
    from ensemble.studies import read_studies

    members = []
    for study in read_studies(StudiesFolder(folder)):
        complete = [trial for trial in study.folder.read_trials() if trial.state == "complete"]
        best = sorted(complete, key=lambda trial: -trial.recall)[:BEST]
        members += [Member(study=study, trial=trial) for trial in best]
    if not members:
        raise InputError(f"`studies` must hold complete trials, but {folder} has none. Let its searches go on.")
    return members


def ballots(candidates: "Candidates", groups: Sequence[str]) -> Iterator[Ballot]:
    """Every way of voting that is compared.

    Args:
        candidates: Who may vote, the best of an architecture first.
        groups: Lesion of each row.
    """
    from ensemble.fitting import Voters
    from ensemble.tied import behind_best

    archs = list(candidates.archs)
    places = np.asarray([archs[:place].count(arch) for place, arch in enumerate(archs)])  # within the architecture
    behind = behind_best(candidates.probs_MNC, candidates.priors_MC, archs, candidates.truth.labels_N, groups)
    tied = np.asarray([each.by.is_tie for each in behind])
    sets = {f"{top_k}": places < top_k for top_k in range(1, candidates.most + 1)} | {f"those {TIED}": tied}
    for vote in ("mean", "geometric"):
        for name, voting in sets.items():
            yield Ballot(f"{vote} of {name}", _always(Voters(voting / voting.sum(), vote)))
    for arch in dict.fromkeys(archs):
        alone = (places == 0) & np.asarray([each == arch for each in archs])
        yield Ballot(f"{arch} alone", _always(Voters(alone.astype(float), "mean")))
    for way in ("weights", "greedy"):
        yield Ballot(f"{way}, fitted", _fitted(candidates, way))


def _always(voters: "Voters") -> "Weigh":
    return lambda rows_N: voters


def _fitted(candidates: "Candidates", way: str) -> "Weigh":
    from ensemble.fitting import Voters

    return lambda rows_N: Voters(candidates.weigh(way, BEST, rows_N), "mean")


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
