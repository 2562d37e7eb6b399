"""What stands in `ensemble.json`, from the trials that were chosen and what was fitted."""

import time
from typing import Any

from core.archs import Arch
from core.versions import installed_versions
from ensemble.fitting import Fit
from ensemble.members import Selection
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
    info = selection.members[0].study.info
    members = []
    for member, weight in zip(selection.members, fit.weights_M[fit.weights_M > 0].tolist(), strict=True):
        arch, study, trial = member.study.info["arch"], member.study.folder.name, member.trial
        members.append(
            MemberSpec(
                study=study,
                trial=trial.number,
                arch=Arch(**{**arch, "mean": tuple(arch["mean"]), "std": tuple(arch["std"])}),
                file=f"{MEMBERS_FOLDER}/{study}-{trial.number:04d}.safetensors",
                weight=weight,
                prior=trial.prior,
                recall=trial.recall,
                recall_interval=trial.recall_interval,
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
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        rule=fit.rule,
        operating_points=points,
        fitted={**fit.to_dict(), "ways": ways},
    )
