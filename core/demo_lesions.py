"""What the demo's lesions are made of: how strongly each shows which dermoscopic structure, and whose it is.

The strengths follow the words of textbooks (Kittler et al., "Standardization of terminology in dermoscopy",
J Am Acad Dermatol 74 (2016) 1093), not the statistics of any data set, and nothing clinical follows from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from core.errors import InputError

T = TypeVar("T")

MIN_LESIONS = 6
MAX_PHOTOS = 6
# HAM10000 has 1.3 photos a lesion. More of them make the difference between splitting by lesion and by image visible.
MEAN_PHOTOS = 2.0

# Images per class in the metadata of HAM10000 (Tschandl et al., "The HAM10000 dataset", Sci Data 5:180161 (2018)).
HAM10000_COUNTS = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
CLASSES = tuple(HAM10000_COUNTS)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How strongly a lesion shows each structure: 0 not at all, 1 as strongly as a textbook's example.

    Attributes:
        size: Extent of the lesion, from a tenth of the picture's height to nearly all of it.
        pigment: Melanin near the surface, which looks brown to black.
        redness: Blood beneath the lesion, which looks pink to red.
        sharp: Abruptness of the border.
        irregular: Notches and bays of the border.
        asymmetric: Second lobe and shifted centre.
        variegated: Patches of unequal depth of colour.
        network: Honeycomb lines of pigment.
        globules: Round clods of pigment.
        streaks: Radial lines at the border.
        veil: Blue-white haze over a part.
        nests: Blue-grey ovoid clods.
        cysts: Milia-like cysts, small and white.
        openings: Comedo-like openings, small and dark.
        ridges: Fingerprint or brain-like furrows.
        vessels: Branching vessels, in focus.
        dots: Dotted vessels.
        strawberry: Red network around pale follicles.
        scale: White to yellow flakes at the surface.
        scar: White centre with shining lines.
        lacunae: Red to purple lakes of blood.
        ulcer: Crust of blood.
    """

    size: float = 0.5
    pigment: float = 0.0
    redness: float = 0.1
    sharp: float = 0.5
    irregular: float = 0.2
    asymmetric: float = 0.15
    variegated: float = 0.2
    network: float = 0.0
    globules: float = 0.0
    streaks: float = 0.0
    veil: float = 0.0
    nests: float = 0.0
    cysts: float = 0.0
    openings: float = 0.0
    ridges: float = 0.0
    vessels: float = 0.0
    dots: float = 0.0
    strawberry: float = 0.0
    scale: float = 0.0
    scar: float = 0.0
    lacunae: float = 0.0
    ulcer: float = 0.0


# The typical members of each class. Every lesion is one of them, bent towards a look-alike and blurred by chance.
ARCHETYPES: Mapping[str, tuple[Traits, ...]] = {
    "akiec": (
        Traits(size=0.6, pigment=0.05, redness=0.6, sharp=0.15, irregular=0.5, strawberry=0.95, scale=0.7),
        Traits(size=0.5, pigment=0.3, redness=0.6, sharp=0.5, irregular=0.5, variegated=0.5, dots=0.8, scale=0.8),
    ),
    "bcc": (
        Traits(size=0.45, pigment=0.03, redness=0.45, sharp=0.45, vessels=0.95, ulcer=0.3, scar=0.2, nests=0.15),
        Traits(size=0.5, pigment=0.12, redness=0.4, irregular=0.5, variegated=0.4, nests=0.9, vessels=0.5, ulcer=0.3),
    ),
    "bkl": (
        Traits(size=0.55, pigment=0.5, sharp=0.95, irregular=0.45, cysts=0.85, openings=0.8, variegated=0.35),
        Traits(size=0.6, pigment=0.35, sharp=0.85, irregular=0.6, ridges=0.9, cysts=0.2, variegated=0.4),
    ),
    "df": (
        Traits(size=0.5, pigment=0.25, redness=0.3, sharp=0.1, irregular=0.1, scar=0.9, network=0.5),
        Traits(size=0.45, pigment=0.3, redness=0.45, sharp=0.15, irregular=0.1, scar=0.6, network=0.3, dots=0.3),
    ),
    "mel": (
        Traits(size=0.65, pigment=0.75, sharp=0.6, irregular=0.8, asymmetric=0.8, variegated=0.85, network=0.6,
               streaks=0.6, globules=0.4, veil=0.45),
        Traits(size=0.6, pigment=0.85, redness=0.25, sharp=0.7, irregular=0.6, asymmetric=0.7, variegated=0.7, veil=0.9,
               globules=0.5, streaks=0.4),
        Traits(size=0.75, pigment=0.45, sharp=0.3, irregular=0.8, asymmetric=0.8, variegated=0.9, network=0.5, scar=0.3,
               veil=0.25),
    ),
    "nv": (
        Traits(size=0.5, pigment=0.5, sharp=0.35, network=0.85),
        Traits(size=0.5, pigment=0.45, sharp=0.55, globules=0.9),
        Traits(size=0.4, pigment=0.5, redness=0.2, sharp=0.35, variegated=0.25, network=0.2),
        Traits(size=0.5, pigment=0.6, sharp=0.4, irregular=0.45, asymmetric=0.4, variegated=0.5, network=0.6,
               globules=0.4),
    ),
    "vasc": (
        Traits(size=0.35, redness=0.5, sharp=0.8, lacunae=0.9),
        Traits(size=0.4, redness=0.6, sharp=0.9, lacunae=0.9, veil=0.5, scale=0.2),
    ),
}  # fmt: skip

# Whom each class is mistaken for.
LOOKALIKES: Mapping[str, tuple[str, ...]] = {
    "akiec": ("bkl", "bcc", "df"),
    "bcc": ("akiec", "vasc", "mel", "nv"),
    "bkl": ("mel", "nv", "akiec", "bcc"),
    "df": ("nv", "bcc", "akiec"),
    "mel": ("nv", "nv", "bkl", "vasc"),
    "nv": ("mel", "mel", "bkl", "df"),
    "vasc": ("bcc", "mel", "df"),
}
# A lesion's share of its look-alike is drawn from Beta(1, this): at 4, one in sixteen looks more like another class.
LOOKALIKE_BETA = 4.0
TRAIT_SPREAD = 0.11


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One lesion of one person.

    Attributes:
        number: Position among all lesions, which seeds its looks.
        dx: Diagnosis, one of `CLASSES`.
        image_ids: Name of each photo of it.
        dx_type: How the diagnosis was made.
        age: Years, in steps of five as in HAM10000; empty if unknown.
        sex: ``female`` or ``male``.
        localization: Part of the body.
    """

    number: int
    dx: str
    image_ids: tuple[str, ...]
    dx_type: str
    age: str
    sex: str
    localization: str

    @property
    def lesion_id(self) -> str:
        """Named unlike HAM10000's ids, so that no demo lesion can be taken for a real one."""
        return f"DEMO_L{self.number:06d}"


def draw_traits(dx: str, rng: np.random.Generator) -> Traits:
    """The latent strengths of one lesion: a typical member of its class, mixed with a look-alike of another class."""
    names = [field.name for field in fields(Traits)]
    own, other = _any_of(ARCHETYPES[dx], rng), _any_of(ARCHETYPES[_any_of(LOOKALIKES[dx], rng)], rng)
    share = rng.beta(1.0, LOOKALIKE_BETA)
    means = np.array([(1 - share) * getattr(own, name) + share * getattr(other, name) for name in names])
    values = np.clip(means + TRAIT_SPREAD * rng.standard_normal(len(names)), 0, 1)
    return Traits(**{name: float(value) for name, value in zip(names, values, strict=True)})


def plan_lesions(images: int, seed: int) -> list[Lesion]:
    """Who has which lesion, and how many photos there are of it.

    Args:
        images: Photos in all.
        seed: Same seed, same plan.

    Raises:
        InputError: Too few images for `MIN_LESIONS` lesions of each class.
    """
    if images < MIN_LESIONS * len(CLASSES):
        raise InputError(
            f"`images` must be at least {MIN_LESIONS * len(CLASSES)} ({MIN_LESIONS} lesions of each of {len(CLASSES)} "
            f"classes), but got images={images}. Ask for more."
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    ids = iter([f"DEMO_{number:07d}" for number in rng.permutation(images)])
    lesions: list[Lesion] = []
    for dx, count in zip(CLASSES, _class_counts(images), strict=True):
        for photos in _photos_per_lesion(count, rng):
            image_ids = tuple(next(ids) for _ in range(photos))
            lesions.append(Lesion(number=len(lesions), dx=dx, image_ids=image_ids, **_patient(dx, rng)))
    return lesions


def _class_counts(images: int) -> list[int]:
    """Images of each class at HAM10000's shares, at least `MIN_LESIONS` each, `images` in all."""
    quotas = images * np.array(list(HAM10000_COUNTS.values())) / sum(HAM10000_COUNTS.values())
    counts = np.maximum(MIN_LESIONS, quotas.astype(int))
    while counts.sum() != images:
        step = int(np.sign(images - counts.sum()))
        open_to_change = counts > MIN_LESIONS if step < 0 else np.full(len(counts), True)
        counts[np.argmax(np.where(open_to_change, step * (quotas - counts), -np.inf))] += step
    return [int(count) for count in counts]


def _photos_per_lesion(images: int, rng: np.random.Generator) -> list[int]:
    """Splits a class's images into lesions of 1 to `MAX_PHOTOS` photos."""
    photos = np.ones(max(MIN_LESIONS, round(images / MEAN_PHOTOS)), np.int64)
    weights = rng.exponential(size=len(photos))
    while photos.sum() < images:
        free = weights * (photos < MAX_PHOTOS)
        photos[rng.choice(len(photos), p=free / free.sum())] += 1
    return [int(count) for count in photos]


def _patient(dx: str, rng: np.random.Generator) -> dict[str, str]:
    """The metadata that HAM10000 gives besides the diagnosis."""
    years = 5 * round(float(np.clip(rng.normal(48 if dx in ("nv", "df", "vasc") else 67, 15), 5, 85)) / 5)
    biopsy = rng.random() < (0.3 if dx in ("nv", "vasc", "df") else 0.85)
    places = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot", "unknown")
    return {
        "dx_type": "histo" if biopsy else "follow_up" if dx == "nv" and rng.random() < 0.75 else "consensus",
        "age": f"{years:.1f}" if rng.random() > 0.01 else "",
        "sex": _any_of(("female", "male"), rng),
        "localization": places[min(int(rng.exponential(2.2)), len(places) - 1)],
    }


def _any_of(choices: tuple[T, ...], rng: np.random.Generator) -> T:
    return choices[rng.integers(len(choices))]
