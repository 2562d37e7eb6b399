"""The mistakes that the ensemble is surest of, as a person would look at them.

Shapes: N images, S side of the stored images in pixels.
"""

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ensemble.decision import choose
from ensemble.evaluation import Evaluation
from ensemble.inference import ImageSet

SHOWN = 12
_SIDE = 168  # pixels; six of them stand side by side on a monitor
_QUALITY = 82  # of JPEG: some 6 KB an image


class Mistake(NamedTuple):
    """A lesion that is taken for another one."""

    image: str
    lesion: str
    truth: str
    chosen: str
    probability: float  # of the chosen class
    place: int  # of the image in its part

    def to_dict(self) -> dict[str, Any]:
        """The mistake as JSON can hold it."""
        return {name: value for name, value in self._asdict().items() if name != "place"}


def surest_mistakes(evaluation: Evaluation, classes: tuple[str, ...], at_most: int = SHOWN) -> tuple[Mistake, ...]:
    """The mistakes with the highest probabilities, at most one of each lesion."""
    part, probs_NC = evaluation.part, evaluation.probs_NC
    chosen_N, sure_N = choose(probs_NC), probs_NC.max(axis=1)
    mistakes: dict[str, Mistake] = {}
    for place in np.argsort(-sure_N, kind="stable").tolist():
        truth, chosen, lesion = int(part.labels[place]), int(chosen_N[place]), part.groups[place]
        if len(mistakes) == at_most:
            break
        if truth != chosen and lesion not in mistakes:
            mistakes[lesion] = Mistake(
                part.images[place], lesion, classes[truth], classes[chosen], float(sure_N[place]), place
            )
    return tuple(mistakes.values())


def picture_mistakes(mistakes: tuple[Mistake, ...], images: ImageSet) -> list[bytes]:
    """A small JPEG of each, of the pixels that were classified.

    Args:
        mistakes: Which.
        images: The images of their part, in its order, as members have seen them.
    """
    source = images.finest()
    rows = images.rows[[mistake.place for mistake in mistakes]]
    pictures = []
    for batch in source.batches(rows, batch_size=1):
        pixels_SS3 = batch.images[0].permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels_SS3))
        picture.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=_QUALITY)
        pictures.append(buffer.getvalue())
    return pictures
