"""How a photo, which is rarely a square, becomes the square that is kept of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

Framing = Literal["whole", "centre"]
FRAMINGS: tuple[Framing, ...] = get_args(Framing)
DEFAULT: Framing = "whole"  # of whatever begins now
EARLIER: Framing = "centre"  # of whatever doesn't say, since it is from before there was a choice
SHOWN: dict[Framing, str] = {  # for people
    "whole": "whole, squeezed into a square",
    "centre": "the largest square around the centre",
}
# Zoom and rotation need pixels beyond the ones that the model sees (docs/decisions/0001).
_STORED_SCALE = 1.15


def recorded_framing(fields: Mapping[str, Any]) -> Framing | None:
    """What a file's fields say of the framing; None if that is none."""
    said = fields.get("framing", EARLIER)
    return next((framing for framing in FRAMINGS if framing == said), None)


def stored_size(image_size: int) -> int:
    """The side at which images are kept for a model that sees squares of `image_size`, both in pixels."""
    return math.ceil(round(_STORED_SCALE * image_size, 6))  # rounded first: 1.15 * 100 is 114.99999999999999


@dataclass(frozen=True, order=True)
class Frame:
    """What is kept of a photo.

    Attributes:
        size: Side of the square, pixels.
        framing: ``whole`` squeezes the whole photo into it; ``centre`` keeps proportions and takes the largest square
            around the centre (docs/decisions/0027).
    """

    size: int
    framing: Framing

    @classmethod
    def of(cls, image_size: int, framing: Framing) -> Self:
        """What is kept for a model that sees squares of `image_size` pixels."""
        return cls(stored_size(image_size), framing)
