"""Paints one lesion and the skin around it, as seen through a dermatoscope.

Pigments are painted, not colours: fields of melanin, of blood and of haze, from which one optical model makes colours.
That is what keeps mixtures plausible. Lengths are in units of half the picture's height, with the lesion at (0, 0).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from core.demo_lesions import Traits
from core.demo_painter import HALF_PAINTED, Field, Painter, Points, Stroke, step

# Half the side of what photos may show: beyond the paint the skin is mirrored.
HALF_EXTENT = 2.4
# A structure below this strength can't be told from the skin's texture and is left out.
FAINT = 0.2

# Optical density per unit of pigment in red, green and blue, fitted by eye to be brown, red and blue-grey.
MELANIN = np.array([0.62, 1.02, 1.42], np.float32)
BLOOD = np.array([0.16, 0.88, 0.66], np.float32)
DEEP_MELANIN = np.array([1.05, 0.80, 0.48], np.float32)  # scattering above it (Tyndall effect) leaves the blue
BARE_SKIN = np.array([0.97, 0.90, 0.87], np.float32)
HAZE = np.array([0.68, 0.71, 0.78], np.float32)
KERATIN = np.array([0.97, 0.92, 0.82], np.float32)
SCAR = np.array([0.98, 0.91, 0.90], np.float32)
HAIR_COLOURS = ((0.10, 0.07, 0.06), (0.24, 0.15, 0.09), (0.72, 0.68, 0.60))


def paint_lesion(traits: Traits, rng: np.random.Generator, scale: float) -> npt.NDArray[np.uint8]:
    """Colours (side, side, 3) of a lesion and the skin around it, `2 * HALF_PAINTED * scale` pixels a side."""
    painter = Painter(traits, rng, scale)
    _paint_skin(painter)
    depth = _depth(painter)
    body = expit(depth / np.float32(0.17 - 0.15 * traits.sharp))
    _paint_pigment(painter, depth, body)
    _paint_blood(painter, depth, body)
    _paint_surface(painter, depth, body)
    planes = _colours(painter)
    _cover_with_hairs(painter, planes)
    rgb = (255 * np.clip(planes, 0, 1) + 0.5).astype(np.uint8).transpose(1, 2, 0)
    margin = round((HALF_EXTENT - HALF_PAINTED) * scale)
    return np.pad(rgb, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


def _paint_skin(p: Painter) -> None:
    rng = p.rng
    tone = rng.choice([0.05, 0.12, 0.28, 0.55], p=[0.42, 0.38, 0.15, 0.05]) * rng.uniform(0.8, 1.3)
    p.melanin += tone * (1 + 0.14 * p.rough(0.5)) + 0.012 * p.noise(0.045)
    p.blood += rng.uniform(0.05, 0.25) * (1 + 0.2 * p.rough(0.35)) + 0.018 * p.noise(0.07)
    if rng.random() < 0.22:  # sun-damaged skin: ill-defined brown patches
        p.melanin += rng.uniform(0.05, 0.3) * step(p.rough(0.35), 1.0, 1.4)
    if rng.random() < 0.25:  # freckles
        where = p.scattered(0.5, np.full_like(p.x, 0.5))
        p.melanin += 0.3 * p.clods(where, rng.uniform(0.02, 0.06, len(where)), blur=3)
    if rng.random() < 0.25:  # fine vessels of thin skin
        p.blood += 0.2 * np.exp(-((p.noise(0.35) / 0.09) ** 2)) * step(p.noise(0.8), 0.4, 1.0)


def _depth(p: Painter) -> Field:
    """How far inside the lesion a point lies: 1 at the centre, 0 at the border, negative outside."""
    t = p.traits
    depth = _lobe(p, (0.0, 0.0), p.radius)
    if t.asymmetric > 0.3:
        away = p.rng.uniform(0, 2 * np.pi)
        reach = p.radius * t.asymmetric * p.rng.uniform(0.6, 0.95)
        lobe = _lobe(p, (reach * np.cos(away), reach * np.sin(away)), p.radius * p.rng.uniform(0.45, 0.75))
        depth = np.maximum(depth, lobe)
    ragged = (0.03 + 0.12 * t.irregular) * p.rough(0.45 * p.radius + 0.05)
    rough_depth: Field = depth + ragged + 0.03 * p.noise(0.04)
    return rough_depth


def _lobe(p: Painter, centre: tuple[float, float], radius: float) -> Field:
    turns = np.linspace(-np.pi, np.pi, 181)
    outline = np.ones_like(turns)
    for k in range(2, 7):
        height = (0.10 if k == 2 else (0.05 + 0.55 * p.traits.irregular) / k**1.5) * p.rng.normal()
        outline += height * np.cos(k * turns + p.rng.uniform(0, 2 * np.pi))
    dx, dy = p.x - np.float32(centre[0]), p.y - np.float32(centre[1])
    reach = np.interp(np.arctan2(dy, dx), turns, radius * np.clip(outline, 0.45, 1.8)).astype(np.float32)
    depth: Field = 1 - np.hypot(dx, dy) / reach
    return depth


def _paint_pigment(p: Painter, depth: Field, body: Field) -> None:
    t, rng = p.traits, p.rng
    amount = 0.12 + 1.5 * t.pigment**1.3
    patches = np.exp(0.75 * t.variegated * p.rough(0.55 * p.radius + 0.1) + 0.13 * p.rough(0.06))
    centre = np.clip(depth, 0, 1)
    ground = 1 - 0.45 * min(1.0, t.network + t.globules)
    p.melanin += amount * ground * body * patches * (0.65 + rng.uniform(-0.2, 0.7) * centre)
    if t.variegated > 0.5:  # an almost black patch off the centre
        p.melanin += (1.3 * t.variegated * t.pigment) * body * step(p.rough(0.6 * p.radius), 1.0, 0.9)
    if t.network > FAINT:
        spread = step(p.rough(0.45), -0.9 + 1.2 * t.irregular, 1.4) * (0.35 + 0.65 * step(-centre, -0.6, 0.5))
        lines = p.mesh(rng.uniform(0.042, 0.066), 0.5 + 0.7 * t.irregular)
        p.melanin += (0.3 + 1.0 * amount) * t.network * body * spread * (lines - 0.18)
    if t.globules > FAINT:
        where = p.scattered(rng.uniform(0.06, 0.10), body * step(depth, 0.02, 0.1) * 0.85)
        p.melanin += (0.25 + 0.8 * amount) * t.globules * p.clods(where, _sizes(p, where, 0.024), blur=0.8)
    if t.streaks > FAINT:
        lines = p.strokes(_streaks(p, depth), blur=0.8)
        p.melanin += (0.2 + 1.0 * amount) * t.streaks * lines * step(p.noise(0.5), -0.3, 1.2)
    if t.ridges > FAINT:
        furrows = np.sin(rng.uniform(4, 7) * (p.noise(rng.uniform(0.25, 0.4)) + 0.25 * p.noise(0.12)))
        p.melanin *= 1 + 0.38 * t.ridges * body * furrows
    if t.openings > FAINT:
        where = p.scattered(0.14, 0.6 * t.openings * step(depth, 0.12, 0.1))
        p.melanin += 0.9 * p.clods(where, _sizes(p, where, 0.020), blur=0.9, wobble=0.3)
    if t.nests > FAINT:
        where = p.scattered(0.17, 0.65 * t.nests * step(depth, 0.05, 0.2))
        p.deep += (0.25 + 0.7 * t.nests) * p.clods(where, _sizes(p, where, 0.05), blur=2.2, wobble=0.3)
    np.maximum(p.melanin, 0, out=p.melanin)


def _sizes(p: Painter, centres: Points, median: float) -> npt.NDArray[np.float64]:
    """Radii of clods, most of them small."""
    return median * np.exp(p.rng.normal(0, 0.38, len(centres)))


def _streaks(p: Painter, depth: Field) -> list[Stroke]:
    """Radial lines across the border, thick and bulging where streaks are strong."""
    strokes: list[Stroke] = []
    sector = p.rng.uniform(0, 2 * np.pi)
    for _ in range(int(80 * p.traits.streaks)):
        angle = sector + p.rng.normal(0, 1.1)
        ray = np.stack([np.cos(angle) * np.linspace(0, 1.6, 80), np.sin(angle) * np.linspace(0, 1.6, 80)], -1)
        border = np.argmax(p.at(depth, ray) < 0) * 0.02
        reach = np.linspace(border - p.rng.uniform(0.03, 0.12), border + p.rng.uniform(0.01, 0.09), 6)
        bend = angle + p.rng.normal(0, 0.12) * np.linspace(0, 1, 6)
        strokes.append((np.stack([reach * np.cos(bend), reach * np.sin(bend)], -1), p.rng.uniform(0.005, 0.012)))
    return strokes


def _paint_blood(p: Painter, depth: Field, body: Field) -> None:
    t, rng = p.traits, p.rng
    glow = step(depth, -0.1, 0.9)
    p.blood += (0.65 * t.redness) * (0.7 * body + 0.3 * glow) * (1 + 0.25 * p.rough(0.3))
    if t.strawberry > FAINT:
        lines = p.mesh(rng.uniform(0.08, 0.12), 1.1)
        patchy = t.strawberry * body * step(p.rough(0.4), -0.7, 1.4)
        p.blood += 0.6 * patchy * (lines - 0.25)
        p.keratin += 0.42 * patchy * step(-lines, -0.09, 0.1)
    if t.dots > FAINT:
        where = p.scattered(0.06, 0.7 * t.dots * body * step(p.noise(0.3), -0.3, 0.8))
        p.blood += 0.8 * p.clods(where, _sizes(p, where, 0.012), blur=0.7)
    if t.vessels > FAINT:
        p.blood += (0.3 + 0.7 * t.vessels) * p.strokes(_vessels(p)) * step(depth, -0.12, 0.3)
    if t.lacunae > FAINT:
        where = p.scattered(0.42 * p.radius, step(depth, 0.1, 0.1))
        lakes = p.clods(where, _sizes(p, where, 0.22) * p.radius, blur=1.6, wobble=0.12)
        lakes = lakes * (1 + 0.15 * p.rough(0.1))
        p.blood += t.lacunae * (0.5 * body + rng.uniform(0.8, 1.5) * lakes)
        p.deep += t.lacunae * rng.uniform(0, 0.7) * (0.25 * body + lakes)
    if t.ulcer > FAINT:
        crust = body * step(p.rough(0.35 * p.radius) + 1.2 * depth, 2.2 - 0.8 * t.ulcer, 0.35)
        p.blood += 1.2 * crust * (1 + 0.3 * p.noise(0.06))
        p.melanin += 0.6 * crust * (1 + 0.4 * p.noise(0.06))
    np.maximum(p.blood, 0, out=p.blood)


def _vessels(p: Painter) -> list[Stroke]:
    """Trees that enter at the border and branch, each branch thinner than its stem."""
    strokes: list[Stroke] = []
    for _ in range(2 + int(5 * p.traits.vessels)):
        angle = p.rng.uniform(0, 2 * np.pi)
        start = 1.05 * p.radius * np.array([np.cos(angle), np.sin(angle)])
        tips = [(start, angle + np.pi + p.rng.normal(0, 0.5), p.rng.uniform(0.014, 0.026))]
        while tips:
            point, heading, width = tips.pop()
            headings = heading + np.cumsum(p.rng.normal(0, 0.28, 9))
            steps = np.stack([np.cos(headings), np.sin(headings)], -1) * p.radius * p.rng.uniform(0.03, 0.07)
            path = np.vstack([point, point + np.cumsum(steps, 0)])
            strokes.append((path, width))
            if width > 0.008:
                for turn in (p.rng.uniform(0.3, 0.8), -p.rng.uniform(0.3, 0.8)):
                    tips.append((path[-1], headings[-1] + turn, width * p.rng.uniform(0.55, 0.8)))
    return strokes


def _paint_surface(p: Painter, depth: Field, body: Field) -> None:
    t = p.traits
    if t.veil > FAINT:
        part = body * step(0.8 * p.rough(1.1 * p.radius) + 1.3 * depth, 1.25 - 0.9 * t.veil, 1.3)
        p.deep += 0.6 * t.veil * part * (1 + 0.15 * p.rough(0.1))
        p.haze += 0.5 * t.veil * part * (1 + 0.3 * p.rough(0.15))
    if t.cysts > FAINT:
        where = p.scattered(0.12, 0.5 * t.cysts * step(depth, 0.1, 0.1))
        p.keratin += 0.65 * p.clods(where, _sizes(p, where, 0.014), blur=1.1)
    if t.scale > FAINT:
        flakes = step(p.rough(0.12), 1.5 - 0.7 * t.scale, 0.6) * step(p.noise(0.5), 0.1, 0.8)
        p.keratin += 0.65 * t.scale * body * flakes
    if t.scar > FAINT:
        white = step(depth + 0.12 * p.rough(0.2), 0.62 - 0.2 * t.scar, 0.5)
        bright = np.exp(-((p.noise(0.12) / 0.15) ** 2))
        p.scar += t.scar * white * (0.5 + 0.35 * bright * step(p.noise(0.25), 0.0, 1.0))


def _colours(p: Painter) -> Field:
    """Light that comes back (3, side, side): absorbed by the pigments (Beer-Lambert), then covered by what is above."""
    grain = 1 + 0.012 * p.noise(0.02)
    layers = ((p.scar, SCAR), (p.haze, HAZE), (p.keratin, KERATIN))
    covers = [(np.clip(cover, 0, 0.9), colour) for cover, colour in layers]
    planes = np.empty((3, p.side, p.side), np.float32)
    for c, plane in enumerate(planes):
        np.exp(-(MELANIN[c] * p.melanin + BLOOD[c] * p.blood + DEEP_MELANIN[c] * p.deep), out=plane)
        plane *= BARE_SKIN[c] * grain
        for cover, colour in covers:
            plane += cover * (colour[c] - plane)
    return planes


def _cover_with_hairs(p: Painter, planes: Field) -> None:
    rng = p.rng
    count = (0, int(rng.integers(1, 9)), int(rng.integers(10, 30)))[rng.choice(3, p=[0.58, 0.32, 0.10])]
    if not count:
        return
    comb = rng.uniform(0, 2 * np.pi)
    shaved = rng.random() < 0.4
    strokes: list[Stroke] = []
    for _ in range(3 * count if shaved else count):
        heading = comb + rng.normal(0, 0.45) + np.cumsum(np.full(14, rng.normal(0, 0.07)))
        steps = np.stack([np.cos(heading), np.sin(heading)], -1) * (0.02 if shaved else 0.11) * rng.uniform(0.5, 1.2)
        path = rng.uniform(-HALF_PAINTED, HALF_PAINTED, 2) + np.cumsum(steps, 0)
        strokes.append((path, rng.uniform(0.006, 0.016)))
    cover = p.strokes(strokes)
    shadow = 1 - 0.16 * np.roll(cover, (2, 2), (0, 1))
    colour = HAIR_COLOURS[rng.choice(len(HAIR_COLOURS), p=[0.5, 0.4, 0.1])]
    for plane, level in zip(planes, colour, strict=True):
        plane *= shadow
        plane += 0.9 * cover * (level - plane)
