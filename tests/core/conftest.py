"""Small image sets for the tests of the data path."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.manifest import Manifest


@pytest.fixture(scope="session")
def write_noise() -> Callable[[Path, int], Manifest]:
    """A function that fills a folder with images of noise, 60x50 in five classes, and returns their manifest."""

    def write(folder: Path, count: int) -> Manifest:
        rng = np.random.default_rng(count)
        names = tuple(f"{row:03d}.jpg" for row in range(count))
        for name in names:
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / name)
        return Manifest(
            roots=(folder,),
            layout="folder",
            paths=names,
            labels=rng.integers(0, 5, count),
            groups=names,
            classes=tuple("abcde"),
            sha256=tuple(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names),
            phashes=names,
        )

    return write


@pytest.fixture(scope="session")
def hundred_images(write_noise: Callable[[Path, int], Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One set for all tests, so that its beton is written once: starting the writer takes seconds."""
    return write_noise(tmp_path_factory.mktemp("hundred"), 100)
