"""What trials believed of images out of fold, where `search.confirm` has trained them again.

Shapes: M members, N training and validation rows, F folds, C classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.errors import InputError
from ensemble.decision import put_prior
from ensemble.members import Member
from ensemble.parts import Part
from ensemble.studies import Study

Folds = npt.NDArray[np.int64]


def read_confirmed(members: Sequence[Member]) -> tuple[Part, npt.NDArray[np.float32]]:
    """The training and validation rows, and what each member believed of those that it was trained without (M, N, C).

    Each fold's run has learned class frequencies of its own. They are taken out and the member's put in their place, so
    that whoever corrects by the member's prior corrects by that of the run.

    Raises:
        InputError: The folds or probabilities are damaged, or the studies held out different images together.
    """
    first = members[0].study
    part, fold_N = _read_folds(first)
    for member in members[1:]:
        other, folds = _read_folds(member.study)
        same = other.images == part.images and other.groups == part.groups and np.array_equal(folds, fold_N)
        if not (same and np.array_equal(other.labels, part.labels)):
            raise InputError(
                f"Studies must have been confirmed over the same folds to be fitted together, but those of "
                f"{member.study.folder.name} are not those of {first.folder.name}. Confirm both with equal --folds."
            )
    return part, np.stack([_as_member(member, fold_N) for member in members])


def _read_folds(study: Study) -> tuple[Part, Folds]:
    """The rows of a study's `folds.csv`, and in which fold each was held out."""
    number = {label: c for c, label in enumerate(study.info["data"]["classes"])}
    rows = study.folder.confirmed.read_folds()
    if not rows or (unknown := {row["label"] for row in rows} - set(number)):
        reason = f"it names {sorted(unknown)[0]}, which is no class of the study" if rows else "it has no rows"
        raise InputError(
            f"{study.folder.confirmed.root / 'folds.csv'} must list the images that were held out, but {reason}. "
            "Remove that folder and confirm the study again."
        )
    part = Part(
        images=tuple(row["image"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        labels=np.asarray([number[row["label"]] for row in rows], dtype=np.int64),
    )
    return part, np.asarray([int(row["fold"]) for row in rows], dtype=np.int64)


def _as_member(member: Member, fold_N: Folds) -> npt.NDArray[np.float32]:
    """What the runs believed of the rows that they had not seen, with the prior of the member (N, C).

    Where trials vote, one network will: that of the first seed speaks for it. Where the networks of the folds do, so do
    those of all seeds.
    """
    assert member.confirmed is not None, "chosen for having been confirmed"
    corrected_SNC = member.confirmed.corrected(fold_N)
    seen_NC = corrected_SNC[: None if member.runs else 1].mean(axis=0)
    return put_prior(seen_NC, np.asarray(member.prior)).astype(np.float32)
