"""`ensemble.json`: what an ensemble is, in a folder that can be moved and needs nothing from outside.

It is written before the test split is opened and never changed after.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

from core.archs import LARGEST_SIZE, SMALLEST_SIZE, Arch
from core.errors import InputError, one_line, shorten
from core.files import read_json, write_json
from core.framing import FRAMINGS, recorded_framing
from core.shapes import NUMBER, find_misfit
from ensemble.decision import PLAIN, Rule
from ensemble.operating import OperatingPoint

# Raised when an older reader could misread it: 1 had one decision rule and nothing fitted, 2 saw the centre of photos,
# and the four views of 3 were quarter turns of whole photos, too.
FORMAT = 4
FILE = "ensemble.json"
MEMBERS_FOLDER = "members"
ARCH = {
    "name": str,
    "timm_name": str,
    "image_size": int,
    "mean": [NUMBER],
    "std": [NUMBER],
    "weight_tag": str | None,
}
# timm takes a name with a colon or slash for an address to download from.
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+")
# What reading an ensemble and building its models rely on.
_MEMBER = {
    "study": str,
    "trial": int,
    "arch": dict,
    "files": [str],
    "weight": NUMBER,
    "prior": [NUMBER],
    "network_priors": [[NUMBER]],
    "recall": NUMBER,
    "recall_interval": (NUMBER, NUMBER),
    "best_epoch": int,
    "config": {str: object},
}
_ENSEMBLE = {
    "classes": [str],
    "members": list,
    "left_out": [(str, str)],
    "demo": bool,
    "data": {str: object},
    "split": {str: object},
    "versions": {str: str},
    "command": str,
    "created": str,
}
_SINCE_2 = {
    "fitted": {str: object},
    "operating_points": [{"class_name": str, "min_sensitivity": NUMBER, "threshold": NUMBER}],
}


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """One member.

    Attributes:
        study: Name of its study.
        trial: Its number there.
        arch: Its architecture.
        files: The weights of its networks, relative to the ensemble's folder; what they believe is averaged.
        weight: Its weight in the vote.
        prior: The class frequencies that it learned, on average over its networks.
        network_priors: Those of each network, where it has several.
        recall: Its macro recall on validation, or out of fold where it was confirmed, by which it was chosen.
        recall_interval: The 95 % interval of that.
        best_epoch: The epoch that its weights are of, counted from 0.
        config: Fields of its `TrainConfig`.
    """

    study: str
    trial: int
    arch: Arch
    files: tuple[str, ...]
    weight: float
    prior: tuple[float, ...]
    network_priors: tuple[tuple[float, ...], ...] = ()
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
        if "file" in fields:  # as format 1 has it
            fields = {**fields, "files": [fields["file"]], "network_priors": []}
            del fields["file"]
        if misfit := find_misfit(fields, _MEMBER):
            raise TypeError(misfit)
        arch, tuples = read_arch(fields["arch"]), ("files", "prior", "recall_interval")
        priors = tuple(map(tuple, fields["network_priors"]))
        return cls(**{**fields, "arch": arch, "network_priors": priors, **{n: tuple(fields[n]) for n in tuples}})


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
        rule: How the members' probabilities become one class.
        operating_points: Classes that images are flagged for besides.
        fitted: What was fitted to validation, and what it gives there out of fold; for people only.
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
    rule: Rule = PLAIN
    operating_points: tuple[OperatingPoint, ...] = ()
    fitted: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes `ensemble.json` into a folder."""
        fields = dataclasses.asdict(self)
        del fields["rule"]
        write_json(folder / FILE, {"format": FORMAT, "decision": self.rule.to_dict(), **fields})

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
        if misfit := find_misfit(fields, {"format": int}):
            raise _damaged(path, misfit)
        if fields["format"] > FORMAT:
            raise InputError(
                f"An ensemble must be of format {FORMAT} or older, but {path} has format={fields['format']}. "
                "Update this project."
            )
        version, shape = fields["format"], _ENSEMBLE | (_SINCE_2 if fields["format"] > 1 else {})
        if misfit := find_misfit(fields, {**shape, "decision": object}):
            raise _damaged(path, misfit)
        rule = Rule.from_dict(fields["decision"], version=version)
        try:
            spec = cls._from_dict({name: fields[name] for name in shape} | {"rule": rule})
        except TypeError as error:
            raise _damaged(path, str(error)) from error
        if fault := spec._find_fault():
            raise _damaged(path, fault)
        if version == 3 and rule.views == 4 and any(member.arch.framing == "whole" for member in spec.members):
            raise InputError(
                f"An ensemble that sees four views of whole photos must be of format {FORMAT}, but {path} has "
                "format=3, which saw others. Build the ensemble anew."
            )
        return spec

    @classmethod
    def _from_dict(cls, fields: dict[str, Any]) -> Self:
        members = tuple(MemberSpec.from_dict(member) for member in fields["members"])
        left_out = tuple(map(tuple, fields["left_out"]))
        points = tuple(OperatingPoint(**point) for point in fields.get("operating_points", []))
        tuples = {"classes": tuple(fields["classes"]), "members": members, "left_out": left_out}
        return cls(**{**fields, **tuples, "operating_points": points})

    def _find_fault(self) -> str:
        """What is wrong with the values, in words; empty if nothing is."""
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            return "classes must be two names or more, each once"
        if not self.members:
            return "it has no members"
        for member in self.members:
            if not member.files:
                return f"{member.name} has no weights"
            for file in map(PurePosixPath, member.files):
                if file.is_absolute() or ".." in file.parts:
                    return f"the files of {member.name} must lie in its folder, but one is {file}"
            if not member.weight > 0:
                return f"the weight of {member.name} must be above 0, but is {member.weight}"
            for prior in (member.prior, *member.network_priors):
                if len(prior) != len(self.classes) or not all(0 <= share <= 1.001 for share in prior):
                    return f"the prior of {member.name} must be {len(self.classes)} numbers from 0 to 1"
            if len(member.network_priors) != (len(member.files) if len(member.files) > 1 else 0):
                return f"{member.name} must have a prior for each of its networks"
        if len({point.class_name for point in self.operating_points} & {*self.classes}) < len(self.operating_points):
            return "its operating points must be of its classes, each once"
        if not all(0 < point.min_sensitivity < 1 and 0 <= point.threshold <= 1 for point in self.operating_points):
            return "the numbers of its operating points must be from 0 to 1"
        return ""


def read_arch(fields: Any) -> Arch:
    """The architecture that JSON from outside describes, as a model can be built from it.

    Raises:
        TypeError: It is of another shape, or names something that isn't a model of timm's.
    """
    if misfit := find_misfit(fields, ARCH):
        raise TypeError(f"arch: {misfit}")
    if surplus := sorted(fields.keys() - ARCH.keys() - {"framing"}):
        raise TypeError(f"arch: it has {surplus[0]!r} too")
    if not _TIMM_NAME.fullmatch(fields["timm_name"]):
        raise TypeError(f"arch: it must be a timm model, but is {fields['timm_name']}")
    if not SMALLEST_SIZE <= fields["image_size"] <= LARGEST_SIZE:
        raise TypeError(f"arch: image_size must be {SMALLEST_SIZE} to {LARGEST_SIZE:,} pixels")
    if recorded_framing(fields) is None:
        raise TypeError(f"arch: framing must be {' or '.join(FRAMINGS)}, but is {shorten(str(fields['framing']))}")
    if len(fields["mean"]) != 3 or len(fields["std"]) != 3 or not min(fields["std"]) > 0:
        raise TypeError("arch: mean and std must be three numbers each, those of std above 0")
    return Arch(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _damaged(path: Path, reason: str) -> InputError:
    told = shorten(one_line(reason))
    return InputError(f"{path} must describe an ensemble, but it is damaged: {told}. Build the ensemble anew.")
