"""The mistake behind most claims of 95 % on HAM10000: photos of one lesion in training and in validation."""

import dataclasses

import numpy as np
import pytest

from core.datasets import load_manifest
from core.demo import write_demo
from core.framing import Frame
from core.images import load_image
from core.manifest import Manifest
from core.metrics import confusion_matrix, macro_recall
from core.splits import split_manifest

SIDE = 32  # pixels; enough for the colours of a lesion


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("leak") / "demo"
    return load_manifest(write_demo(folder, images=300, seed=1, width=150, height=112, workers=1))


@pytest.fixture(scope="module")
def colours(demo: Manifest) -> np.ndarray:
    """Mean and spread of the colours in rings around the centre, which turning a photo doesn't change."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(rows, columns)
    rings = [(radius >= inner) & (radius < inner + 4) for inner in range(0, 16, 4)]
    images = [load_image(demo.file(row), Frame(SIDE, "centre")) / 255 for row in range(len(demo))]
    features = np.array([[(image[ring].mean(0), image[ring].std(0)) for ring in rings] for image in images])
    features = features.reshape(len(demo), -1)
    return (features - features.mean(0)) / features.std(0)


def nearest_neighbour_recall(manifest: Manifest, colours: np.ndarray) -> float:
    """Macro recall on validation of the class of the nearest training image, over ten splits."""
    confusion = np.zeros((7, 7), int)
    for seed in range(10):
        split = split_manifest(manifest, seed=seed)
        distances = ((colours[split.val][:, None] - colours[split.train][None]) ** 2).sum(2)
        predictions = manifest.labels[split.train][distances.argmin(1)]
        confusion += confusion_matrix(manifest.labels[split.val], predictions, 7)
    return macro_recall(confusion)


def test_a_split_by_image_scores_above_the_honest_split_by_lesion(demo: Manifest, colours: np.ndarray) -> None:
    by_image = dataclasses.replace(demo, groups=demo.paths)
    assert nearest_neighbour_recall(by_image, colours) > nearest_neighbour_recall(demo, colours) + 0.05
