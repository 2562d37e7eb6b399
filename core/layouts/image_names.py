"""Which image a table means by an id, a file name or a path.

Names are only ever looked up among the images that were listed, so that none can lead out of the folder.
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from core.errors import few
from core.layouts.contract import find_role
from core.layouts.image_index import Index, stem_of

# The segmentations of HAM10000 and of the ISIC challenges' tasks 1 and 2: pictures about the images.
_MASK = re.compile(r"_(segmentation|superpixels)\.png$|_attribute_[^/]*\.png$", re.IGNORECASE)

# A file is compared with its copies in so many places, so many bytes in each.
_BLOCKS, _BLOCK = 8, 512


def composed(text: str) -> str:
    """Text with each accent in one character with its letter: a Mac writes names of files with two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


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


def without_masks(images: Iterable[str]) -> tuple[list[str], list[str]]:
    """The images that are none, sorted, and a note of those that are; all of them if they are nothing else."""
    masks = sorted(filter(is_mask, images := list(images)))
    if not masks or len(masks) == len(images):
        return sorted(images), []
    return sorted({*images} - {*masks}), [f"{len(masks):,} masks of images are passed over: {few(masks)}"]


class ImageNames:
    """The images of a folder, to be found by what tables call them."""

    def __init__(self, root: Path, images: Iterable[str]) -> None:
        """Takes the folder's absolute path and its images relative to it; of equal copies the first will count."""
        self._root = root
        self._images = tuple(images)
        self._exact = Index(root, self._images, composed)
        # What was looked up once: tables may have many rows of one name, and that may be the name of many images.
        self._several: dict[tuple[str, str, str], Sequence[str]] = {}
        self._one_of_copies: dict[tuple[str, str, str], Sequence[str]] = {}
        self._samples: dict[str, bytes] = {}

    @cached_property
    def _folded(self) -> Index:
        return Index(self._root, self._images, lambda name: composed(name).casefold())

    def find(self, name: str, *, table: str = "", role: str = "") -> Sequence[str]:
        """Looks up an image, copies of which count as one; `look_up` says what is looked for.

        Returns:
            One image; none if there is no such image; several if they differ and nothing tells which is meant.
        """
        found = self.look_up(name, table=table, role=role)
        if len(found) < 2:
            return found
        key = (name, table, role)
        if key not in self._one_of_copies:
            first = self._sample(found[0])
            same = all(self._sample(image) == first for image in found[1:])
            self._one_of_copies[key] = found[:1] if same else found
        return self._one_of_copies[key]

    def look_up(self, name: str, *, table: str = "", role: str = "") -> Sequence[str]:
        """All images that a name may stand for; their content is not compared.

        Args:
            name: A path relative to the root or to the table's folder, a file's name, or either without the suffix;
                also the end of a path, or a path that begins with folders from elsewhere and ends with all of an
                image's. Case counts only where it makes a difference.
            table: Path of the table that says so; of several images those in its own folder are meant.
            role: Official role of what the table lists; of several images those in folders of this role are meant.
        """
        folder = table.rpartition("/")[0]
        plain = name.replace("\\", "/").removeprefix("./")
        found = self._exact.find(plain, folder) or self._folded.find(plain, folder)
        if len(found) < 2:
            return found
        key = (name, table, role)
        if key in self._several:
            return self._several[key]
        if folder:
            found = [image for image in found if image.startswith(f"{folder}/")] or found
        if len(found) > 1 and role:
            found = [image for image in found if folder_role(image) == role] or found
        self._several[key] = found
        return found

    def copies(self, of: Collection[str], among: Iterable[str]) -> set[str]:
        """Those files that are copies of some images: of the same name, whatever its case, and of the same content.

        Kaggle's HAM10000 holds each image twice, in folders of upper-case and lower-case names.
        """
        samples: defaultdict[str, set[bytes]] = defaultdict(set)
        others = [(stem_of(image).casefold(), image) for image in among]
        if not others:
            return set()
        wanted = {stem for stem, _ in others}
        for image in of:
            if (stem := stem_of(image).casefold()) in wanted:
                samples[stem].add(self._sample(image))
        return {image for stem, image in others if stem in samples and self._sample(image) in samples[stem]}

    def _sample(self, image: str) -> bytes:
        if image not in self._samples:
            self._samples[image] = self._read_sample(image)
        return self._samples[image]

    def _read_sample(self, image: str) -> bytes:
        """A hash of the file's size and some of its bytes, equal for copies only; empty if it cannot be read.

        Sizes alone would not do, as uncompressed images of one shape all have the same; and Kaggle's 10,015 pairs read
        whole are 5 GB.
        """
        try:
            with (self._root / image).open("rb", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                places = {size * part // _BLOCKS for part in range(_BLOCKS)} | {max(0, size - _BLOCK)}
                blocks = (file.read(_BLOCK) for place in sorted(places) if file.seek(place) >= 0)
                return hashlib.sha256(b"".join([size.to_bytes(8, "big"), *blocks])).digest()
        except OSError:
            return b""
