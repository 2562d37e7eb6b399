"""Training runs of one backbone on one data set: what they share is set up once, each starts as if it were the first.

Shapes: C classes.
"""

import logging
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from core.activations import Activations
from core.archs import Arch
from core.backbones import build_classifier
from core.checkpoint import Saving
from core.classifier import Classifier
from core.config import TrainConfig
from core.depthwise import hasten_small_depthwise
from core.device import is_out_of_memory, keep_freed_memory
from core.epochs import EpochResult, NonFiniteLossError
from core.errors import InputError
from core.evaluation import images_at_once
from core.footprint import Survey, memory_in_reach, survey
from core.graphs import recorder_for
from core.losses import Criterion, build_criterion
from core.microbatches import can_be_parted, more_parts
from core.optim import build_optimizer, reset_optimizer
from core.prefix import CPU_CHUNK, Part, Prefix
from core.pseudo_labels import PseudoLabels
from core.run import Run
from core.seeds import without_lone_last
from core.semisupervised import UnlabelledFeed
from core.stochastic_depth import set_drop_path
from core.traindata import TrainData, TrainResult
from core.uses import refuse_unused
from core.weights import Weights

__all__ = ["CHECKPOINT_SHARE", "EpochResult", "NonFiniteLossError", "TrainData", "TrainResult", "Trainer"]

CHECKPOINT_SHARE = 0.01

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Trainer:
    """Runs configs one after the other, with one model and one optimiser a depth whose states are set back.

    Args:
        arch: The backbone.
        weights: Its pretrained weights; None starts from noise.
        data: Rows and their source.
        device: Where to compute.
        seed: Seed of the head's first weights, and of the backbone's without `weights`.
        activations: Where activations of the frozen part are remembered; None for nowhere.
        checkpoint_share: Share of a run's time that its checkpoints may take. An epoch that is too short for its own is
            repeated after an interruption, with those since the last one: at most
            `core.checkpoint.MOST_REPEATED_S` and one epoch.
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
        assert data.source.frame == arch.frame, f"a source of {data.source.frame} for {arch}"
        self.arch, self.data, self.device, self.seed = arch, data, device, seed
        self.checkpoint_share = checkpoint_share
        keep_freed_memory(device)
        if device.type == "cuda":
            # Else the same trial would give other numbers, and a resumed one could not be held to an undisturbed one.
            torch.backends.cudnn.deterministic = True
        model = build_classifier(arch, num_classes=len(data.classes), weights=weights, seed=seed)
        hasten_small_depthwise(model)
        self.model: Classifier = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._first_state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.prefix = Prefix(self.model, arch, data.source, pixels=data.pixels, activations=activations)
        self.train_part = Part(data.train_rows, data.labels, device)
        self.val_part = Part(data.val_rows, data.labels, device)
        self._recorder = recorder_for(device)
        self._optimizers: dict[tuple[str, int, bool], torch.optim.Optimizer] = {}  # by kind, depth, and if in layers
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
            on_epoch: Called after each epoch; what it returns, if anything, is the reason to end the run there. Where
                memory runs out in the middle of a run, epochs that no checkpoint covers are done and reported again.
            checkpoint_file: Where to keep the state after each epoch; None keeps none.
            on_step: Called after each step with the number of images trained on; may raise to break the run off.

        Raises:
            NonFiniteLossError: The loss became NaN or infinite.
            MemoryError, RuntimeError: The run takes more memory than there is; `core.device.is_out_of_memory` knows it.
            InputError: The config's depth is out of the model's range.
            CheckpointError: The checkpoint is damaged or of another config.
        """
        assert (config.arch, config.image_size, config.seed) == (self.arch.timm_name, self.arch.image_size, self.seed)

        def finish(run: Run) -> TrainResult:
            if checkpoint_file is not None and checkpoint_file.is_file():
                run.resume(checkpoint_file)
            reason = run.finish(on_epoch, checkpoint_file, on_step or (lambda images: None))
            return TrainResult.of(run.state, reason, self.model)

        return self._with_room(config, finish)

    def measure_epoch_s(self, config: TrainConfig) -> float:
        """Seconds that an epoch of this config would take here, extrapolated from a few steps; changes nothing."""
        on_card = self.device.type == "cuda"
        steps = 20 if on_card else 2
        train_rows = without_lone_last(self.data.train_rows[: config.batch_size * steps], config.batch_size)
        val_rows = self.data.val_rows[: 2 * images_at_once(self.device, config.image_size)]

        def measure(run: Run) -> float:
            # Kernels choose their algorithms on first use. A card takes seconds for each number of images.
            run.train_rows_in_order(train_rows if on_card else train_rows[: config.batch_size], 0)
            if on_card:
                run.predict_val(val_rows)
            train_s = _seconds(lambda: run.train_rows_in_order(train_rows, 0)) / len(train_rows)
            val_s = _seconds(lambda: run.predict_val(val_rows)) / len(val_rows)
            return train_s * len(self.data.train_rows) + val_s * len(self.data.val_rows)

        return self._with_room(config, measure, remember=False)

    def _with_room(self, config: TrainConfig, work: Callable[[Run], Result], *, remember: bool = True) -> Result:
        """Does something with a run; where memory runs out anew, with less at once if the result stays the same."""
        parts, forgot, record = 1, False, self._recorder is not None
        while True:
            try:
                with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                    return work(self.prepare(config, remember=remember, record=record, parts=parts))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # a traceback would hold all that the run has taken
            torch.cuda.empty_cache()
            # What is remembered must cost time only: a run that has no room beside it has it without.
            if self.prefix.forget() and not forgot:
                forgot = True
                continue
            # What a recorded step computes in is nobody else's between two steps: validation must find room beside it.
            if record:
                record = False
                continue
            finer = more_parts(config.batch_size, parts)
            if finer is None or (parts == 1 and not can_be_parted(self.model, config)):
                raise failure
            parts = finer

    def prepare(self, config: TrainConfig, *, remember: bool = True, record: bool = True, parts: int = 1) -> Run:
        """Sets everything back to its first state, with the config's values, for a run that nothing came before.

        Args:
            config: What to run. The run before this one must be over.
            remember: Whether activations may be remembered, or be used if they are.
            record: Whether steps may be recorded.
            parts: In how many equal parts each batch is computed, for lack of memory.

        Raises:
            MemoryError: The run would take more memory than the machine has free.
            InputError: The config's depth is out of the model's range, or nothing would use what it asks for.
        """
        refuse_unused(config, self.model)
        self.model.load_state_dict(self._first_state)
        self.model.set_drop_rate(config.drop_rate)
        set_drop_path(self.model, config.drop_path)
        self.model.set_unfreeze_depth(config.unfreeze_depth)
        eval_batch_size = -(-images_at_once(self.device, config.image_size) // parts)
        besides = 2 * config.unlabelled_ratio if config.unlabelled_weight > 0 else 0  # a mild and a strong view of each
        self.refuse_what_does_not_fit(config, config.batch_size // parts * (1 + besides), eval_batch_size)
        if parts > 1:
            _log.warning(
                "batches of %d are more than memory has room for: they are computed %d images at a time, with the same "
                "result",
                config.batch_size,
                config.batch_size // parts,
            )
        self.prefix.start(config, remember=remember, at_once=eval_batch_size)
        learns_besides = config.unlabelled_weight > 0
        return Run(
            config=config,
            labels=self.data.labels,
            classes=self.data.classes,
            train_part=self.train_part,
            val_part=self.val_part,
            train_rows=self.data.train_rows,
            val_rows=self.data.val_rows,
            model=self.model,
            prefix=self.prefix,
            criterion=self.criterion(config),
            optimizer=self.optimizer(config),
            device=self.device,
            saving=Saving(self.checkpoint_share),
            parts=parts,
            eval_batch_size=eval_batch_size,
            recorder=self._recorder if record else None,
            unlabelled=self.unlabelled_feed(config) if learns_besides else None,
            pseudo_labels=PseudoLabels.of(config, self._counts_C, self.device) if learns_besides else None,
        )

    def unlabelled_feed(self, config: TrainConfig) -> UnlabelledFeed:
        """What a run is fed of unlabelled images.

        Raises:
            InputError: There are none.
        """
        if self.data.unlabelled is None:
            raise InputError(
                f"`unlabelled_weight` must be 0 without unlabelled images, but got {config.unlabelled_weight}. Give "
                "their folder with --unlabelled, or change the config."
            )
        pass_frozen = self.prefix.pass_frozen
        return UnlabelledFeed(self.data.unlabelled, arch=self.arch, config=config, pass_frozen=pass_frozen)

    def optimizer(self, config: TrainConfig) -> torch.optim.Optimizer:
        """The optimiser of the config's kind and depth, without memory; all others forget theirs, too."""
        for other in self._optimizers.values():
            other.state.clear()
        key = (config.optimizer, config.unfreeze_depth, config.layer_decay < 1)
        if key not in self._optimizers:
            self._optimizers[key] = build_optimizer(config, self.model)
        reset_optimizer(self._optimizers[key], config)
        return self._optimizers[key]

    def refuse_what_does_not_fit(self, config: TrainConfig, at_once: int, eval_batch_size: int) -> None:
        """Says that memory doesn't suffice while the process can still say it; a card says so itself.

        Args:
            config: What to run.
            at_once: Images that are trained on at once.
            eval_batch_size: Images that are validated on at once.

        Raises:
            MemoryError: A run of this config would take more than the machine has free.
        """
        if self.device.type != "cpu" or self._survey is None:
            return
        chunk = None if self.model.cut(config.image_size) is None else CPU_CHUNK
        learning = {name for name, parameter in self.model.backbone.named_parameters() if parameter.requires_grad}
        needed = self._survey.footprint(learning, chunk=chunk).of(at_once, eval_batch_size)
        reach = memory_in_reach() - self.prefix.held
        if needed > reach:
            raise MemoryError(
                f"batches of {at_once} at {config.image_size} pixels take about {needed / 1e9:.1f} GB of "
                f"memory, and {reach / 1e9:.1f} GB can be had"
            )

    @cached_property
    def _survey(self) -> Survey | None:
        return survey(self.model.backbone, image_size=self.arch.image_size)

    def criterion(self, config: TrainConfig) -> Criterion:
        """The loss that the config asks for on these data."""
        return build_criterion(config, self._counts_C, self.device)


def _seconds(work: Callable[[], object]) -> float:
    """Wall time of something that ends by bringing its result to the CPU, so that a GPU has finished too."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
