"""Each mechanism of rebalancing on a problem whose answer is known: one pixel that takes a few values.

Every value has logits of its own, so that training can reach the very minimum of the loss; the best decision for macro
recall is then argmax p(value | class).
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrainConfig
from core.losses import build_criterion, image_weights
from core.metrics import correct_prior
from core.priors import focus, learned_prior, unfocus
from core.seeds import epoch_order

CPU = torch.device("cpu")
# How often each of 7 values (rows) is of each of 3 classes: frequent, fewer, rare.
COUNTS_VC = np.array([[700, 0, 0], [620, 10, 1], [300, 40, 2], [200, 50, 4], [120, 80, 8], [50, 15, 16], [10, 5, 9]])
COUNTS_C = COUNTS_VC.sum(0)
LIKELIHOODS_VC = COUNTS_VC / COUNTS_C
VALUES_N = np.repeat(np.arange(7).repeat(3), COUNTS_VC.ravel())
LABELS_N = np.repeat(np.tile(np.arange(3), 7), COUNTS_VC.ravel())


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({"arch": "a", "image_size": 32, "lr": 0.1, "batch_size": 7} | changes)


def learn(wanted: TrainConfig, values_N: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a model that has learned everything says of each value (V, C), and of each image in turn (N, C)."""
    criterion = build_criterion(wanted, COUNTS_C, CPU)
    values, labels = torch.from_numpy(values_N), torch.from_numpy(labels_N)
    logits_VC = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits_VC], max_iter=2000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 7 * criterion(logits_VC[values], labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    probs_VC = logits_VC.detach().softmax(1).numpy()
    return probs_VC, probs_VC[values_N]


def prior_of(wanted: TrainConfig, labels_N: np.ndarray, probs_NC: np.ndarray) -> np.ndarray:
    return learned_prior(wanted, probs_NC, image_weights(wanted, COUNTS_C, labels_N))


def shares(strength: float) -> np.ndarray:
    """Class frequencies after rebalancing at a strength."""
    return COUNTS_C ** (1 - strength) / (COUNTS_C ** (1 - strength)).sum()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", ["weighted", "logit_adjusted"])
def test_a_loss_that_rebalances_teaches_the_rebalanced_frequencies(loss: str, strength: float) -> None:
    wanted = config(loss=loss, rebalance=strength)
    probs_VC, probs_NC = learn(wanted, VALUES_N, LABELS_N)
    prior_C = prior_of(wanted, LABELS_N, probs_NC)
    np.testing.assert_allclose(prior_C, shares(strength), rtol=1e-3)
    likelihoods_VC = LIKELIHOODS_VC / LIKELIHOODS_VC.sum(1, keepdims=True)
    np.testing.assert_allclose(correct_prior(probs_VC, prior_C), likelihoods_VC, atol=2e-3)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_balanced_sampler_teaches_the_frequencies_of_what_it_drew(strength: float) -> None:
    wanted = config(loss="cross_entropy", sampler="balanced", rebalance=strength)
    rows = np.arange(len(LABELS_N))
    order = np.concatenate([epoch_order(rows, LABELS_N, wanted, epoch) for epoch in range(20)])
    probs_VC, probs_NC = learn(wanted, VALUES_N[order], LABELS_N[order])
    prior_C = prior_of(wanted, LABELS_N[order], probs_NC)
    np.testing.assert_allclose(prior_C, shares(strength), rtol=0.01)
    assert correct_prior(probs_VC, prior_C).argmax(1).tolist() == LIKELIHOODS_VC.argmax(1).tolist()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_what_a_focal_loss_teaches_is_told_from_what_it_says(gamma: float) -> None:
    wanted = config(loss="focal", focal_gamma=gamma)
    probs_VC, probs_NC = learn(wanted, VALUES_N, LABELS_N)
    posteriors_VC = COUNTS_VC / COUNTS_VC.sum(1, keepdims=True)
    assert np.abs(probs_VC - posteriors_VC).max() > 0.02, "the focal loss is not proper"
    np.testing.assert_allclose(unfocus(probs_VC, gamma), posteriors_VC, atol=2e-3)
    prior_C = prior_of(wanted, LABELS_N, probs_NC)
    np.testing.assert_allclose(unfocus(prior_C, gamma), shares(0.0), rtol=1e-2)
    assert correct_prior(probs_VC, prior_C).argmax(1).tolist() == LIKELIHOODS_VC.argmax(1).tolist()


def test_the_plain_mean_would_be_wrong_under_class_weights() -> None:
    """Why images are weighted: what the loss counts double must count double in the mean."""
    wanted = config(rebalance=1.0)
    _, probs_NC = learn(wanted, VALUES_N, LABELS_N)
    assert np.abs(probs_NC.mean(0) - shares(1.0)).max() > 0.1


def test_without_rebalancing_the_prior_is_the_plain_mean_to_the_last_bit() -> None:
    probs_NC = np.random.default_rng(0).dirichlet((5, 1, 1), 50).astype(np.float32)
    for loss in ("weighted", "cross_entropy", "logit_adjusted"):
        weights_N = image_weights(config(loss=loss), COUNTS_C, np.zeros(50, dtype=np.int64))
        np.testing.assert_array_equal(
            learned_prior(config(loss=loss), probs_NC, weights_N), probs_NC.mean(0, dtype=np.float64)
        )


@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=9), st.floats(0.05, 5))
def test_focusing_and_its_inverse_undo_each_other(parts: list[float], gamma: float) -> None:
    probs_C = np.array(parts) / sum(parts)
    np.testing.assert_allclose(unfocus(focus(probs_C, gamma), gamma), probs_C, rtol=1e-5, atol=1e-8)


def test_probabilities_of_exactly_0_and_1_are_focused_and_unfocused() -> None:
    for gamma in (0.05, 2.0, 10.0):
        sure = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        np.testing.assert_allclose(unfocus(sure, gamma), sure, atol=1e-6)
        assert np.isfinite(focus(unfocus(sure, gamma).mean(0), gamma)).all()
