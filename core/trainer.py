"""One training run: epochs of training and validation, what each of them gave, and the best of them.

Shapes: N examples, B batch, C classes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from core.activations import Activations
from core.archs import Arch
from core.backbones import build_classifier
from core.checkpoint import RunState, load_checkpoint, save_checkpoint
from core.classifier import Classifier
from core.config import TrainConfig
from core.device import autocast, compute_dtype, free_memory, keep_freed_memory
from core.evaluation import EVAL_BATCH_SIZE, Evaluation, evaluate
from core.footprint import run_bytes
from core.losses import Criterion, class_weights, cross_entropy
from core.optim import build_optimizer, learning_rate
from core.prefix import Fed, Part, Prefix
from core.seeds import DROPOUT, derive_seed, epoch_order, without_lone_last
from core.sources import BatchSource
from core.weights import Weights

Rows = npt.NDArray[np.int64]

# Looking at a loss makes the CPU wait for the GPU; every 50 steps that costs nothing, and no more than 50 are wasted.
FINITE_CHECK_STEPS = 50

CHECKPOINT_SHARE = 0.02
MOST_REPEATED_S = 30.0

_log = logging.getLogger(__name__)


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss was not finite in epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainData:
    """What a run learns from and is validated on; the test rows are nowhere in it.

    Attributes:
        source: Gives the images of `train_rows` and `val_rows`.
        labels: Class of every row of the manifest, int64.
        train_rows: Rows to learn from.
        val_rows: Rows to validate on; the order of all validation probabilities.
        classes: Class names.
        pixels: Names the source's pixels for other processes; empty if they have none in common.
    """

    source: BatchSource
    labels: Rows
    train_rows: Rows
    val_rows: Rows
    classes: tuple[str, ...]
    pixels: str = ""


class EpochResult(NamedTuple):
    """One epoch."""

    epoch: int  # counted from 0
    lr: float  # of its last step
    images_per_s: float  # while training
    elapsed_s: float  # of the run so far, validation included
    train: Evaluation  # running: each batch before its step, as augmented and with dropout
    val: Evaluation

    def to_row(self, classes: Sequence[str]) -> dict[str, float]:
        """The epoch as a row of `history.csv`."""
        row = {"epoch": self.epoch, "lr": self.lr, "images_per_s": self.images_per_s, "elapsed_s": self.elapsed_s}
        for part, evaluation in (("train", self.train), ("val", self.val)):
            row |= {
                f"{part}_{name}": getattr(evaluation, name) for name in ("loss", "accuracy", "recall", "recall_argmax")
            }
            row |= {f"{part}_recall_{name}": recall for name, recall in zip(classes, evaluation.recalls, strict=True)}
        return row


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult:
    """What a run gave.

    Attributes:
        history: One row an epoch, as `history.csv` has them.
        best_epoch: Epoch of the best validation recall, which the rest is of.
        val_probs: Uncorrected probabilities of the validation rows (N, C), float32.
        prior: The class frequencies that the model learned (C,).
        model: State dict, on the CPU.
        elapsed_s: Seconds of training and validation.
        reason: Why it ended before its last epoch; empty if it did not.
    """

    history: list[dict[str, float]]
    best_epoch: int
    val_probs: npt.NDArray[np.float32]
    prior: npt.NDArray[np.float64]
    model: dict[str, torch.Tensor]
    elapsed_s: float
    reason: str


class Trainer:
    """Runs configs of one backbone on one data set, one after the other, with one model whose state is reloaded.

    Args:
        arch: The backbone.
        weights: Its pretrained weights; None starts from noise.
        data: Rows and their source.
        device: Where to compute.
        seed: Seed of the head's first weights, and of the backbone's without `weights`.
        activations: Where activations of the frozen part are remembered; None for nowhere.
        checkpoint_share: Share of a run's time that its checkpoints may take. An epoch that is too short for its own is
            repeated after an interruption, with those since the last one, at most `MOST_REPEATED_S` of them.
    """

    def __init__(
        self,
        *,
        arch: Arch,
        weights: Weights | None,
        data: TrainData,
        device: torch.device,
        seed: int,
        activations: Activations | None = None,
        checkpoint_share: float = CHECKPOINT_SHARE,
    ) -> None:
        self.arch, self.data, self.device, self.seed = arch, data, device, seed
        self.checkpoint_share = checkpoint_share
        keep_freed_memory(device)
        if device.type == "cuda":
            # Else the same trial would give other numbers, and a resumed one could not be held to an undisturbed one.
            torch.backends.cudnn.deterministic = True
        model = build_classifier(arch, num_classes=len(data.classes), weights=weights, seed=seed)
        self.model: Classifier = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._first_state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.prefix = Prefix(self.model, arch, data.source, pixels=data.pixels, activations=activations)
        self.train_part = Part(data.train_rows, data.labels, device)
        self.val_part = Part(data.val_rows, data.labels, device)
        self._needed: dict[tuple[int, int], int] = {}  # bytes, by depth and batch size
        self._counts_C = np.bincount(data.labels[data.train_rows], minlength=len(data.classes))

    def train(
        self,
        config: TrainConfig,
        on_epoch: Callable[[EpochResult], str | None],
        *,
        checkpoint_file: Path | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> TrainResult:
        """Trains from the first weights, or from a checkpoint where there is one.

        Args:
            config: What to run; its arch, image size and seed are this trainer's.
            on_epoch: Called after each epoch; what it returns, if anything, is the reason to end the run there.
            checkpoint_file: Where to keep the state after each epoch; None keeps none.
            on_step: Called after each step with the number of images trained on; may raise to break the run off.

        Raises:
            NonFiniteLossError: The loss became NaN or infinite.
            MemoryError: The run would take more memory than the machine has free.
            InputError: The config's depth is out of the model's range.
            CheckpointError: The checkpoint is damaged or of another config.
        """
        assert (config.arch, config.image_size, config.seed) == (self.arch.timm_name, self.arch.image_size, self.seed)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            run = _Run(self, config)
            if checkpoint_file is not None and checkpoint_file.is_file():
                run.resume(checkpoint_file)
            reason = run.finish(on_epoch, checkpoint_file, on_step or (lambda images: None))
        return TrainResult(
            history=run.state.history,
            best_epoch=run.state.best_epoch,
            val_probs=run.state.best_tensors["val_probs"].numpy(),
            prior=run.state.best_tensors["prior"].numpy(),
            model=run.state.best_model,
            elapsed_s=run.state.elapsed_s,
            reason=reason,
        )

    def measure_epoch_s(self, config: TrainConfig, *, steps: int = 2) -> float:
        """Seconds that an epoch of this config would take here, extrapolated from a few steps; changes nothing."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            run = _Run(self, config, remember=False)
            train_rows = without_lone_last(self.data.train_rows[: config.batch_size * steps], config.batch_size)
            val_rows = self.data.val_rows[: EVAL_BATCH_SIZE * steps]
            run.train_rows_in_order(train_rows[: config.batch_size], 0)  # kernels choose their algorithms on first use
            train_s = _seconds(lambda: run.train_rows_in_order(train_rows, 0)) / len(train_rows)
            val_s = _seconds(lambda: run.predict_val(val_rows)) / len(val_rows)
        return train_s * len(self.data.train_rows) + val_s * len(self.data.val_rows)

    def reload(self, config: TrainConfig) -> None:
        """Sets the model back to its first weights, with the config's dropout and depth."""
        self.model.load_state_dict(self._first_state)
        self.model.set_drop_rate(config.drop_rate)
        self.model.set_unfreeze_depth(config.unfreeze_depth)

    def refuse_what_does_not_fit(self, config: TrainConfig) -> None:
        """Says that memory doesn't suffice while the process can still say it; a card says so itself.

        Raises:
            MemoryError: A run of this config would take more than the machine has free.
        """
        if self.device.type != "cpu":
            return
        key = (config.unfreeze_depth, config.batch_size)
        if key not in self._needed:
            self._needed[key] = run_bytes(
                self.model.backbone, image_size=config.image_size, batch_size=config.batch_size
            )
        if self._needed[key] > (free := free_memory(self.device)):
            raise MemoryError(
                f"batches of {config.batch_size} at {config.image_size} pixels take {self._needed[key] / 1e9:.1f} GB "
                f"of memory or more, {free / 1e9:.1f} GB are free"
            )

    def criterion(self, config: TrainConfig) -> Criterion:
        """The loss that the config asks for on these data."""
        weights_C = class_weights(self._counts_C, config.rebalance)
        return cross_entropy(torch.tensor(weights_C, dtype=torch.float32, device=self.device), config.label_smoothing)


class _Run:
    """One config on its way from its first epoch to its last."""

    def __init__(self, trainer: Trainer, config: TrainConfig, *, remember: bool = True) -> None:
        trainer.reload(config)
        trainer.refuse_what_does_not_fit(config)
        trainer.prefix.start(config, remember=remember)
        self.prefix, self.train_part, self.val_part = trainer.prefix, trainer.train_part, trainer.val_part
        self.config, self.data, self.model, self.device = config, trainer.data, trainer.model, trainer.device
        self.state = RunState()
        self.saving = _Saving(trainer.checkpoint_share)
        self.criterion = trainer.criterion(config)
        self.optimizer = build_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=compute_dtype(self.device) == torch.float16)

    def resume(self, checkpoint_file: Path) -> None:
        self.state = load_checkpoint(
            checkpoint_file, config=self.config, model=self.model, optimizer=self.optimizer, scaler=self.scaler
        )
        _log.info("continuing after epoch %d of %d", self.state.next_epoch, self.config.epochs)

    def save(self, checkpoint_file: Path) -> None:
        save_checkpoint(
            checkpoint_file,
            config=self.config,
            state=self.state,
            model=self.model,
            optimizer=self.optimizer,
            scaler=self.scaler,
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
            self.state.history.append(result.to_row(self.data.classes))
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
        start = time.perf_counter()
        order = epoch_order(self.data.train_rows, self.config, epoch)
        probs_NC, lr = self.train_rows_in_order(order, epoch, on_step)
        train_s = time.perf_counter() - start
        # The second half of the epoch shows what the model has learned; the first is still on its way there.
        prior_C = probs_NC[len(probs_NC) // 2 :].mean(0, dtype=np.float64)
        val_probs_NC = self.predict_val(self.data.val_rows)
        if not np.isfinite(val_probs_NC).all():
            raise NonFiniteLossError(epoch, -(-len(order) // self.config.batch_size))  # of the step to come
        self.state.elapsed_s += time.perf_counter() - start
        result = EpochResult(
            epoch=epoch,
            lr=lr,
            images_per_s=len(order) / train_s,
            elapsed_s=self.state.elapsed_s,
            train=evaluate(self.data.labels[order], probs_NC, prior_C),
            val=evaluate(self.data.labels[self.data.val_rows], val_probs_NC, prior_C),
        )
        best = max((row["val_recall"] for row in self.state.history), default=-1.0)
        if result.val.recall > best:
            self.state.best_epoch = epoch
            self.state.best_model = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
            self.state.best_tensors = {"val_probs": torch.from_numpy(val_probs_NC), "prior": torch.from_numpy(prior_C)}
        return result

    def train_rows_in_order(
        self, order: Rows, epoch: int, on_step: Callable[[int], None] = lambda images: None
    ) -> tuple[npt.NDArray[np.float32], float]:
        """Takes a step for each batch; returns each row's probabilities (N, C) before its step, and the last rate."""
        config, steps = self.config, -(-len(order) // self.config.batch_size)
        recalls = [row["val_recall"] for row in self.state.history]
        torch.manual_seed(derive_seed(config.seed, config.trial, epoch, DROPOUT))
        self.model.train()
        probs: list[torch.Tensor] = []
        unchecked: list[torch.Tensor] = []
        lr = 0.0
        batches = self.prefix.batches(self.train_part, order, epoch=epoch, batch_size=config.batch_size)
        for step, batch in enumerate(batches):
            lr = learning_rate(config, epoch + (step + 0.5) / steps, recalls)
            logits_BC, loss = self.step(batch, lr)
            probs.append(logits_BC.softmax(1))
            unchecked.append(loss)
            if self.device.type == "cpu" or step + 1 == steps or len(unchecked) == FINITE_CHECK_STEPS:
                _check_finite(unchecked, epoch, step)
                unchecked.clear()
            on_step(len(batch.labels))
        return torch.cat(probs).cpu().numpy(), lr

    def step(self, batch: Fed, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimiser; returns logits (B, C) and loss, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with autocast(self.device):
            logits_BC = self.prefix.classify(batch.inputs)
        logits_BC = logits_BC.float()
        loss = self.criterion(logits_BC, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return logits_BC.detach(), loss.detach()

    def predict_val(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities (N, C) of validation rows."""
        self.model.eval()
        probs: list[torch.Tensor] = []
        # Not inference_mode: what is remembered here may be read elsewhere.
        with torch.no_grad():
            for batch in self.prefix.batches(self.val_part, rows, epoch=None, batch_size=EVAL_BATCH_SIZE):
                with autocast(self.device):
                    logits_BC = self.prefix.classify(batch.inputs)
                probs.append(logits_BC.float().softmax(1))
        return torch.cat(probs).cpu().numpy()


class _Saving:
    """Decides when a checkpoint is worth its time, from what the last one took.

    Args:
        share: Of the time between two checkpoints that the second may take.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._cost_s = 0.1  # until it has been measured: 40 MB to an ordinary disk
        self._since = time.perf_counter()

    def is_due(self) -> bool:
        """Whether the time since the last one pays for the next, or is more than may be repeated."""
        waited_s = time.perf_counter() - self._since
        return self._cost_s <= self._share * waited_s or waited_s >= MOST_REPEATED_S

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        now = time.perf_counter()
        self._cost_s, self._since = now - self._since, now


def _check_finite(losses: list[torch.Tensor], epoch: int, last_step: int) -> None:
    """Raises NonFiniteLossError for the first loss, of steps up to `last_step`, that is NaN or infinite."""
    finite = torch.isfinite(torch.stack(losses)).tolist()
    if not all(finite):
        raise NonFiniteLossError(epoch, last_step - len(losses) + 1 + finite.index(False))


def _seconds(work: Callable[[], object]) -> float:
    """Wall time of something that ends by bringing its result to the CPU, so that a GPU has finished too."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
