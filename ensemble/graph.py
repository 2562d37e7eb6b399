"""A whole ensemble as one PyTorch module, from stored pixels to the probabilities that are told: what is exported.

It repeats in operations that other runtimes have what `ensemble.inference` and `ensemble.voting` do step by step; a
test holds one to the other.

Shapes: N images, S stored side, H side that a model sees, V views, K networks of a member, C classes.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.archs import Arch
from core.augment import dihedral_views
from core.framing import Frame
from core.metrics import SMALLEST_PROBABILITY
from ensemble.spec import EnsembleSpec, MemberSpec


class EnsembleGraph(nn.Module):
    """Stored pixels in, tempered probabilities out.

    Args:
        spec: Who votes, and by which rule.
        networks: The networks of each member, in evaluation mode, on the CPU.

    Attributes:
        spec: The same.
        frames: What it takes of each photo, one input each, ascending.
    """

    def __init__(self, spec: EnsembleSpec, networks: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.spec = spec
        self.frames = input_frames(spec)
        weights = [member.weight for member in spec.members]
        self._shares = [weight / sum(weights) for weight in weights]
        pairs = zip(spec.members, networks, strict=True)
        self.members = nn.ModuleList([_MemberGraph(member, models, spec.rule.views) for member, models in pairs])
        for place, member in enumerate(spec.members):
            self.register_buffer(f"_factors_{place}", _inverse(member.prior, spec.rule.tau), persistent=False)

    def forward(self, *pixels_NSSC: Tensor) -> Tensor:
        """Probabilities (N, C), rows summing to 1, of uint8 pixels (N, S, S, 3), one tensor for each of `frames`."""
        images = dict(zip(self.frames, pixels_NSSC, strict=True))
        scaled: dict[Frame, Tensor] = {}  # members that see the same share the scaling
        voted_NC = None
        for place, (member, share) in enumerate(zip(self.members, self._shares, strict=True)):
            arch = cast(_MemberGraph, member).arch
            if arch.frame not in scaled:
                scaled[arch.frame] = scale(images[arch.frame], arch.image_size)
            told_NC = _corrected(member(scaled[arch.frame]), self.get_buffer(f"_factors_{place}"))
            part_NC = share * (_logs(told_NC) if self.spec.rule.vote == "geometric" else told_NC)
            voted_NC = part_NC if voted_NC is None else voted_NC + part_NC
        assert voted_NC is not None, "an ensemble has members"
        if self.spec.rule.vote == "geometric":
            voted_NC = voted_NC.softmax(1)
        temperature = self.spec.rule.temperature
        return voted_NC if temperature == 1 else (_logs(voted_NC) / temperature).softmax(1)


class _MemberGraph(nn.Module):
    """What a member believes, uncorrected (N, C), of scaled images (N, 3, H, H) in 0 to 255."""

    def __init__(self, member: MemberSpec, networks: Sequence[nn.Module], views: int) -> None:
        super().__init__()
        self.arch: Arch = member.arch
        self.networks = nn.ModuleList(networks)
        self._views = views
        mean_C, std_C = torch.tensor(member.arch.mean), torch.tensor(member.arch.std)
        self.register_buffer("_scale", (1 / (255 * std_C))[:, None, None], persistent=False)
        self.register_buffer("_offset", (-mean_C / std_C)[:, None, None], persistent=False)
        priors = member.network_priors
        for place, prior in enumerate(priors):
            self.register_buffer(f"_factors_{place}", _inverse(prior, 1.0), persistent=False)
        if priors:
            mean_prior = torch.tensor(np.mean(priors, axis=0), dtype=torch.float32)
            self.register_buffer("_mean_prior", mean_prior, persistent=False)

    def forward(self, wholes_NCHH: Tensor) -> Tensor:
        images_NCHH = wholes_NCHH * self.get_buffer("_scale") + self.get_buffer("_offset")
        # One batch of all views, so that the network stands in the file once.
        views = list(dihedral_views(images_NCHH, self._views, self.arch.framing))
        batch = torch.cat(views) if self._views > 1 else images_NCHH
        told_KBC = [network(batch).softmax(1) for network in self.networks]
        pooled_BC = told_KBC[0] if len(told_KBC) == 1 else self._pool(told_KBC)
        if self._views == 1:
            return pooled_BC
        return pooled_BC.reshape(self._views, -1, pooled_BC.shape[1]).mean(0)

    def _pool(self, told_KBC: Sequence[Tensor]) -> Tensor:
        """As `ensemble.decision.pool`."""
        corrected = [_corrected(told_BC, self.get_buffer(f"_factors_{k}")) for k, told_BC in enumerate(told_KBC)]
        return _corrected(torch.stack(corrected).mean(0), self.get_buffer("_mean_prior"))


def input_frames(spec: EnsembleSpec) -> tuple[Frame, ...]:
    """What is kept of photos that the members' pixels come from, ascending."""
    return tuple(sorted({member.arch.frame for member in spec.members}))


def scale(pixels_NSSC: Tensor, image_size: int) -> Tensor:
    """The whole field at the size that a model sees, float32 (N, 3, H, H) in 0 to 255.

    By the operation of `core.augment.Augmenter.eval_view`.
    """
    # Contiguous, or what comes after pools by strides, which becomes a dozen operations of indexing.
    images_NCSS = pixels_NSSC.permute(0, 3, 1, 2).float().contiguous()
    return F.interpolate(images_NCSS, size=(image_size, image_size), mode="bilinear", align_corners=False)


def _inverse(prior: Sequence[float], tau: float) -> Tensor:
    """What probabilities are multiplied by to take a prior out (C,), the largest being 1; see `correct_prior`."""
    factors_C = np.maximum(prior, SMALLEST_PROBABILITY) ** -tau
    return torch.tensor(factors_C / factors_C.max(), dtype=torch.float32)


def _corrected(probs_NC: Tensor, factors_C: Tensor) -> Tensor:
    weighted_NC = probs_NC * factors_C
    return weighted_NC / weighted_NC.sum(1, keepdim=True)


def _logs(probs_NC: Tensor) -> Tensor:
    return probs_NC.clamp(min=SMALLEST_PROBABILITY).log()
