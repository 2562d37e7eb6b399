"""What stands in `ensemble.json`, from the trials that were chosen and what was fitted."""

from typing import Any

from core.archs import Arch
from core.durations import utc
from core.versions import installed_versions
from ensemble.fitting import Fit
from ensemble.members import Member, Selection
from ensemble.operating import OperatingPoint
from ensemble.spec import MEMBERS_FOLDER, EnsembleSpec, MemberSpec


def describe(
    selection: Selection,
    fit: Fit,
    ways: list[dict[str, Any]],
    points: tuple[OperatingPoint, ...],
    command: str,
) -> EnsembleSpec:
    """The ensemble as a spec.

    Args:
        selection: Who votes.
        fit: With what weight, and by which rule.
        ways: The ways of voting that were compared.
        points: Classes that images are flagged for besides.
        command: The command line, for the record.
    """
    info, fit_to = selection.members[0].study.info, "confirmed" if selection.members[0].confirmed else "validation"
    members = []
    for member, weight in zip(selection.members, fit.weights_M[fit.weights_M > 0].tolist(), strict=True):
        arch, study, trial = member.study.info["arch"], member.study.folder.name, member.trial
        members.append(
            MemberSpec(
                study=study,
                trial=trial.number,
                arch=Arch(**{**arch, "mean": tuple(arch["mean"]), "std": tuple(arch["std"])}),
                files=_name_files(member),
                weight=weight,
                prior=member.prior,
                network_priors=tuple(run.prior for run in member.runs) if len(member.runs) > 1 else (),
                recall=member.recall,
                recall_interval=member.recall_interval,
                best_epoch=trial.best_epoch,
                config=trial.config,
            )
        )
    return EnsembleSpec(
        classes=tuple(info["data"]["classes"]),
        members=tuple(members),
        left_out=tuple(selection.left_out),
        demo=info["demo"],
        data=info["data"],
        split=info["split"],
        versions=installed_versions(),
        command=command,
        created=utc(),
        rule=fit.rule,
        operating_points=points,
        fitted={**fit.to_dict(), "fit_to": fit_to, "ways": ways},
    )


def _name_files(member: Member) -> tuple[str, ...]:
    """Where the weights of a member's networks go."""
    stem = f"{MEMBERS_FOLDER}/{member.study.folder.name}-{member.trial.number:04d}"
    if not member.runs:
        return (f"{stem}.safetensors",)
    return tuple(f"{stem}-{place}.safetensors" for place in range(len(member.runs)))
