"""Where things that can be computed again lie: decoded pixels, inspected files, fetched weights."""

import os
from pathlib import Path

from core.errors import InputError

CACHE_VARIABLE = "DERMATUNE_CACHE"


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached file, made if needed.

    It lies under ``$DERMATUNE_CACHE``, else under ``$XDG_CACHE_HOME/dermatune`` or ``~/.cache/dermatune``. All of it
    can be deleted at any time; it costs time, never results (on a card up to rounding, see docs/decisions/0012).

    Raises:
        InputError: The folder cannot be made or written to.
    """
    if not (root := os.environ.get(CACHE_VARIABLE)):
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dermatune")
    folder = Path(root).absolute() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The cache folder must be writable, but {folder} is not ({error.strerror}). "
            f"Set {CACHE_VARIABLE} to a folder that is."
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"The cache folder must be writable, but {folder} is not. Set {CACHE_VARIABLE} to one that is."
        )
    return folder
