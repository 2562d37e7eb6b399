"""A pre-training's numbers, step by step."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from core import pretrain
from core.archs import resolve_arch
from core.config import TrainConfig
from core.pretrain_data import Labelled, PretrainConfig
from core.pretraining import Pretraining, build_learner
from core.weights import Weights
from tests.doubles import ArraySource

pytest.importorskip("lightly", reason="lightly isn't installed: pip install -e .[unlabelled]")

# Losses of five steps, on eight images of noise.
GOLDEN = {
    "byol": (-0.0048, -0.3514, -0.481, -0.5158, -0.5193),
    "simsiam": (-0.0095, 0.0119, -0.0065, 0.0011, 0.0001),
    "vicreg": (26.6653, 26.156, 25.8521, 25.3836, 25.229),
}


@pytest.mark.parametrize("method", pretrain.METHODS)
def test_losses_of_the_first_steps_are_those_of_before(method):
    arch = dataclasses.replace(resolve_arch("test_efficientnet"), image_size=32)
    settings = {"arch": arch.timm_name, "image_size": 32, "epochs": 5, "batch_size": 8, "lr": 0.001}
    config = PretrainConfig(method=method, descent=TrainConfig(**settings))
    weights = Weights(state={}, origin="random numbers")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 37, 37)).astype(np.uint8))
    source = ArraySource(pixels, np.full(8, -1))
    known = Labelled(source=source, labels=np.arange(8) % 2, groups=np.arange(8), num_classes=2)
    learner = build_learner(config, arch=arch, weights=weights)
    training = Pretraining(config, arch=arch, learner=learner, source=source, images=8, labelled=known)
    assert training.finish(lambda epoch: None, Path("never.safetensors"), {}, lambda: True)
    assert [row["loss"] for row in training.history] == pytest.approx(
        GOLDEN[method], rel=1e-3, abs=2e-3
    )  # threads sum in other orders
