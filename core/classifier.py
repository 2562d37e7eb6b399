"""The network that is trained: a timm backbone cut into blocks, dropout that needs one graph, timm's linear head."""

import hashlib
from itertools import chain
from typing import cast

import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from core.cut import Cut
from core.cuts import Cuts
from core.errors import InputError
from core.folding import fold_norms
from core.tracing import holders


class Classifier(nn.Module):
    """A timm model of which the head and the last few blocks learn.

    Args:
        backbone: A timm model with the head that is wanted, made without dropout.

    Attributes:
        backbone: The same model; its own classifier is the head.
        head_name: Name of the head inside `backbone`.
        blocks: Names of the parameters and buffers inside `backbone`, block by block from the stem, without the head.
        drop_rate: Probability of dropping a feature, a tensor without axes. A graph, compiled or recorded, reads it
            anew at every step, so that one serves all values. It is a setting and no part of the state dict.
        unfreeze_depth: Blocks that learn, counted from the head.

    Raises:
        InputError: The model has no single linear head, or timm cannot split it into blocks.
    """

    drop_rate: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_name = find_head(backbone)
        self.blocks = split_blocks(backbone, self.head_name)
        self.register_buffer("drop_rate", torch.zeros(()), persistent=False)
        self.unfreeze_depth = 0
        self._frozen_modules: tuple[nn.Module, ...] = ()
        names = [[f"backbone.{name}" for name in block] for block in self.blocks]
        self._cuts = Cuts(_Embedder(backbone), names)
        self.set_unfreeze_depth(self.max_unfreeze_depth)

    @property
    def max_unfreeze_depth(self) -> int:
        """The depth at which everything learns: the number of blocks, the stem being one."""
        return len(self.blocks)

    @property
    def body_size(self) -> int:
        """Number of parameters, those of the head aside, which depend on the classes."""
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in self._head.parameters())

    def forward(self, images: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Logits (B, C) of normalised images (B, 3, H, W); `drawn` as in `classify`."""
        return self.classify(self.embed(images), drawn)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled features (B, F) of normalised images (B, 3, H, W): what is constant where only the head learns."""
        return embed(self.backbone, images)

    def cut(self, image_size: int) -> Cut | None:
        """This network up to its pooled features, cut where learning begins; see `core.cuts.Cuts.at`."""
        return self._cuts.at(self.unfreeze_depth, image_size)

    def way(self, depth: int, image_size: int) -> nn.Module | None:
        """What leads from the cut at a greater depth to the present one; see `core.cuts.Cuts.way`."""
        return self._cuts.way(depth, self.unfreeze_depth, image_size)

    def folded(self, image_size: int) -> nn.Module:
        """What gives the same logits of images in fewer operations; this one is left in evaluation mode.

        Not to be called while another thread computes: see `core.tracing.trace`.

        Args:
            image_size: Side of the images to compare both on, pixels.
        """
        like, numbers = self.drop_rate, torch.Generator(self.drop_rate.device).manual_seed(0)
        size = (2, 3, image_size, image_size)
        images = torch.rand(size, device=like.device, dtype=like.dtype, generator=numbers)
        self.eval()
        return fold_norms(nn.Sequential(_Embedder(self.backbone), self._head).eval(), images)

    def frozen_hash(self, depth: int) -> str:
        """A hash of every tensor that doesn't learn at a depth."""
        frozen, _ = self._cuts.names(depth)
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            if name in frozen:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def classify(self, features: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Logits (B, C) of pooled features (B, F), some of which are dropped in training mode.

        Args:
            features: What `embed` gave.
            drawn: What `draw` gave for these images, or for the first of them: of the others nothing is dropped. None
                draws anew.
        """
        if drawn is not None and len(drawn) < len(features):
            features = torch.cat([self._drop(features[: len(drawn)], drawn), features[len(drawn) :]])
        else:
            features = self._drop(features, drawn)
        return cast(Tensor, self._head(features))

    def draw(self, count: int) -> Tensor:
        """Numbers (count, F), uniform in [0, 1), that decide which features are dropped, whatever the rate."""
        # In single precision: in half precision too few different numbers lie between 0 and 1 for small rates.
        return torch.rand(count, self._head.in_features, dtype=torch.float32, device=self.drop_rate.device)

    def _drop(self, features: Tensor, drawn: Tensor | None) -> Tensor:
        """Inverted dropout (Srivastava et al. 2014, section 10)."""
        if not self.training:
            return features
        if drawn is None:
            drawn = self.draw(len(features))
        keep = 1 - self.drop_rate
        return features * ((drawn < keep) / keep).to(features.dtype)

    @property
    def _head(self) -> nn.Linear:
        return cast(nn.Linear, self.backbone.get_submodule(self.head_name))

    def set_drop_rate(self, rate: float) -> None:
        """Sets the probability of dropping a feature, in [0, 1), in place."""
        if not 0 <= rate < 1:
            raise InputError(f"`drop_rate` must be in [0, 1), but got drop_rate={rate}. Choose one below 1.")
        self.drop_rate.fill_(rate)

    def set_unfreeze_depth(self, depth: int) -> None:
        """Lets the head and the last `depth` blocks learn and freezes the rest, running statistics included.

        Raises:
            InputError: The model has fewer blocks.
        """
        if not 0 <= depth <= self.max_unfreeze_depth:
            raise InputError(
                f"`unfreeze_depth` must be from 0 (the head alone) to {self.max_unfreeze_depth} (everything) for this "
                f"architecture, but got unfreeze_depth={depth}. Choose one in between."
            )
        self.unfreeze_depth = depth
        frozen_blocks = self.blocks[: self.max_unfreeze_depth - depth]
        frozen = {name for block in frozen_blocks for name in block}
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._frozen_modules = _modules_within(self.backbone, frozen)
        self.train(self.training)

    def learning_tensors(self) -> dict[str, Tensor]:
        """What training changes and an average can be taken of: weights and running statistics, but no counters."""
        frozen, _ = self._cuts.names(self.unfreeze_depth)
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name not in frozen and tensor.is_floating_point()
        }

    def train(self, mode: bool = True) -> "Classifier":
        """Sets the mode of what learns; frozen modules stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for module in self._frozen_modules:
            module.eval()
        return self


class _Embedder(nn.Module):
    """A timm model up to its pooled features, as a network of its own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return embed(self.backbone, images)


def embed(backbone: nn.Module, images: Tensor) -> Tensor:
    """Pooled features (B, F) of a timm model for normalised images (B, 3, H, W)."""
    features = backbone.forward_features(images)  # type: ignore[operator]
    return cast(Tensor, backbone.forward_head(features, pre_logits=True))  # type: ignore[operator]


def find_head(backbone: nn.Module) -> str:
    """The name of a timm model's classifier.

    Raises:
        InputError: It is not one linear layer.
    """
    head = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        kind = type(backbone).__name__
        raise InputError(
            f"`arch` must be a classifier with one linear head, but {kind} has {type(head).__name__}. Choose another."
        )
    names: dict[nn.Module, str] = {module: name for name, module in backbone.named_modules()}
    return names[head]


def split_blocks(backbone: nn.Module, head_name: str) -> tuple[tuple[str, ...], ...]:
    """Groups the tensors of a timm model by the model's own coarse `group_matcher`, from the stem to the last block.

    What timm groups with the head (a last norm in ConvNeXt, ``conv_head`` in MobileNetV3) goes to the block before it,
    as timm itself does it in MobileNetV2: else depth 1 would be a lone norm in some families.

    Args:
        backbone: The model.
        head_name: Name of its head, which ends in no block.

    Returns:
        Names of parameters and buffers, block by block.

    Raises:
        InputError: The model declares no coarse groups.
    """
    try:
        matcher = backbone.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        kind = type(backbone).__name__
        raise InputError(
            f"`arch` must be a model that timm splits into blocks, but {kind} declares none. Choose another one."
        ) from error
    parameters = {name for name, _ in backbone.named_parameters()}
    groups = group_with_matcher(chain(backbone.named_parameters(), backbone.named_buffers()), matcher)
    blocks: list[list[str]] = []
    for _, names in sorted(groups.items()):
        body = [name for name in names if not name.startswith(f"{head_name}.")]
        has_head = len(body) < len(names)
        if blocks and (has_head or parameters.isdisjoint(body)):
            blocks[-1].extend(body)
        else:
            blocks.append(body)
    return tuple(map(tuple, blocks))


def _modules_within(backbone: nn.Module, frozen: set[str]) -> tuple[nn.Module, ...]:
    """The outermost modules that hold tensors, all of them frozen; what they contain goes with them."""
    names = [name for name, _ in chain(backbone.named_parameters(), backbone.named_buffers())]
    wholly = holders(names) - holders(name for name in names if name not in frozen)
    return tuple(
        module for name, module in backbone.named_modules() if name in wholly and wholly.isdisjoint(holders([name]))
    )
