"""What stands on the card of an exported ensemble, from its `ensemble.json`."""

import re
import shlex
from typing import Any

from core.durations import utc
from core.versions import installed_versions
from ensemble.export_card import ExportCard, Input
from ensemble.graph import input_frames
from ensemble.spec import EnsembleSpec

_ALSO = ("onnx", "onnxscript", "onnxruntime")
# Where the images lay is nobody's business who gets the file.
_OF_DATA = ("layout", "fingerprint", "images", "groups", "grouped")


def describe_export(spec: EnsembleSpec, *, command: str, int8: dict[str, Any] | None = None) -> ExportCard:
    """The card of an exported ensemble.

    Args:
        spec: The ensemble.
        command: The command line that exports it, for the record.
        int8: How it was quantised and what that costs; None where it isn't.
    """
    members = [
        {
            "study": member.study,
            "trial": member.trial,
            "arch": member.arch.full_name,
            "image_size": member.arch.image_size,
            "framing": member.arch.framing,
            "networks": len(member.files),
            "weight": member.weight,
            "recall": member.recall,
            "recall_interval": list(member.recall_interval),
        }
        for member in spec.members
    ]
    provenance = {
        "members": members,
        "rule": spec.rule.to_dict(),
        "data": {name: spec.data[name] for name in _OF_DATA if name in spec.data},
        "split": spec.split,
        "built": {"command": without_places(spec.command), "created": spec.created, "versions": spec.versions},
        "exported": {"command": without_places(command), "created": utc(), "versions": installed_versions(_ALSO)},
        "int8": int8,
    }
    return ExportCard(
        classes=spec.classes,
        inputs=tuple(Input.of(frame) for frame in input_frames(spec)),
        precision="float32" if int8 is None else "int8",
        operating_points=spec.operating_points,
        demo=spec.demo,
        provenance=provenance,
    )


def without_places(command: str) -> str:
    """A command line as others may read it: of each path or URL the last name only.

    >>> without_places("python -m ensemble.build /home/me/studies --data=../ham10000/ --tau 1")
    'python -m ensemble.build studies --data=ham10000 --tau 1'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # somebody has cut it
        words = command.split()
    return shlex.join(map(_without_place, words))


def _without_place(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    names = [name for name in re.split(r"[/\\]", value) if name]  # a colleague's Windows has backslashes
    return option + equals + (names[-1] if names else value)
