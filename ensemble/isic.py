"""Predictions as the ISIC 2018 challenge wants them (task 3): https://challenge.isic-archive.com/landing/2018/47/.

Its scorer takes the column `image` and exactly the challenge's classes and rows, all floats in [0, 1]; a tie for
the maximum counts as wrong. Shapes: N images, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import cli
from core.errors import InputError, few
from core.files import read_csv
from core.metrics import Floats
from ensemble.decision import choose

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
# Between the highest and the next: the scorer reads with pandas, whose parser is a few units of the last place off.
_GAP = 1e-9


def challenge_places(classes: Sequence[str]) -> list[int]:
    """Where each of the challenge's classes stands among ours, whose case doesn't matter.

    Raises:
        InputError: Ours are others.
    """
    names = [name.upper() for name in classes]
    if sorted(names) != sorted(CLASSES):
        raise InputError(
            f"`--format isic` must be asked of an ensemble of the challenge's classes, {', '.join(CLASSES)}, but its "
            f"classes are {few(classes)}. Leave --format out."
        )
    return [names.index(name) for name in CLASSES]


def challenge_rows(
    names: Sequence[str], probs_NC: Floats, classes: Sequence[str], listed: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Rows of the challenge's file.

    Args:
        names: Name of each image, without folder and suffix.
        probs_NC: The ensemble's probabilities.
        classes: Class names, as `probs_NC` has them.
        listed: The images that must have a row, in that order; empty for those of `names`. One that isn't among `names`
            gets equal shares, the first a hair more.

    Raises:
        InputError: The classes are not those of the challenge, or two images have one name.
    """
    untied_NC = untie(probs_NC)[:, challenge_places(classes)]
    check_unique(names)
    row_of = {name: row for row, name in enumerate(names)}
    unknown_C = untie(np.full((1, len(CLASSES)), 1 / len(CLASSES)))[0]
    rows = []
    for name in listed or names:
        probs_C = untied_NC[row_of[name]] if name in row_of else unknown_C
        rows.append({"image": name, **dict(zip(CLASSES, probs_C.tolist(), strict=True))})
    return rows


def untie(probs_NC: Floats) -> npt.NDArray[np.float64]:
    """Probabilities of which one a row is clearly the highest: that of the class that is chosen."""
    untied_NC = np.array(probs_NC, np.float64)
    chosen_N = choose(untied_NC)[:, None]
    others_NC = untied_NC.copy()
    np.put_along_axis(others_NC, chosen_N, 0, axis=1)
    lead_N1 = np.take_along_axis(untied_NC, chosen_N, axis=1)
    # No more than halves can be tied, so that none passes 1.
    np.put_along_axis(untied_NC, chosen_N, np.maximum(lead_N1, others_NC.max(axis=1, keepdims=True) + _GAP), axis=1)
    return untied_NC


def check_unique(names: Sequence[str]) -> None:
    """Refuses images of which the challenge's file couldn't tell one from the other.

    Raises:
        InputError: Two have one name.
    """
    seen: set[str] = set()
    if twice := [name for name in names if name in seen or seen.add(name)]:  # type: ignore[func-returns-value]
        raise InputError(
            f"Images must have a name each for `--format isic`, but {few(twice)} are there twice. Leave one out."
        )


def read_list(path: Path) -> list[str]:
    """The images that a challenge's file must have a row for: the column `image` of a CSV, such as its ground truth.

    Raises:
        InputError: There is no such file or column, or an image is listed twice.
    """
    if not path.is_file():
        raise InputError(f"`--list` must be a CSV file, but got --list {path}, which is none. Check the path.")
    rows = read_csv(path)
    if not rows or "image" not in rows[0]:
        raise InputError(
            f"`--list` must be a CSV file with a column image and rows, but {path} has none. Name the challenge's own."
        )
    names = [row["image"].removesuffix(".jpg") for row in rows]
    check_unique(names)
    return names


def take_listed(files: Sequence[Path], listed: Sequence[str]) -> list[Path]:
    """The files that a challenge's file has rows of; all of them if nothing is listed. What is left out is told.

    Raises:
        InputError: Two files have one name, or none of those that are listed is there.
    """
    wanted = set(listed)
    taken = [file for file in files if not listed or file.stem in wanted]
    check_unique([file.stem for file in taken])
    if listed:
        check_listed(listed, [file.stem for file in files])
    if len(taken) < len(files):
        cli.write(f"{len(files) - len(taken):,} of {len(files):,} images are not listed and left out")
    return taken


def check_listed(listed: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a list of other images, and says which are listed and not there.

    Args:
        listed: The images that a challenge's file must have a row for.
        names: Those that there are.

    Raises:
        InputError: None of those that are listed is there.
    """
    there = set(names)
    missing = [name for name in listed if name not in there]
    if len(missing) == len(listed):
        raise InputError(f"`--list` must name some of the images, but none of {len(listed):,} is there. Check both.")
    if missing:
        cli.write(f"{len(missing):,} of {len(listed):,} listed images are not there, equal shares: {few(missing)}")
