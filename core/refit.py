"""Training a finished trial again on other rows, without a look at the rows that are held out until it is over.

A trial has decided by its validation part when to stop, which epoch to keep and, on a plateau, when to lower the
learning rate. Were that decided again by the rows that are held out, they would be judged by a run that was fitted to
them. So it is not decided again: the run goes as far as the trial's best epoch, at the learning rates that the trial
had, and what it has become by then is taken (docs/decisions/0021).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.activations import Activations
from core.archs import Arch
from core.backbones import build_classifier
from core.config import TrainConfig
from core.prefix import Prefix
from core.run import Run
from core.traindata import TrainData, TrainResult
from core.trainer import EpochResult, Trainer
from core.weights import Weights

Rows = npt.NDArray[np.int64]

REACHED = "the trial's best epoch is reached"


@dataclass(kw_only=True, eq=False)
class RefitRun(Run):
    """A run that looks at its held-out rows once, after its last epoch.

    Attributes:
        recalls: Validation recall of the trial in each epoch, up to its best: where the run ends, and what the schedule
            goes by.
    """

    recalls: Sequence[float]

    def train_epoch(self, epoch: int, on_step: Callable[[int], None]) -> EpochResult:
        """As any run; what it was worth is the trial's to say."""
        result = super().train_epoch(epoch, on_step)
        return result._replace(val=result.val._replace(recall=self.recalls[epoch]))

    def keep_if_best(
        self, result: EpochResult, val_probs_NC: npt.NDArray[np.float32], prior_C: npt.NDArray[np.float64]
    ) -> None:
        """Keeps each epoch in place of the one before."""
        best = result._replace(val=result.val._replace(recall=math.inf))
        super().keep_if_best(best, val_probs_NC, prior_C)

    def predict_val(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of the held-out rows; before the last epoch nothing is known of them."""
        if self.state.next_epoch + 1 < len(self.recalls):
            return np.full((len(rows), len(self.classes)), 1 / len(self.classes), dtype=np.float32)
        return super().predict_val(rows)


class Refitter(Trainer):
    """Trains configs on any part of some rows, with any seed; what it remembers of these rows serves all parts.

    Args:
        arch: The backbone.
        weights: Its pretrained weights; None starts from noise.
        data: All rows, as those to learn from and as those that are held out.
        device: Where to compute.
        seed: Seed of the first weights, until `turn_to` says another.
        activations: Where activations of the frozen part are remembered; None for nowhere.
        checkpoint_share: Share of a run's time that its checkpoints may take.
    """

    def __init__(
        self,
        *,
        arch: Arch,
        weights: Weights | None,
        data: TrainData,
        device: torch.device,
        seed: int,
        activations: Activations | None,
        checkpoint_share: float,
    ) -> None:
        assert np.array_equal(np.sort(data.train_rows), np.sort(data.val_rows)), "a part of the rows"
        super().__init__(
            arch=arch,
            weights=weights,
            data=data,
            device=device,
            seed=seed,
            activations=activations,
            checkpoint_share=checkpoint_share,
        )
        self._weights, self._activations = weights, activations
        self._recalls: Sequence[float] = ()

    def turn_to(self, train_rows: Rows, held_out_rows: Rows, *, seed: int) -> None:
        """Goes on with a part of the rows to learn from, another that is held out, and the first weights of a seed.

        Activations are still remembered of all rows together: a set that one fold has computed serves the others.
        """
        self.data = dataclasses.replace(self.data, train_rows=train_rows, val_rows=held_out_rows)
        self._counts_C = np.bincount(self.data.labels[train_rows], minlength=len(self.data.classes))
        if seed == self.seed:
            return
        self.seed = seed
        model = build_classifier(self.arch, num_classes=len(self.data.classes), weights=self._weights, seed=seed)
        self._first_state = {name: tensor.to(self.device) for name, tensor in model.state_dict().items()}
        if self._weights is None or not self._weights.state:
            # What is frozen is another noise now, and activations are remembered under its hash.
            self.prefix = Prefix(
                self.model, self.arch, self.data.source, pixels=self.data.pixels, activations=self._activations
            )

    def refit(
        self,
        config: TrainConfig,
        recalls: Sequence[float],
        *,
        checkpoint_file: Path | None = None,
        on_epoch: Callable[[EpochResult], None] = lambda result: None,
        on_step: Callable[[int], None] | None = None,
    ) -> TrainResult:
        """Trains a trial's config again, as far as its best epoch.

        Args:
            config: The trial's, with this trainer's seed.
            recalls: The trial's validation recall in each epoch, up to its best.
            checkpoint_file: Where to keep the state after each epoch; None keeps none.
            on_epoch: Called after each epoch; of validation it knows nothing but the trial's recall.
            on_step: Called after each step with the number of images trained on; may raise to break the run off.

        Returns:
            The last epoch; `val_probs` are those of the held-out rows.

        Raises:
            As `Trainer.train`.
        """
        assert 1 <= len(recalls) <= config.epochs, f"{len(recalls)} of {config.epochs} epochs"
        self._recalls = recalls

        def end(result: EpochResult) -> str | None:
            on_epoch(result)
            return REACHED if result.epoch + 1 == len(recalls) else None

        return self.train(config, end, checkpoint_file=checkpoint_file, on_step=on_step)

    def measure_refit_s(self, config: TrainConfig, recalls: Sequence[float]) -> float:
        """Seconds that `refit` would take here, extrapolated from a few steps; changes nothing."""
        self._recalls = recalls
        return self.measure_epoch_s(config) * len(recalls)

    def prepare(self, config: TrainConfig, *, remember: bool = True, record: bool = True, parts: int = 1) -> RefitRun:
        """As `Trainer.prepare`; the run is one that doesn't look at its held-out rows."""
        run = super().prepare(config, remember=remember, record=record, parts=parts)
        fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
        return RefitRun(**fields, recalls=self._recalls)
