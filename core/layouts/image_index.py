"""Images by whatever they may be called: their paths, the ends of their paths, and their files' names."""

import posixpath
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from core.images import SUFFIXES

_SUFFIXES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)


class Index:
    """Images by their paths and names, with suffix and without; one index for exact spelling, one for any case.

    Args:
        root: The folder that the images' paths are relative to, absolute.
        images: The paths.
        spell: What makes two spellings one, such as `str.casefold`.
    """

    def __init__(self, root: Path, images: Sequence[str], spell: Callable[[str], str]) -> None:
        self._spell = spell
        self._root = spell(root.as_posix()).split("/")
        self._images = images

    # Each is made when first needed: most tables of 10,015 images need one of them, and many folders have no table.
    @cached_property
    def _spelt(self) -> list[tuple[str, str]]:
        return [(self._spell(image), image) for image in self._images]

    @cached_property
    def _paths(self) -> dict[str, list[str]]:
        return _several((path, image) for path, image in self._spelt)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _several((path.rpartition("/")[2], image) for path, image in self._spelt)

    @cached_property
    def _bare_paths(self) -> dict[str, list[str]]:
        return _several((path.rpartition(".")[0], image) for path, image in self._spelt)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return _several((stem_of(path), image) for path, image in self._spelt)

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        """Images by what remains of their paths without the first folders, with suffix and without."""
        return _several(
            (end, image)
            for path, image in self._spelt
            for name in (path, path.rpartition(".")[0])
            for end in _without_first_folders(name)
        )

    @cached_property
    def _deepest(self) -> int:
        return max((path.count("/") + 1 for path, _ in self._spelt), default=0)

    def find(self, name: str, folder: str) -> list[str]:
        """The images that a name in a table of this folder stands for, by the most exact reading that gives any."""
        path = self._spell(name)
        if "." not in path and "/" not in path:
            return self._stems.get(path, [])
        bare = _bare(path)
        found: list[str] | None = None
        if bare != path or "/" in path:
            # Also `../img/a.jpg` beside the folder of the table; what leads out of the root is in no index.
            own = posixpath.normpath(posixpath.join(self._spell(folder), path))
            found = self._paths.get(own) or self._paths.get(path)
            if "/" in path:
                keys = (own, path, _bare(own), bare)
                found = found or next((self._bare_paths[key] for key in keys if key in self._bare_paths), None)
                return found or self._ends.get(path) or self._ends.get(bare) or self._below_other_folders(path)
            found = found or self._names.get(path)
        return found or self._stems.get(path) or self._stems.get(bare) or []

    def _below_other_folders(self, path: str) -> list[str]:
        """The images whose own path is the end of this one, which was written where they lay elsewhere.

        What remains must have a folder, or be without it in the root: a file's name alone says too little.
        """
        parts = path.split("/")
        if ".." in parts:
            return []
        for first in range(max(1, len(parts) - self._deepest), len(parts)):
            if len(parts) - first > 1 or parts[:first] == self._root[-first:]:
                rest = "/".join(parts[first:])
                if found := self._paths.get(rest) or self._bare_paths.get(_bare(rest)):
                    return found
        return []


def _without_first_folders(path: str) -> list[str]:
    """What remains of a path without its first folders, as long as there is a folder.

    >>> _without_first_folders("a/b/c/d.jpg")
    ['b/c/d.jpg', 'c/d.jpg']
    """
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(1, len(parts) - 1)]


def _several(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    images: dict[str, list[str]] = {}
    for key, image in pairs:
        images.setdefault(key, []).append(image)
    return images


# Not posixpath's functions, which would take most of the time.
def stem_of(image: str) -> str:
    """The name of an image's file without its suffix."""
    return image.rpartition("/")[2].rpartition(".")[0]


def _bare(name: str) -> str:
    """A name without the suffix of an image, if it has one."""
    bare, dot, suffix = name.rpartition(".")
    return bare if dot and suffix.lower() in _SUFFIXES else name
