"""What unlabelled images are taken for, and how much that counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.config import TrainConfig
from core.errors import InputError
from core.losses import class_weights
from core.pseudo_labels import PseudoLabels

CPU = torch.device("cpu")
COUNTS = np.array([60, 30, 10])


def pseudo_labels(**values: object) -> PseudoLabels:
    given = {"arch": "a", "image_size": 32, "lr": 0.1, "unlabelled_weight": 2.0, "confidence": 0.8, **values}
    return PseudoLabels.of(TrainConfig.from_dict(given), COUNTS, CPU)


def logits_of(probs: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probs).log()


def test_the_loss_is_that_of_sure_images_over_all_of_them_times_its_weight():
    mild = logits_of([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3]])
    strong = torch.tensor([[1.0, 2.0, 0.0], [5.0, 0.0, 0.0]])
    expected = 2.0 * F.cross_entropy(strong[:1], torch.tensor([0])) / 2
    torch.testing.assert_close(pseudo_labels().loss(mild, strong), expected)


def test_where_nothing_is_sure_the_loss_is_0():
    mild = logits_of([[0.4, 0.3, 0.3]] * 4)
    assert pseudo_labels().loss(mild, torch.randn(4, 3)).item() == 0


def test_no_gradient_goes_through_mild_views():
    mild = logits_of([[0.98, 0.01, 0.01]]).requires_grad_()
    strong = torch.zeros(1, 3, requires_grad=True)
    pseudo_labels().loss(mild, strong).backward()
    assert mild.grad is None
    assert strong.grad.abs().sum() > 0


def test_a_pseudo_label_counts_as_much_as_a_label_of_its_class():
    strong = torch.zeros(1, 3)
    weights = class_weights(COUNTS, 0.5)
    for c in range(3):
        mild = 20 * torch.eye(3)[c : c + 1]
        loss = pseudo_labels(rebalance=0.5).loss(mild, strong).item()
        assert loss == pytest.approx(2 * weights[c] * np.log(3), rel=1e-5)


def test_adjusted_logits_are_adjusted_for_pseudo_labels_too():
    strong = torch.tensor([[0.3, -0.2, 0.1]])
    loss = pseudo_labels(rebalance=1.0, loss="logit_adjusted").loss(20 * torch.eye(3)[2:], strong)
    adjusted = strong + torch.tensor(np.log(COUNTS / COUNTS.sum()), dtype=torch.float32)
    torch.testing.assert_close(loss, 2 * F.cross_entropy(adjusted, torch.tensor([2])))


def test_certain_beliefs_stay_as_they_are_whatever_their_mean():
    labels, sure = pseudo_labels().label(40 * torch.eye(3)[[2, 2, 2, 0]])
    assert labels.tolist() == [2, 2, 2, 0]
    assert sure.tolist() == [1, 1, 1, 1]


def test_beliefs_that_drift_towards_one_class_are_drawn_back():
    drifted = logits_of([[0.55, 0.25, 0.20]]).expand(64, 3)
    pseudo = pseudo_labels(rebalance=1.0, confidence=0.5)  # the loss teaches equal frequencies
    before = (pseudo.beliefs_C - drifted[0].exp()).abs()
    pseudo.label(drifted)
    torch.testing.assert_close((pseudo.beliefs_C - drifted[0].exp()).abs(), 0.98 * before)
    pseudo.beliefs_C.copy_(drifted[0].exp())
    labels, _ = pseudo.label(logits_of([[0.48, 0.40, 0.12], [0.48, 0.12, 0.40]]))
    assert labels.tolist() == [1, 2]


def test_a_class_that_is_never_believed_divides_by_no_0():
    pseudo = pseudo_labels()
    pseudo.beliefs_C.copy_(torch.tensor([0.5, 0.5, 0.0]))
    labels, _ = pseudo.label(50 * torch.eye(3)[[0, 1]])
    assert labels.tolist() == [0, 1]
    assert torch.isfinite(pseudo.loss(50 * torch.eye(3), torch.zeros(3, 3)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"loss": "focal", "focal_gamma": 2.0}, "`loss` must be another with unlabelled_weight=2.0"),
        ({"loss": "cross_entropy", "sampler": "balanced", "rebalance": 0.5}, "`sampler` must be shuffled"),
        ({"mixup": 0.2}, "`mixup` must be 0 with unlabelled_weight=2.0"),
        ({"confidence": 1.0}, r"`confidence` must be in \(0, 1\)"),
        ({"unlabelled_ratio": 0}, "`unlabelled_ratio` must be at least 1"),
        ({"unlabelled_weight": -1.0}, "`unlabelled_weight` must be 0 or more"),
    ],
)
def test_what_pseudo_labels_cannot_respect_is_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        pseudo_labels(**values)
