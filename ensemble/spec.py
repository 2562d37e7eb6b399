"""`ensemble.json`: what an ensemble is, in a folder that can be moved and needs nothing from outside.

It is written before the test split is opened and never changed after.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from core.archs import Arch
from core.errors import InputError
from core.files import read_json, write_json
from ensemble.decision import RULE, check_rule
from core.shapes import NUMBER, find_misfit

FORMAT = 1  # raised when an older reader could misread it
FILE = "ensemble.json"
MEMBERS_FOLDER = "members"
# What reading an ensemble and building its models rely on.
_MEMBER = {
    "arch": {"name": str, "timm_name": str, "image_size": int, "mean": [NUMBER], "std": [NUMBER]},
    "file": str,
    "prior": list,
    "recall_interval": (NUMBER, NUMBER),
}
# timm takes a name with a colon or slash for an address to download from.
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """One member.

    Attributes:
        study: Name of its study.
        trial: Its number there.
        arch: Its architecture.
        file: Its weights, relative to the ensemble's folder.
        weight: Its weight in the vote.
        prior: The class frequencies that it learned.
        recall: Its macro recall on validation, by which it was chosen.
        recall_interval: The 95 % interval of that.
        best_epoch: The epoch that its weights are of, counted from 0.
        config: Fields of its `TrainConfig`.
    """

    study: str
    trial: int
    arch: Arch
    file: str
    weight: float
    prior: tuple[float, ...]
    recall: float
    recall_interval: tuple[float, float]
    best_epoch: int
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.study} #{self.trial}"

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, from JSON.

        Raises:
            TypeError: A field is missing, unknown or of another type.
        """
        if misfit := find_misfit(fields, _MEMBER):
            raise TypeError(misfit)
        arch = {**fields["arch"], "mean": tuple(fields["arch"]["mean"]), "std": tuple(fields["arch"]["std"])}
        pair = tuple(fields["recall_interval"])
        return cls(**{**fields, "arch": Arch(**arch), "prior": tuple(fields["prior"]), "recall_interval": pair})


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec:
    """An ensemble.

    Attributes:
        classes: Class names, the order of all probabilities.
        members: Who votes.
        left_out: What doesn't, and why, a pair each.
        demo: Whether it learned from the built-in images.
        data: Layout, fingerprint, images, groups of the data, as `study.json` has them.
        split: Seed, and the fingerprints of train, val and test.
        versions: Of the packages that built it.
        command: The command line that built it.
        created: When, UTC.
    """

    classes: tuple[str, ...]
    members: tuple[MemberSpec, ...]
    left_out: tuple[tuple[str, str], ...]
    demo: bool
    data: dict[str, Any]
    split: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str

    def write(self, folder: Path) -> None:
        """Writes `ensemble.json` into a folder."""
        write_json(folder / FILE, {"format": FORMAT, "decision": RULE, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads `ensemble.json` from a folder.

        Raises:
            InputError: There is none, it is damaged, or a newer version wrote it.
        """
        path = folder / FILE
        if not path.is_file():
            raise InputError(
                f"`ensemble` must be a folder with {FILE}, but {folder} has none. Run ensemble.build first."
            )
        fields = read_json(path)
        if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
            raise _damaged(path, "it names no format")
        if fields["format"] > FORMAT:
            raise InputError(
                f"An ensemble must be of format {FORMAT} or older, but {path} has format={fields['format']}. "
                "Update this project."
            )
        try:
            rule = fields["decision"]
            spec = cls._from_dict({name: fields[name] for name in (field.name for field in dataclasses.fields(cls))})
        except KeyError as error:
            raise _damaged(path, f"it lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        check_rule(rule)
        if fault := spec._find_fault():
            raise _damaged(path, fault)
        return spec

    @classmethod
    def _from_dict(cls, fields: dict[str, Any]) -> Self:
        members = tuple(MemberSpec.from_dict(member) for member in fields["members"])
        left_out = tuple((name, reason) for name, reason in fields["left_out"])
        return cls(**{**fields, "classes": tuple(fields["classes"]), "members": members, "left_out": left_out})

    def _find_fault(self) -> str:
        """What is wrong with the values, in words; empty if nothing is."""
        if len(self.classes) < 2 or not all(isinstance(name, str) for name in self.classes):
            return "classes must be two names or more"
        if not self.members:
            return "it has no members"
        for member in self.members:
            if not _TIMM_NAME.fullmatch(member.arch.timm_name):
                return f"the architecture of {member.name} must be a timm model, but is {member.arch.timm_name}"
            file = PurePosixPath(member.file)
            if file.is_absolute() or ".." in file.parts:
                return f"the file of {member.name} must lie in its folder, but is {member.file}"
            if not (_are_numbers([member.weight]) and member.weight > 0):
                return f"the weight of {member.name} must be above 0, but is {member.weight}"
            if len(member.prior) != len(self.classes) or not _are_numbers(member.prior):
                return f"the prior of {member.name} must be {len(self.classes)} numbers"
        return ""


def probability_columns(classes: Sequence[str], probs_C: Sequence[float]) -> dict[str, float]:
    """Columns of a predictions file for one image."""
    return {f"p_{name}": p for name, p in zip(classes, probs_C, strict=True)}


def _are_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} must describe an ensemble, but it is damaged: {reason}. Build the ensemble anew.")
