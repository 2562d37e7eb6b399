"""Methods that learn from images without labels; their heads and losses are lightly's.

All three compare two views of each image and need no negative examples, and so no large batches: BYOL (Grill et al.
2020), SimSiam (Chen, He 2021) and VICReg (Bardes, Ponce, LeCun 2022).

Shapes: B batch, F pooled features of the backbone, D dimensions of a projection, H side of a view in pixels.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from core.classifier import Classifier, embed
from core.errors import InputError

# Widths of the heads. The papers' 2,048 to 8,192 are for a ResNet-50 and a million images.
_HIDDEN, _PROJECTED, _BOTTLENECK = 1024, 256, 256
_FIRST_MOMENTUM = 0.99  # of BYOL's target: the best of Grill et al. 2020, table 5a, at 300 epochs


class SelfSupervised(nn.Module, ABC):
    """A backbone and the heads that are thrown away once it has learned.

    Args:
        classifier: Its backbone is what learns; its own head is left as it is.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.backbone = classifier.backbone
        self.backbone.get_submodule(classifier.head_name).requires_grad_(False)

    def embed(self, views_BCHH: Tensor) -> Tensor:
        """Pooled features (B, F), which are what the pre-training is for."""
        return embed(self.backbone, views_BCHH)

    @abstractmethod
    def forward(self, first_BCHH: Tensor, second_BCHH: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of two views of each image, and the features (B, F) of the first, both float32."""

    def after_step(self, share: float) -> None:
        """Called after each step with the share of the run that is done, in [0, 1]; most methods do nothing then."""


class Byol(SelfSupervised):
    """The network predicts what a slow copy of it makes of the other view (Grill et al. 2020, section 3)."""

    def __init__(self, classifier: Classifier, features: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        super().__init__(classifier)
        self.projection = BYOLProjectionHead(features, _HIDDEN, _PROJECTED)
        self.prediction = BYOLPredictionHead(_PROJECTED, _HIDDEN, _PROJECTED)
        self.target = nn.ModuleList([copy.deepcopy(self.backbone), copy.deepcopy(self.projection)])
        self.target.requires_grad_(False)
        self._negative_similarity = NegativeCosineSimilarity()

    def forward(self, first_BCHH: Tensor, second_BCHH: Tensor) -> tuple[Tensor, Tensor]:
        """As `SelfSupervised.forward`; the loss is in [-1, 1]."""
        features = [self.embed(views) for views in (first_BCHH, second_BCHH)]
        predictions = [self.prediction(self.projection(each)).float() for each in features]
        with torch.no_grad():
            targets = [self._follow(views).float() for views in (first_BCHH, second_BCHH)]
        loss = self._negative_similarity(predictions[0], targets[1]) + self._negative_similarity(
            predictions[1], targets[0]
        )
        return 0.5 * loss, features[0].detach().float()

    def _follow(self, views_BCHH: Tensor) -> Tensor:
        return cast(Tensor, self.target[1](embed(self.target[0], views_BCHH)))

    def after_step(self, share: float) -> None:
        """Moves the target towards the network, ever less (Grill et al. 2020, section 3.2)."""
        momentum = 1 - (1 - _FIRST_MOMENTUM) * (math.cos(math.pi * share) + 1) / 2
        followed = [*self.backbone.parameters(), *self.projection.parameters()]
        own = list(self.target.parameters())
        torch._foreach_lerp_([each.detach() for each in own], [each.detach() for each in followed], 1 - momentum)


class SimSiam(SelfSupervised):
    """The network predicts what it makes of the other view itself, which is held still (Chen, He 2021, section 3)."""

    def __init__(self, classifier: Classifier, features: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__(classifier)
        self.projection = SimSiamProjectionHead(features, _HIDDEN, _HIDDEN)
        self.prediction = SimSiamPredictionHead(_HIDDEN, _BOTTLENECK, _HIDDEN)
        self._negative_similarity = NegativeCosineSimilarity()

    def forward(self, first_BCHH: Tensor, second_BCHH: Tensor) -> tuple[Tensor, Tensor]:
        """As `SelfSupervised.forward`; the loss is in [-1, 1]."""
        features = [self.embed(views) for views in (first_BCHH, second_BCHH)]
        projections = [self.projection(each) for each in features]
        predictions = [self.prediction(projected).float() for projected in projections]
        still = [projected.detach().float() for projected in projections]
        loss = self._negative_similarity(predictions[0], still[1]) + self._negative_similarity(predictions[1], still[0])
        return 0.5 * loss, features[0].detach().float()


class VicReg(SelfSupervised):
    """Views give the same, while each dimension varies and no two vary together (Bardes et al. 2022, section 4)."""

    def __init__(self, classifier: Classifier, features: int) -> None:
        from lightly.models.modules.heads import BarlowTwinsProjectionHead

        super().__init__(classifier)
        # The paper's expander is that of Barlow Twins: three layers of one width, batch norm and ReLU after two.
        self.projection = BarlowTwinsProjectionHead(features, _HIDDEN, _HIDDEN)

    def forward(self, first_BCHH: Tensor, second_BCHH: Tensor) -> tuple[Tensor, Tensor]:
        """As `SelfSupervised.forward`; the loss is 0 or more."""
        features = [self.embed(views) for views in (first_BCHH, second_BCHH)]
        projections = [self.projection(each).float() for each in features]
        # Covariances are sums over the batch: in half precision they would lose what the loss is about, or overflow.
        with torch.autocast(first_BCHH.device.type, enabled=False):
            return vicreg_loss(*projections), features[0].detach().float()


def vicreg_loss(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Invariance, variance and covariance of two projections, averaged as in the code of Bardes et al. 2022.

    The covariance is ours: lightly takes what lies off the diagonal by a mask, whose places a card has to count before
    it goes on, so that the step could not be recorded.
    """
    from lightly.loss.vicreg_loss import invariance_loss, variance_loss

    projections = (first_BD, second_BD)
    invariance = cast(Tensor, invariance_loss(first_BD, second_BD))
    variance = torch.stack([variance_loss(each) for each in projections]).mean()
    covariance = torch.stack([_covariance_loss(each) for each in projections]).sum()
    return 25 * (invariance + variance) + covariance


def _covariance_loss(projection_BD: Tensor) -> Tensor:
    """Squared covariances of different dimensions, summed, over D."""
    size, dimensions = projection_BD.shape
    centred_BD = projection_BD - projection_BD.mean(0)
    covariance_DD = centred_BD.T @ centred_BD / (size - 1)
    return 2 * covariance_DD.triu(1).square().sum() / dimensions  # it is symmetric


_BUILD: dict[str, Callable[[Classifier, int], SelfSupervised]] = {"byol": Byol, "simsiam": SimSiam, "vicreg": VicReg}


def build_method(name: str, classifier: Classifier, *, image_size: int, seed: int) -> SelfSupervised:
    """A method around a classifier's backbone; PyTorch's own generators stay as they are.

    Args:
        name: Of `core.pretrain.METHODS`.
        classifier: With its first weights, on the CPU.
        image_size: Side of a view, pixels.
        seed: Of the heads' first weights.

    Raises:
        InputError: lightly isn't installed.
    """
    try:
        import lightly  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"`--method {name}` must find the package lightly, which isn't installed ({error}). Install it with "
            "`pip install -c constraints.txt -e '.[unlabelled]'`."
        ) from error
    with torch.no_grad():
        features = classifier.eval().embed(torch.zeros(1, 3, image_size, image_size)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _BUILD[name](classifier, features)
