import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.losses import class_weights, cross_entropy


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=9), st.floats(0, 1))
def test_the_mean_weight_of_an_example_is_one(counts: list[int], rebalance: float) -> None:
    weights = class_weights(np.array(counts), rebalance)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1)


def test_no_strength_weighs_all_alike_and_full_strength_gives_classes_equal_shares() -> None:
    counts = np.array([900, 90, 10])
    np.testing.assert_allclose(class_weights(counts, 0.0), 1)
    np.testing.assert_allclose(class_weights(counts, 1.0) * counts, 1000 / 3)


def test_unweighted_loss_is_pytorchs() -> None:
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    ours = cross_entropy(torch.ones(3), 0.1)(logits, labels)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_the_weight_of_an_example_does_not_depend_on_its_batch() -> None:
    logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    criterion = cross_entropy(torch.tensor([0.5, 2.5]), 0.0)
    alone = [criterion(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(criterion(logits, labels), torch.stack(alone).mean())


@pytest.mark.parametrize("label", [0, 2])
def test_weights_do_not_move_the_target_that_smoothing_sets(label: int) -> None:
    smoothing, weights = 0.2, torch.tensor([0.2, 1.0, 9.0])
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)
    criterion = cross_entropy(weights, smoothing)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(logits, torch.tensor([label]))
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = torch.full((3,), smoothing / 3)
    expected[label] += 1 - smoothing
    torch.testing.assert_close(logits.detach().softmax(1)[0], expected, atol=1e-3, rtol=0)
