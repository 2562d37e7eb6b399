"""Which images a pre-training has been kept apart from, so that a study can refuse weights that may know its sealed
lesions."""

import base64
import binascii
from collections.abc import Iterable, Sequence

from core.errors import InputError, counted, few

# Of a file's SHA-256; among a million images two share so many by chance once in 37 million such sets.
_BYTES = 8


def write_apart(sha256: Iterable[str], earlier: str | None = None) -> str:
    """Hashes of files as text for the metadata of a weights file.

    Args:
        sha256: Hash of each file that a pre-training has been kept apart from, hexadecimal.
        earlier: What the first weights of that pre-training say; only what both were kept apart from counts. None for
            others' weights, of which it is taken for granted that they are of other images.

    Raises:
        ValueError: `earlier` is damaged.

    >>> both = write_apart(["00ff" * 16, "0a" * 32])
    >>> write_apart(["00ff" * 16, "0b" * 32], earlier=both)
    'AP8A/wD/AP8='
    """
    starts = {_start(each) for each in sha256}
    if earlier is not None:
        starts &= _read(earlier)
    return base64.b64encode(b"".join(sorted(starts))).decode("ascii")


def refuse_known(
    apart: str | None, *, origin: str, sha256: Sequence[str], names: Sequence[str], parts: str, way_out: str
) -> None:
    """Makes sure that weights have been kept apart from some images.

    What a pre-training has looked at can't tell that: a copy in another size has other bytes, and another photo of a
    lesion other pixels. Those that it left out have been looked for among its images in every way that there is.

    Args:
        apart: What `write_apart` gave; None for weights that `core.pretrain` hasn't made.
        origin: Where the weights come from, for people.
        sha256: Hash of each image's file.
        names: The images, for people.
        parts: What the images are, for people.
        way_out: A sentence on what to do else.

    Raises:
        InputError: They haven't been kept apart from one of them, or their file is damaged.
    """
    if apart is None:
        return
    try:
        known = _read(apart)
    except ValueError as error:
        raise InputError(
            f"`weights` must say which images they have been kept apart from, but what comes from {origin} says it in "
            f"a damaged way ({error}). Restore the file."
        ) from error
    if rest := [name for name, each in zip(names, sha256, strict=True) if _start(each) not in known]:
        raise InputError(
            f"`weights` must have been kept apart from {parts}, but the pre-training of those from {origin} may have "
            f"shown them {counted(len(rest), 'image')} of it: {few(rest)}. {way_out}"
        )


def _read(apart: str) -> set[bytes]:
    try:
        content = base64.b64decode(apart, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    return {content[start : start + _BYTES] for start in range(0, len(content), _BYTES)}


def _start(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:_BYTES]
