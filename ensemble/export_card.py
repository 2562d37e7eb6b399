"""The card of an exported ensemble: what goes in, what comes out, and where it is from. No torch here.

It is in the file itself, and beside it as JSON for people and for whoever writes an app.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

from core.errors import InputError, one_line, shorten
from core.files import parse_json
from core.framing import FRAMINGS, Frame, Framing, recorded_framing
from core.shapes import NUMBER, find_misfit
from ensemble.operating import OperatingPoint

FORMAT = 2  # raised when an older reader could misread it; in 1 all inputs were of squares around the centre
KEY = "dermatune"  # under which the file's metadata have it
OUTPUT = "probabilities"
_LARGEST_SIDE = 4711  # pixels: what is stored of the largest image that `ensemble.spec` lets a member see
_CARD = {
    "format": int,
    "classes": [str],
    "inputs": [{"name": str, "size": int}],  # and "framing", from format 2 on
    "precision": str,
    "operating_points": [{"class_name": str, "min_sensitivity": NUMBER, "threshold": NUMBER}],
    "demo": bool,
    "provenance": {str: object},
}
_HOW_TO_READ = {
    "input": "uint8, RGB, (images, rows, columns, channels): of the upright photo (EXIF applied) all, with "
    "the framing whole, or the largest square around the centre, with centre, scaled to a square of the input's size "
    "with a filter that averages. Nothing else, as scaling to each network's size and normalisation are inside. All "
    "inputs are of the same images.",
    "output": "float32 (images, classes), rows summing to 1, in the order of classes; the highest is the class that is "
    "chosen. An image is flagged for an operating point where its class has at least the threshold. Thresholds were "
    "fitted in float32; what they give in int8 stands in the provenance: int8, validation, operating_points.",
    "intended_use": "Research and teaching. Not a medical device: it must not decide on anybody's diagnosis or "
    "treatment.",
}


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of the file: uint8 pixels (N, size, size, 3).

    Attributes:
        name: Its name.
        size: Side of the square, pixels.
        framing: What of the photo it shows.
    """

    name: str
    size: int
    framing: Framing

    @property
    def frame(self) -> Frame:
        """What is kept of a photo."""
        return Frame(self.size, self.framing)

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """The input of a frame."""
        return cls(name=f"pixels_{frame.size}_{frame.framing}", size=frame.size, framing=frame.framing)


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """What an exported ensemble is.

    Attributes:
        classes: Class names, the order of the probabilities' columns.
        inputs: What goes in, the same images in each frame.
        precision: ``float32`` or ``int8``.
        operating_points: Classes that images are flagged for besides.
        demo: Whether it learned from the built-in images.
        provenance: Members, data, split, rule, versions, commands; for people only.
    """

    classes: tuple[str, ...]
    inputs: tuple[Input, ...]
    precision: str
    operating_points: tuple[OperatingPoint, ...]
    demo: bool
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON has it."""
        return {"format": FORMAT, **asdict(self), "how_to_read": _HOW_TO_READ}

    @classmethod
    def parse(cls, text: str | None, *, where: str) -> Self:
        """Reads the card that a file's metadata have.

        Args:
            text: JSON; None where the file has none.
            where: The file, for messages.

        Raises:
            InputError: There is none, it is damaged, or a newer version wrote it.
        """
        if text is None:
            raise InputError(
                f"{where} must be a file that ensemble.export wrote, but it has no card. Give such a file."
            )
        fields = parse_json(text.encode(), where=where)
        if misfit := find_misfit(fields, {"format": int}):
            raise _damaged(where, misfit)
        if fields["format"] > FORMAT:
            raise InputError(
                f"An exported ensemble must be of format {FORMAT} or older, but {where} has format={fields['format']}. "
                "Update this project."
            )
        if misfit := find_misfit(fields, _CARD):
            raise _damaged(where, misfit)
        card = cls(
            classes=tuple(fields["classes"]),
            inputs=tuple(_read_input(one, where) for one in fields["inputs"]),
            precision=fields["precision"],
            operating_points=tuple(
                OperatingPoint(**{name: point[name] for name in ("class_name", "min_sensitivity", "threshold")})
                for point in fields["operating_points"]
            ),
            demo=fields["demo"],
            provenance=fields["provenance"],
        )
        if fault := card._find_fault():
            raise _damaged(where, fault)
        return card

    def _find_fault(self) -> str:
        """What is wrong with the values, in words; empty if nothing is."""
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            return "classes must be two names or more, each once"
        if not self.inputs or len({one.name for one in self.inputs}) < len(self.inputs):
            return "inputs must be one or more, each once"
        if not all(1 <= one.size <= _LARGEST_SIDE for one in self.inputs):
            return f"sizes of inputs must be 1 to {_LARGEST_SIDE:,} pixels"
        if len({point.class_name for point in self.operating_points} & {*self.classes}) < len(self.operating_points):
            return "its operating points must be of its classes, each once"
        return ""


def _read_input(fields: dict[str, Any], where: str) -> Input:
    if (framing := recorded_framing(fields)) is None:
        raise _damaged(where, f"the framing of an input must be {' or '.join(FRAMINGS)}, but is {fields['framing']}")
    return Input(name=fields["name"], size=fields["size"], framing=framing)


def _damaged(where: str, reason: str) -> InputError:
    told = shorten(one_line(reason))
    return InputError(
        f"{where} must hold the card of an ensemble, but it is damaged: {told}. Export the ensemble anew."
    )
