"""One step of the optimiser, as a function of tensors that can be recorded.

Shapes: B batch, U unlabelled images beside it, F pooled features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.device import autocast
from core.losses import Criterion
from core.mixing import BatchMix
from core.pseudo_labels import PseudoLabels
from core.sparsity import shrink


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """Moves the weights of a run down the gradient of its loss.

    Attributes:
        classify: From what the learning part is fed (B, ...) and drawn numbers (B, F) to logits (B, C).
        criterion: The loss.
        optimizer: Of what learns; its rate has been set.
        scaler: Of the loss, in half precision.
        device: Where to compute.
        l1: By how much the step shrinks the weights besides; see `core.sparsity.shrink`.
        pseudo_labels: The loss of unlabelled images, where there are any.
    """

    classify: Callable[[Tensor, Tensor], Tensor]
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    l1: float = 0.0
    pseudo_labels: PseudoLabels | None = None

    def whole(self, inputs: Tensor, labels_B: Tensor, drawn_BF: Tensor, *mix: Tensor) -> tuple[Tensor, ...]:
        """Takes a step with a batch.

        Args:
            inputs: What the learning part is fed (B, ...).
            labels_B: Classes.
            drawn_BF: Decides which features are dropped.
            mix: The tensors of a `BatchMix`, if the batch is mixed.

        Returns:
            Logits (B, C) before the step, and the loss, both float32 and on the device.
        """
        return self._step([(inputs, labels_B, drawn_BF)], BatchMix(*mix) if mix else None)

    def in_parts(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Takes a step with a batch whose parts' gradients add up; for each part three tensors, as for a whole one."""
        return self._step(list(zip(parts[::3], parts[1::3], parts[2::3], strict=True)), None)

    def beside_unlabelled(
        self, inputs: Tensor, labels_B: Tensor, drawn_BF: Tensor, unlabelled: Tensor, drawn_UF: Tensor
    ) -> tuple[Tensor, ...]:
        """Takes a step with a batch and unlabelled images, down the sum of both losses.

        Args:
            inputs: As for `whole`.
            labels_B: As for `whole`.
            drawn_BF: As for `whole`.
            unlabelled: What the learning part is fed of strong views, then of mild ones (2 U, ...).
            drawn_UF: Decides which features of the strong views are dropped; mild ones, of which labels are made, keep
                all of theirs.

        Returns:
            As `whole` does, logits being those of the labelled images.
        """
        assert self.pseudo_labels is not None
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            # At once, so that batch normalisation sees one set of images (Sohn et al. 2020, and all code since).
            logits = self.classify(torch.cat([inputs, unlabelled]), torch.cat([drawn_BF, drawn_UF])).float()
        logits_BC, strong_UC, mild_UC = torch.split(logits, [len(labels_B), len(drawn_UF), len(drawn_UF)])
        loss = self.criterion(logits_BC, labels_B) + self.pseudo_labels.loss(mild_UC, strong_UC)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._move()
        return logits_BC.detach(), loss.detach()

    def _step(self, parts: list[tuple[Tensor, ...]], mix: BatchMix | None) -> tuple[Tensor, ...]:
        size = sum(len(labels_B) for _, labels_B, _ in parts)
        self.optimizer.zero_grad(set_to_none=True)
        logits, losses = [], []
        for inputs, labels_B, drawn_BF in parts:
            with autocast(self.device):
                logits_BC = self.classify(inputs if mix is None else mix.inputs(inputs), drawn_BF)
            logits_BC = logits_BC.float()
            loss = mix.loss(self.criterion, logits_BC, labels_B) if mix else self.criterion(logits_BC, labels_B)
            # The loss is a mean over images: a part has its share in that of the batch.
            loss = loss * (len(labels_B) / size)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            logits.append(logits_BC.detach())
            losses.append(loss.detach())
        self._move()
        return torch.cat(logits), torch.stack(losses).sum()

    def _move(self) -> None:
        """Moves the weights down the gradient that is there."""
        self.scaler.step(self.optimizer)
        if self.l1 > 0:
            shrink(self.optimizer, self.l1)
        self.scaler.update()
