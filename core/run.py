"""One config on its way from its first epoch to its last.

Shapes: N examples, B batch, C classes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.averaging import WeightAverage, averages, share_of_newest
from core.checkpoint import RunState, Saving, load_checkpoint, save_checkpoint
from core.classifier import Classifier
from core.config import TrainConfig
from core.descent import Descent
from core.device import autocast, compute_dtype
from core.epochs import EpochResult, NonFiniteLossError, check_finite
from core.evaluation import evaluate
from core.graphs import Recorded, Recorder
from core.losses import Criterion, image_weights
from core.mixing import BatchMix, mix_epoch
from core.optim import learning_rate, set_rate
from core.prefix import Fed, Part, Prefix
from core.priors import learned_prior
from core.pseudo_labels import PseudoLabels
from core.seeds import DROPOUT, derive_seed, epoch_order
from core.semisupervised import UnlabelledFeed

Rows = npt.NDArray[np.int64]

# Looking at a loss makes the CPU wait for the GPU; every 50 steps that costs nothing, and no more than 50 are wasted.
FINITE_CHECK_STEPS = 50

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Run:
    """One config, and everything that it needs, ready for its first step.

    Attributes:
        config: What to run.
        labels: Class of every row of the manifest, int64.
        classes: Class names.
        train_part: What is learned from.
        val_part: What is validated on.
        train_rows: Rows of `train_part`, any order.
        val_rows: Rows of `val_part`, in the order of all validation probabilities.
        model: With the config's first weights, dropout and depth.
        prefix: Feeds its learning part.
        criterion: The loss.
        optimizer: Without memory of earlier runs.
        device: Where to compute.
        saving: Decides when to save.
        parts: In how many equal parts, one after the other, each batch is computed.
        eval_batch_size: Images to validate at a time.
        recorder: Records steps, so that a card has them launched at once; None doesn't.
        unlabelled: What is learned from besides; None for labelled images alone.
        pseudo_labels: What labels these.
    """

    config: TrainConfig
    labels: Rows
    classes: Sequence[str]
    train_part: Part
    val_part: Part
    train_rows: Rows
    val_rows: Rows
    model: Classifier
    prefix: Prefix
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    device: torch.device
    saving: Saving
    parts: int
    eval_batch_size: int
    recorder: Recorder | None = None
    unlabelled: UnlabelledFeed | None = None
    pseudo_labels: PseudoLabels | None = None

    def __post_init__(self) -> None:
        self.state = RunState()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=compute_dtype(self.device) == torch.float16)
        self.average = WeightAverage(self.model.learning_tensors()) if averages(self.config) else None
        descent = Descent(
            classify=self.prefix.classify,
            criterion=self.criterion,
            optimizer=self.optimizer,
            scaler=self.scaler,
            device=self.device,
            l1=self.config.l1,
            pseudo_labels=self.pseudo_labels,
        )
        # Unlabelled images are labelled by a mean over their batch, so that it is never in parts (`can_be_parted`).
        whole = descent.whole if self.pseudo_labels is None else descent.beside_unlabelled
        # A recording is of this run alone: it holds the run's loss, its decay and where its moments lie. It takes as
        # long as a few steps. Parts are of a run that lacks memory, and recordings take some.
        self.descend = Recorded(whole, self.recorder) if self.parts == 1 else descent.in_parts

    @property
    def beliefs_C(self) -> torch.Tensor | None:
        """What labelling unlabelled images remembers from step to step (C,)."""
        return None if self.pseudo_labels is None else self.pseudo_labels.beliefs_C

    def resume(self, checkpoint_file: Path) -> None:
        """Goes on where a checkpoint was written.

        Raises:
            CheckpointError: It is damaged or of another config.
        """
        self.state = load_checkpoint(
            checkpoint_file,
            config=self.config,
            model=self.model,
            optimizer=self.optimizer,
            scaler=self.scaler,
            average=self.average,
            beliefs_C=self.beliefs_C,
        )
        _log.info("continuing after epoch %d of %d", self.state.next_epoch, self.config.epochs)

    def save(self, checkpoint_file: Path) -> None:
        """Writes a checkpoint."""
        save_checkpoint(
            checkpoint_file,
            config=self.config,
            state=self.state,
            model=self.model,
            optimizer=self.optimizer,
            scaler=self.scaler,
            average=self.average,
            beliefs_C=self.beliefs_C,
        )

    def finish(
        self,
        on_epoch: Callable[[EpochResult], str | None],
        checkpoint_file: Path | None,
        on_step: Callable[[int], None],
    ) -> str:
        """Trains the epochs that are left; returns the reason to end early, or nothing."""
        while self.state.next_epoch < self.config.epochs:
            result = self.train_epoch(self.state.next_epoch, on_step)
            self.state.history.append(result.to_row(self.classes))
            if (reason := on_epoch(result) or "") or self.state.next_epoch == self.config.epochs:
                return reason
            waited = result.epoch - self.state.best_epoch
            if 0 < self.config.patience <= waited:
                return f"no better validation recall for {waited} epochs"
            # Last, so that whoever continues from here has nothing of this epoch left to do.
            if checkpoint_file is not None and self.saving.is_due():
                with self.saving:
                    self.save(checkpoint_file)
        return ""

    def train_epoch(self, epoch: int, on_step: Callable[[int], None]) -> EpochResult:
        """Trains one epoch and validates it; remembers it if it is the best so far."""
        start = time.perf_counter()
        order = epoch_order(self.train_rows, self.labels, self.config, epoch)
        probs_NC, lr = self.train_rows_in_order(order, epoch, on_step)
        train_s = time.perf_counter() - start
        prior_C = self.prior(order, epoch, probs_NC)
        # What is validated is what is kept.
        with nullcontext() if self.average is None else self.average.applied():
            val_probs_NC = self.predict_val(self.val_rows)
            if not np.isfinite(val_probs_NC).all():
                raise NonFiniteLossError(epoch, -(-len(order) // self.config.batch_size))  # of the step to come
            self.state.elapsed_s += time.perf_counter() - start
            result = EpochResult(
                epoch=epoch,
                lr=lr,
                images_per_s=len(order) / train_s,
                elapsed_s=self.state.elapsed_s,
                train=evaluate(self.labels[order], probs_NC, prior_C),
                val=evaluate(self.labels[self.val_rows], val_probs_NC, prior_C),
            )
            self.keep_if_best(result, val_probs_NC, prior_C)
        return result

    def keep_if_best(
        self, result: EpochResult, val_probs_NC: npt.NDArray[np.float32], prior_C: npt.NDArray[np.float64]
    ) -> None:
        """Keeps the model as it is now, if no epoch before was better."""
        best = max((row["val_recall"] for row in self.state.history), default=-1.0)
        if result.val.recall > best:
            self.state.best_epoch = result.epoch
            self.state.best_model = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
            self.state.best_tensors = {"val_probs": torch.from_numpy(val_probs_NC), "prior": torch.from_numpy(prior_C)}

    def prior(self, order: Rows, epoch: int, probs_NC: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The class frequencies (C,) that the model has learned, from what it said of each row in an epoch's order."""
        # The second half of the epoch shows what the model has learned; the first is still on its way there.
        half = len(order) // 2
        counts_C = np.bincount(self.labels[self.train_rows], minlength=len(self.classes))
        weights_N = image_weights(self.config, counts_C, self.labels[order])
        if weights_N is not None and (mix := mix_epoch(len(order), self.config, epoch)) is not None:
            weights_N = mix.blend(weights_N)
        return learned_prior(self.config, probs_NC[half:], None if weights_N is None else weights_N[half:])

    def train_rows_in_order(
        self, order: Rows, epoch: int, on_step: Callable[[int], None] = lambda images: None
    ) -> tuple[npt.NDArray[np.float32], float]:
        """Takes a step for each batch; returns each row's probabilities (N, C) before its step, and the last rate."""
        config, steps = self.config, -(-len(order) // self.config.batch_size)
        recalls = [row["val_recall"] for row in self.state.history]
        mix = mix_epoch(len(order), config, epoch)
        mixes = repeat(None) if mix is None else mix.batches(config.batch_size, self.device)
        torch.manual_seed(derive_seed(config.seed, config.trial, epoch, DROPOUT))
        self.model.train()
        logits: list[torch.Tensor] = []
        unchecked: list[torch.Tensor] = []
        lr = 0.0
        batches = self.prefix.batches(self.train_part, order, epoch=epoch, batch_size=config.batch_size // self.parts)
        sizes = [min(config.batch_size, len(order) - start) for start in range(0, len(order), config.batch_size)]
        unlabelled = iter(()) if self.unlabelled is None else self.unlabelled.batches(sizes, epoch)
        for step, numbered in groupby(enumerate(batches), key=lambda numbered: numbered[0] // self.parts):
            size = sizes[step]
            lr = learning_rate(config, epoch + (step + 0.5) / steps, recalls)
            besides = next(unlabelled, None)
            logits_BC, loss = self.step([part for _, part in numbered], size, lr, next(mixes), besides)
            logits.append(logits_BC)
            unchecked.append(loss)
            if self.average is not None:
                self.average.update(share_of_newest(config, epoch=epoch, step=step, steps=steps))
            if self.device.type == "cpu" or step + 1 == steps or len(unchecked) == FINITE_CHECK_STEPS:
                check_finite(unchecked, epoch, step)
                unchecked.clear()
            on_step(size)
        return torch.cat(logits).softmax(1).cpu().numpy(), lr

    def step(
        self,
        parts: Sequence[Fed],
        size: int,
        lr: float,
        mix: BatchMix | None = None,
        unlabelled: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """One step of the optimiser; returns logits (B, C) and loss, still on the device.

        Args:
            parts: The batch, whole or, for lack of memory, in parts whose gradients add up.
            size: B.
            lr: Learning rate.
            mix: How the batch is blended, which must then be whole.
            unlabelled: What the learning part is fed besides, as `core.semisupervised.UnlabelledFeed.batches` gives it.
        """
        set_rate(self.optimizer, self.config, lr)
        # For the whole batch at once: a generator would give other numbers for its parts.
        draws = torch.split(self.model.draw(size), self.config.batch_size // self.parts)
        fed = [(part.inputs, part.labels, drawn) for part, drawn in zip(parts, draws, strict=True)]
        more = () if mix is None else mix.tensors
        if unlabelled is not None:
            more = (unlabelled, self.model.draw(len(unlabelled) // 2))  # of the strong views
        return self.descend(*chain.from_iterable(fed), *more)

    def predict_val(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of validation rows."""
        self.model.eval()
        probs: list[torch.Tensor] = []
        # Not inference_mode: what is remembered here may be read elsewhere.
        with torch.no_grad():
            for batch in self.prefix.batches(self.val_part, rows, epoch=None, batch_size=self.eval_batch_size):
                with autocast(self.device):
                    logits_BC = self.prefix.classify(batch.inputs)
                probs.append(logits_BC.float().softmax(1))
        return torch.cat(probs).cpu().numpy()
