"""What lesions are painted with: random fields, honeycombs, clods and strokes on fields of pigment.

Lengths are in units of half the picture's height, with the lesion at (0, 0).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from core.demo_lesions import Traits

Field = npt.NDArray[np.float32]  # (side, side)
Points = npt.NDArray[np.floating]  # (K, 2), x then y
Stroke = tuple[Points, float]  # a polyline and its width

HALF_PAINTED = 1.7  # half the side of the painted square
BICUBIC_LOSS = np.float32(1.25)  # interpolating between independent values lowers their standard deviation


class Painter:
    """The pigment fields of one lesion while it is being painted.

    Args:
        traits: Strength of each structure.
        rng: Where every chance decision comes from.
        scale: Pixels per unit of length.
    """

    def __init__(self, traits: Traits, rng: np.random.Generator, scale: float) -> None:
        self.traits, self.rng, self.scale = traits, rng, scale
        self.side = round(2 * HALF_PAINTED * scale)
        axis = np.linspace(-HALF_PAINTED, HALF_PAINTED, self.side, dtype=np.float32)
        self.x, self.y = np.meshgrid(axis, axis)
        self.melanin, self.blood, self.deep, self.haze, self.keratin, self.scar = (
            np.zeros((self.side, self.side), np.float32) for _ in range(6)
        )
        self.radius = float(0.16 + 0.68 * traits.size**1.2)

    def noise(self, cell: float, side: int | None = None) -> Field:
        """A smooth random field of mean about 0 and standard deviation about 1, whose bumps are about `cell` wide.

        Args:
            cell: Width of a bump.
            side: Pixels a side of the result; the painting's by default.
        """
        cells = 2 * HALF_PAINTED / cell
        coarse = self.rng.standard_normal((int(cells) + 5, int(cells) + 5), dtype=np.float32)
        return _resized(coarse, side or self.side, (2, 2, 2 + cells, 2 + cells)) * BICUBIC_LOSS

    def rough(self, cell: float) -> Field:
        """Noise with finer noise upon it, like clouds."""
        finest = cell / 4.8
        side = min(self.side, int(4 * HALF_PAINTED / finest))  # two pixels a bump carry all there is
        field = 0.75 * self.noise(cell, side) + 0.5 * self.noise(cell / 2.2, side) + 0.35 * self.noise(finest, side)
        return field if side == self.side else _resized(field, self.side)

    def mesh(self, spacing: float, disorder: float) -> Field:
        """Honeycomb lines: near 1 on the lines, near 0 in the holes.

        Three plane waves at 60° add up to a hexagonal lattice of hills; the valleys between them are the lines.
        """
        x, y = (
            axis + (spacing * disorder) * (0.28 * self.noise(1.6 * spacing) + self.noise(6 * spacing))
            for axis in (self.x, self.y)
        )
        turn = self.rng.uniform(0, np.pi)
        hills: Field = np.zeros_like(x)
        for angle in (turn, turn + np.pi / 3, turn + 2 * np.pi / 3):
            hills += np.cos((2 * np.pi / spacing) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))
        lines: Field = np.exp(-1.1 * (hills + 1.5))
        return lines

    def scattered(self, spacing: float, density: Field) -> Points:
        """Points about `spacing` apart, kept with the probability that `density` gives there."""
        axis = np.arange(-HALF_PAINTED, HALF_PAINTED, spacing)
        points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        points = points + self.rng.uniform(-0.5, 0.5, points.shape) * spacing
        return points[self.rng.random(len(points)) < self.at(density, points)]

    def at(self, field: Field, points: Points) -> Field:
        """A field's values at points."""
        columns, rows = np.clip(((points + HALF_PAINTED) * self.scale).astype(int), 0, self.side - 1).T
        values: Field = field[rows, columns]
        return values

    def clods(self, centres: Points, radii: npt.ArrayLike, *, blur: float = 0.5, wobble: float = 0.18) -> Field:
        """Roundish patches of uneven strength, 0 to 1, with edges blurred over `blur` pixels."""
        image = Image.new("L", (2 * self.side, 2 * self.side))
        draw = ImageDraw.Draw(image)
        turns = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        radii = np.broadcast_to(np.asarray(radii, float), len(centres))
        for (x, y), radius in zip(centres, radii, strict=True):
            phases = self.rng.uniform(0, 2 * np.pi, 2)
            r = radius * (1 + wobble * (np.cos(2 * turns + phases[0]) + 0.6 * np.cos(3 * turns + phases[1])))
            outline = np.stack([x + r * np.cos(turns), y + r * np.sin(turns)], -1)
            draw.polygon(self._pixels(outline), fill=int(self.rng.integers(150, 256)))
        return _shrunk(image, blur)

    def strokes(self, strokes: Sequence[Stroke], *, blur: float = 0.4) -> Field:
        """Curved lines, 0 to 1."""
        image = Image.new("L", (2 * self.side, 2 * self.side))
        draw = ImageDraw.Draw(image)
        for points, width in strokes:
            # A line thinner than a pixel is drawn one wide and paler.
            pixels = 2 * width * self.scale
            ink = int(255 * min(1.0, pixels))
            draw.line(self._pixels(points), fill=ink, width=max(1, round(pixels)), joint="curve")
        return _shrunk(image, blur)

    def _pixels(self, points: Points) -> list[float]:
        flat: list[float] = ((points + HALF_PAINTED) * (2 * self.scale)).ravel().tolist()
        return flat


def _resized(field: Field, side: int, box: tuple[float, float, float, float] | None = None) -> Field:
    return np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BICUBIC, box=box))


def _shrunk(image: Image.Image, blur: float) -> Field:
    small = image.reduce(2)
    if blur:
        small = small.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(small, np.float32) / np.float32(255)


def step(field: Field, threshold: float, width: float) -> Field:
    """0 below the threshold, 1 above it, over about `width`."""
    share: Field = np.clip((field - threshold) / np.float32(width) + np.float32(0.5), 0, 1)
    return share
