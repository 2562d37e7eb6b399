"""Which images a pre-training has shown to weights, so that a study can refuse those that know its sealed lesions."""

import base64
import binascii
from collections.abc import Iterable, Sequence

from core.errors import InputError, counted, few

# Of a file's SHA-256; among a million images two share so many by chance once in 37 million such sets.
_BYTES = 8


def write_seen(sha256: Iterable[str]) -> str:
    """Hashes of files as text for the metadata of a weights file.

    >>> write_seen(["00ff" * 16])
    'AP8A/wD/AP8='
    """
    return base64.b64encode(b"".join(sorted({_start(each) for each in sha256}))).decode("ascii")


def refuse_seen(seen: str | None, *, origin: str, sha256: Sequence[str], names: Sequence[str]) -> None:
    """Makes sure that weights have not been pre-trained on some images.

    Args:
        seen: What `write_seen` gave; None for weights of which nothing is known.
        origin: Where the weights come from, for people.
        sha256: Hash of each image's file.
        names: The images, for people.

    Raises:
        InputError: They have seen one of them, or their file is damaged.
    """
    if seen is None:
        return
    try:
        content = base64.b64decode(seen, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"`weights` must say which images they have seen, but what comes from {origin} says it in a damaged way "
            f"({error}). Restore the file."
        ) from error
    known = {content[start : start + _BYTES] for start in range(0, len(content), _BYTES)}
    if both := [name for name, each in zip(names, sha256, strict=True) if _start(each) in known]:
        raise InputError(
            f"`weights` must not have seen validation and test images, but those from {origin} were pre-trained on "
            f"{counted(len(both), 'image')} of them: {few(both)}. Pre-train with the study's data as --labelled and "
            "with its --seed, or give the study the seed that they were pre-trained with."
        )


def _start(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:_BYTES]
