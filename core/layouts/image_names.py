"""Which image a table means by an id, a file name or a path.

Names are only ever looked up among the images that were listed, so that none can lead out of the folder.
"""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from core.images import SUFFIXES
from core.layouts.contract import find_role

# The segmentations of HAM10000 and of the ISIC challenges' tasks 1 and 2: pictures about the images.
_MASK = re.compile(r"_(segmentation|superpixels)\.png$|_attribute_[^/]*\.png$", re.IGNORECASE)

# A file is compared with its copies in so many places, so many bytes in each.
_BLOCKS, _BLOCK = 8, 512

_SUFFIXES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)


@lru_cache(maxsize=1 << 14)
def path_role(path: str) -> str:
    """The official role that a path tells: that of the last of its parts that names one, else empty.

    >>> path_role("test/HAM10000_metadata"), path_role("test/ISIC2018_Task3_Training_Input")
    ('test', 'train')
    """
    return next(filter(None, map(find_role, reversed(path.split("/")))), "")


def folder_role(image: str) -> str:
    """The official role that an image's folders tell; its own name tells none."""
    folder, slash, _ = image.rpartition("/")
    return path_role(folder) if slash else ""


def is_mask(image: str) -> bool:
    """Whether a file shows an outline or an attribute of an image rather than skin.

    >>> is_mask("ISIC_0000000_segmentation.png"), is_mask("ISIC_0000000.jpg")
    (True, False)
    """
    return image.endswith((".png", ".PNG")) and _MASK.search(image) is not None  # the search takes far longer


class ImageNames:
    """The images of a folder, to be found by what tables call them."""

    def __init__(self, root: Path, images: Iterable[str]) -> None:
        """Takes the folder's absolute path and its images relative to it; of equal copies the first will count."""
        self._root = root
        self._images = tuple(images)
        self._exact = _Index(self._images, str)

    @cached_property
    def _folded(self) -> "_Index":
        return _Index(self._images, str.casefold)

    def find(self, name: str, *, table: str = "", role: str = "") -> Sequence[str]:
        """Looks up an image.

        Args:
            name: A path relative to the root or to the table's folder, a file's name, or either without the suffix.
                Case counts only where it makes a difference.
            table: Path of the table that says so; of several images those in its own folder are meant.
            role: Official role of what the table lists; of several images those in folders of this role are meant.

        Returns:
            One image; none if there is no such image; several if they differ and nothing tells which is meant.
        """
        folder = table.rpartition("/")[0]
        plain = name.replace("\\", "/").removeprefix("./")
        found = self._exact.find(plain, folder) or self._folded.find(plain, folder)
        if len(found) > 1 and folder:
            found = [image for image in found if image.startswith(f"{folder}/")] or found
        if len(found) > 1 and role:
            found = [image for image in found if folder_role(image) == role] or found
        if len(found) > 1 and len({self._sample(image) for image in found}) == 1:
            return found[:1]
        return found

    def copies(self, of: Collection[str], among: Iterable[str]) -> set[str]:
        """Those files that are copies of some images: of the same name, whatever its case, and of the same content.

        Kaggle's HAM10000 holds each image twice, in folders of upper-case and lower-case names.
        """
        samples: defaultdict[str, set[bytes]] = defaultdict(set)
        others = [(_stem(image).casefold(), image) for image in among]
        if not others:
            return set()
        wanted = {stem for stem, _ in others}
        for image in of:
            if (stem := _stem(image).casefold()) in wanted:
                samples[stem].add(self._sample(image))
        return {image for stem, image in others if stem in samples and self._sample(image) in samples[stem]}

    def _sample(self, image: str) -> bytes:
        """The file's size and some of its bytes, equal for copies only; empty if it cannot be read.

        Sizes alone would not do, as uncompressed images of one shape all have the same; and Kaggle's 10,015 pairs read
        whole are 5 GB.
        """
        try:
            with (self._root / image).open("rb", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                places = {size * part // _BLOCKS for part in range(_BLOCKS)} | {max(0, size - _BLOCK)}
                blocks = (file.read(_BLOCK) for place in sorted(places) if file.seek(place) >= 0)
                return b"".join([size.to_bytes(8, "big"), *blocks])
        except OSError:
            return b""


class _Index:
    """Images by their paths and names, with suffix and without; one index for exact spelling, one for any case."""

    def __init__(self, images: Iterable[str], spell: Callable[[str], str]) -> None:
        self._spell = spell
        self._spelt = [(spell(image), image) for image in images]

    # Each is made when first needed: most tables of 10,015 images need one of them.
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
        return _several((_stem(path), image) for path, image in self._spelt)

    def find(self, name: str, folder: str) -> list[str]:
        """The images that a name in a table of this folder stands for, by the most exact reading that gives any."""
        path = self._spell(name)
        if "." not in path and "/" not in path:
            return self._stems.get(path, [])
        bare = _bare(path)
        found: list[str] | None = None
        if bare != path or "/" in path:
            own = posixpath.join(self._spell(folder), path)
            found = self._paths.get(own) or self._paths.get(path)
            if "/" in path:
                keys = (own, path, _bare(own), bare)
                return found or next((self._bare_paths[key] for key in keys if key in self._bare_paths), [])
            found = found or self._names.get(path)
        return found or self._stems.get(path) or self._stems.get(bare) or []


def _several(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    images: dict[str, list[str]] = {}
    for key, image in pairs:
        images.setdefault(key, []).append(image)
    return images


# Not posixpath's functions, which would take most of the time.
def _stem(image: str) -> str:
    """The name of an image's file without its suffix."""
    return image.rpartition("/")[2].rpartition(".")[0]


def _bare(name: str) -> str:
    """A name without the suffix of an image, if it has one."""
    bare, dot, suffix = name.rpartition(".")
    return bare if dot and suffix.lower() in _SUFFIXES else name
