import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrainConfig
from core.losses import build_criterion, class_weights, cross_entropy, focal, logit_adjusted

CPU = torch.device("cpu")


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


def test_logit_adjustment_adds_the_log_frequencies_to_the_logits() -> None:
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    wanted = TrainConfig(arch="a", image_size=32, lr=0.1, loss="logit_adjusted", rebalance=0.5)
    ours = build_criterion(wanted, np.array([900, 90, 10]), CPU)(logits, labels)
    torch.testing.assert_close(ours, F.cross_entropy(logits + 0.5 * torch.tensor([0.9, 0.09, 0.01]).log(), labels))


def test_without_offsets_a_logit_adjusted_loss_is_pytorchs() -> None:
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    ours = logit_adjusted(torch.zeros(3), 0.1)(logits, labels)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_under_logit_adjustment_and_smoothing_a_certain_image_keeps_its_class(label: int) -> None:
    offsets = torch.tensor([0.9, 0.09, 0.01]).log()
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = logit_adjusted(offsets, 0.2)(logits, torch.tensor([label]))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.argmax() == label


def test_a_focal_loss_is_its_formula_and_without_gamma_cross_entropy() -> None:
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    p = logits.softmax(1)[torch.arange(8), labels]
    torch.testing.assert_close(focal(2.0, 0.0)(logits, labels), (-((1 - p) ** 2) * p.log()).mean())
    torch.testing.assert_close(focal(0.0, 0.1)(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_focal_loss_has_a_gradient_where_the_model_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    focal(gamma, 0.1)(logits, torch.tensor([0, 0])).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 0] < 0


@pytest.mark.parametrize(
    "values",
    [
        {"rebalance": 0.7},
        {"loss": "cross_entropy"},
        {"loss": "logit_adjusted", "rebalance": 0.7},
        {"loss": "focal", "focal_gamma": 2.0},
    ],
)
def test_every_loss_is_a_mean_over_images(values: dict[str, object]) -> None:
    wanted = TrainConfig.from_dict({"arch": "a", "image_size": 32, "lr": 0.1, "label_smoothing": 0.1} | values)
    criterion = build_criterion(wanted, np.array([900, 90, 10]), CPU)
    logits, labels = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    parts = [criterion(logits[part], labels[part]) * len(part) / 9 for part in torch.arange(9).split([4, 3, 2])]
    torch.testing.assert_close(torch.stack(parts).sum(), criterion(logits, labels))
