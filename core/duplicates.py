"""Photos of one lesion that its folder lists as different ones: found by perceptual hash, confirmed by their pixels.

The figures below were measured on HAM10000 (10,015 images of 200x150 px, 50 million pairs of different lesions), where
ISIC_0033481 and ISIC_0033421 are known to be one lesion, photographed twice with a shift. No hash tells such a pair
apart: imagehash's `phash` at 8x8 ranks it behind 48,900 pairs of different lesions, at 16x16 no better than chance, and
`phash` and `dhash` together (`ImageReport.phash`) still behind 1,900. So the hashes choose the candidates, and the
pixels decide.

Legend: N rows of the manifest, P pairs, I images in candidates, S side of a thumbnail.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.Image import Resampling

from core.device import available_cores
from core.framing import Frame
from core.images import load_image, read_image
from core.manifest import Manifest

_log = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

# Of 128 bits. The known pair differs in 16; at 16 there are 1,938 candidates, at 28 already 108,000.
MAX_DISTANCE = 16
# Correlation of two thumbnails without their shading, at the best of 81 shifts. The known pair has 0.958; 17 pairs of
# 1,938 have 0.95 or more: 6 show one lesion to the eye, 11 look alike. 30 have 0.94, 219 0.90, nearly all different.
# A wrong pair costs nothing but that two lesions go to the same part.
MIN_CORRELATION = 0.95
_THUMBNAIL = 36  # pixels
_MAX_SHIFT = 4  # thumbnail pixels in each direction, 11 % of the side
_FINE, _COARSE = 0.7, 4.0  # thumbnail pixels: blurs whose difference keeps lesions and drops vignettes and noise
# Beyond this many candidates the hash says nothing (blank or drawn images); the closest ones are looked at.
_MOST_CANDIDATES = 50_000
_BLOCK = 256  # rows compared at once with all others: 20 MB at 10,000 images
_BATCH = 4096  # pairs correlated at once: 100 MB


def near_duplicates(manifest: Manifest) -> IntArray:
    """The pairs of rows from different groups that show the same lesion, as far as pixels can tell.

    Not found are pairs that are turned, mirrored, or shifted by more than a tenth.

    Returns:
        int64 (P, 2), the smaller row first.

    Raises:
        InputError: An image that has to be looked at cannot be read any more.
    """
    return find_pairs(
        files=[manifest.file(row) for row in range(len(manifest))],
        sha256=manifest.sha256,
        phashes=manifest.phashes,
        apart=np.unique(np.array(manifest.groups), return_inverse=True)[1],
    )


def find_pairs(
    *,
    files: Sequence[Path],
    sha256: Sequence[str],
    phashes: Sequence[str],
    apart: IntArray,
    within: bool = False,
    squashed: bool = False,
    least: float = MIN_CORRELATION,
) -> IntArray:
    """The pairs of images that show the same.

    Args:
        files: Image files (N,).
        sha256: Hash of each one's bytes, by which copies are known without a look.
        phashes: Perceptual hash of each, as `ImageReport.phash`.
        apart: int64 (N,), a number for what each belongs to: only images of different ones are compared.
        within: Only images of the same one are compared instead.
        squashed: Whole images are compared, whatever their proportions, and not the squares around their centres: sets
            such as DermaMNIST squeeze each image into a square.
        least: Correlation from which on two images are taken for one.

    Returns:
        int64 (P, 2), the smaller index first. Of images with equal bytes each is in a pair with the first of them only.

    Raises:
        InputError: An image that has to be looked at cannot be read any more.
    """
    pairs_P2 = _candidates(phashes, sha256, apart, within)
    same_P = _correlations(files, pairs_P2, squashed) >= least
    return np.concatenate([_identical(sha256, apart, within), pairs_P2[same_P]])


def _identical(sha256: Sequence[str], apart_N: IntArray, within: bool) -> IntArray:
    """The pairs of images with equal bytes, each with the first such image only; int64 (P, 2)."""
    first: dict[tuple[str, int], int] = {}
    pairs = []
    for row, (digest, number) in enumerate(zip(sha256, apart_N.tolist(), strict=True)):
        other = first.setdefault((digest, number if within else -1), row)
        if other != row and (apart_N[other] == number) == within:
            pairs.append((other, row))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _candidates(phashes: Sequence[str], sha256: Sequence[str], apart_N: IntArray, within: bool) -> IntArray:
    """Pairs of other bytes whose hashes differ in few bits, the closest first; int64 (P, 2)."""
    if not phashes:
        return np.empty((0, 2), dtype=np.int64)
    bytes_N = np.unique(np.array(sha256), return_inverse=True)[1]
    words_NW = np.stack([np.frombuffer(bytes.fromhex(phash), dtype=np.uint64) for phash in phashes])
    found = np.empty((0, 3), dtype=np.int64)  # distance, row, row
    dropped = 0
    # After the last one that isn't of the same as all that follow there is nothing to compare with.
    end = len(words_NW) if within else int(np.flatnonzero(apart_N != apart_N[-1]).max(initial=-1)) + 1
    for start in range(0, end, _BLOCK):
        block_BW, rest_RW = words_NW[start : start + _BLOCK], words_NW[start:]
        distance_BR = np.zeros((len(block_BW), len(rest_RW)), dtype=np.uint8)
        for block_B, rest_R in zip(block_BW.T, rest_RW.T, strict=True):
            distance_BR += np.bitwise_count(block_B[:, None] ^ rest_R[None, :])
        first_P, second_P = np.nonzero(distance_BR <= MAX_DISTANCE)
        distance_P = distance_BR[first_P, second_P]
        rows = np.stack([distance_P, first_P + start, second_P + start], axis=1).astype(np.int64)
        different_P = bytes_N[rows[:, 1]] != bytes_N[rows[:, 2]]
        rows = rows[(first_P < second_P) & different_P & ((apart_N[rows[:, 1]] == apart_N[rows[:, 2]]) == within)]
        found = np.concatenate([found, rows])
        found = found[np.argsort(found[:, 0], kind="stable")]
        dropped += max(0, len(found) - _MOST_CANDIDATES)
        found = found[:_MOST_CANDIDATES]
    if dropped:
        _log.warning("%d pairs of images look alike; the closest %d are compared", dropped + len(found), len(found))
    return found[:, 1:]


def _correlations(files: Sequence[Path], pairs_P2: IntArray, squashed: bool) -> FloatArray:
    """The best correlation of each pair over all small shifts, float32 (P,) in [-1, 1]."""
    rows_I, places_P2 = np.unique(pairs_P2, return_inverse=True)
    places_P2 = places_P2.reshape(-1, 2)
    if not len(rows_I):
        return np.empty(0, dtype=np.float32)
    with ThreadPoolExecutor(available_cores()) as threads:  # Pillow lets go of the GIL while it decodes
        thumbnails_ISS = np.stack(list(threads.map(lambda row: _thumbnail(files[row], squashed), rows_I.tolist())))
    batches = [places_P2[start : start + _BATCH] for start in range(0, len(places_P2), _BATCH)]
    return np.concatenate([_best_correlation(thumbnails_ISS[b[:, 0]], thumbnails_ISS[b[:, 1]]) for b in batches])


def _thumbnail(file: Path, squashed: bool) -> FloatArray:
    """The structures of an image without its shading, float32 (S, S)."""
    from scipy.ndimage import gaussian_filter

    if squashed:
        pixels = np.asarray(read_image(file, at_least=_THUMBNAIL).resize((_THUMBNAIL, _THUMBNAIL), Resampling.HAMMING))
    else:
        pixels = load_image(file, Frame(_THUMBNAIL, "centre"))
    green_SS = pixels[:, :, 1].astype(np.float32)  # where blood and pigment stand out most from skin
    structures: FloatArray = gaussian_filter(green_SS, _FINE) - gaussian_filter(green_SS, _COARSE)
    return structures


def _best_correlation(a_PSS: FloatArray, b_PSS: FloatArray) -> FloatArray:
    best_P = np.full(len(a_PSS), -1.0, dtype=np.float32)
    shifts = range(-_MAX_SHIFT, _MAX_SHIFT + 1)
    for dy in shifts:
        for dx in shifts:
            a, b = _overlap(a_PSS, dy, dx), _overlap(b_PSS, -dy, -dx)
            product_P = np.einsum("pij,pij->p", a, b)
            energy_P = np.einsum("pij,pij->p", a, a) * np.einsum("pij,pij->p", b, b)
            best_P = np.maximum(best_P, product_P / np.sqrt(np.maximum(energy_P, 1e-6)))  # 0 where nothing is to see
    return best_P


def _overlap(images_PSS: FloatArray, dy: int, dx: int) -> FloatArray:
    """What remains of the images when they are moved up and left by (dy, dx) under a window of their own size."""
    height, width = images_PSS.shape[1:]
    return images_PSS[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
