"""Whether embeddings tell images apart."""

import numpy as np
import pytest
import torch

from core.collapse import neighbour_recall, spread


def test_spread_is_1_for_directions_at_random_and_0_for_one_direction():
    embeddings = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    assert spread(embeddings).item() == pytest.approx(1, abs=0.02)
    assert spread(embeddings[:1] * torch.rand(50, 1)).item() == pytest.approx(0, abs=1e-5)


def clusters(per_class: tuple[int, ...]) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.repeat(np.arange(len(per_class)), per_class)
    directions = torch.eye(len(per_class), 8)[torch.from_numpy(labels)]
    return directions + 0.05 * torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(0)), labels


def test_neighbours_know_classes_that_lie_apart_however_rare():
    features, labels = clusters((300, 60, 25))
    assert neighbour_recall(features, labels, np.arange(len(labels)), 3) == 1


def test_neighbours_of_the_own_lesion_have_no_vote():
    features, labels = clusters((30, 30))
    features = torch.cat([features, features])  # each lesion twice, once with the other label
    both = np.concatenate([labels, 1 - labels])
    apart = neighbour_recall(features, both, np.tile(np.arange(60), 2), 2)
    assert apart == pytest.approx(0.5, abs=0.2)
    alone = neighbour_recall(features[:60], labels, labels, 2)  # one lesion a class: only others are asked
    assert alone == 0


def test_votes_are_divided_by_the_frequency_of_their_class():
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat([0, 1], [180, 20])
    features = torch.ones(200, 16) + 0.1 * torch.randn(200, 16, generator=generator)  # nothing tells them apart
    recall = neighbour_recall(features, labels, np.arange(200), 2)
    assert recall == pytest.approx(0.5, abs=0.15)
