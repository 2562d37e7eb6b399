"""A backbone on its way through images without labels, epoch by epoch, and its checkpoints.

Random numbers are functions of (seed, image, epoch), so that a run that was interrupted gives the numbers of an
undisturbed one (docs/decisions/0006).

Shapes: N images, B batch.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.archs import Arch
from core.augment import Augmenter
from core.backbones import build_classifier
from core.checkpoint import CheckpointError, Saving
from core.cli import progress
from core.collapse import LEAST_SPREAD, CollapseError, neighbour_recall, spread
from core.depthwise import hasten_small_depthwise
from core.device import autocast, compute_dtype, keep_freed_memory
from core.errors import InputError, one_line, shorten
from core.evaluation import images_at_once
from core.files import read_tensors_with_metadata, write_tensors
from core.footprint import memory_in_reach, survey
from core.graphs import Recorded, recorder_for
from core.optim import build_optimizer, learning_rate, set_rate
from core.optimizer_state import load_optimizer, optimizer_tensors
from core.pretrain_data import Labelled, PretrainConfig, PretrainEpoch
from core.seeds import PRETRAIN_HEADS, PRETRAIN_ORDER, PRETRAIN_VIEWS, derive_seed
from core.selfsupervised import SelfSupervised, build_method
from core.shapes import NUMBER, find_misfit
from core.sources import BatchSource
from core.strong_views import SELF_SUPERVISED, StrongAugmenter
from core.weights import Weights, body_tensors

CHECKPOINT_SHARE = 0.02  # of the time; an interruption costs at most half a minute and one epoch
_LOOKS = 20  # how often neighbours are looked at in a run: each look passes all labelled images through the network
_METHOD, _OPTIMIZER, _TOLD = "method.", "optimizer.", "told"


def build_learner(config: PretrainConfig, *, arch: Arch, weights: Weights) -> SelfSupervised:
    """A backbone with its first weights and the heads of a method.

    Args:
        config: What to run.
        arch: The backbone, with the config's image size.
        weights: First weights; without tensors it starts from noise.

    Raises:
        InputError: lightly isn't installed, or the weights or the image size don't fit.
    """
    seed = config.descent.seed
    classifier = build_classifier(arch, num_classes=2, weights=weights, seed=seed)
    heads = derive_seed(seed, PRETRAIN_HEADS)
    return build_method(config.method, classifier, image_size=arch.image_size, seed=heads)


def refuse_what_does_not_fit(learner: SelfSupervised, views: int, image_size: int) -> None:
    """Says that the CPU's memory doesn't suffice while the process can still say it.

    Args:
        learner: What learns.
        views: That it sees at once.
        image_size: Of a view, pixels.

    Raises:
        MemoryError: A step would take more memory than the machine has free.
    """
    if (network := survey(learner.backbone, image_size=image_size)) is None:
        return
    learning = {name for name, parameter in learner.backbone.named_parameters() if parameter.requires_grad}
    needed, reach = network.footprint(learning, chunk=None).of(views), memory_in_reach()
    if needed > reach:
        raise MemoryError(
            f"{views} views of {image_size} pixels take about {needed / 1e9:.1f} GB of memory, and "
            f"{reach / 1e9:.1f} GB can be had"
        )


class Pretraining:
    """Trains a backbone without labels.

    Args:
        config: What to run.
        arch: The backbone, with the config's image size.
        learner: What `build_learner` gave.
        source: Gives the images, as rows 0 to N - 1, on the device where to compute.
        images: N.
        labelled: By what features are watched.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        arch: Arch,
        learner: SelfSupervised,
        source: BatchSource,
        images: int,
        labelled: Labelled,
    ) -> None:
        self.config, self.arch, self.source, self.labelled = config, arch, source, labelled
        descent, device = config.descent, source.device
        self.device = device
        keep_freed_memory(device)
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # as for trials: the same operations give the same numbers
        hasten_small_depthwise(learner)
        self.method = learner.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(descent, self.method)
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute_dtype(device) == torch.float16)
        form: dict[str, Any] = {"image_size": arch.image_size, "mean": arch.mean, "std": arch.std, "device": device}
        self._augmenter = StrongAugmenter(SELF_SUPERVISED, seed=derive_seed(descent.seed, PRETRAIN_VIEWS), **form)
        self._whole = Augmenter(seed=0, **form)
        self._rows = np.arange(images, dtype=np.int64)
        self._saving = Saving(CHECKPOINT_SHARE)
        self._step = Recorded(self._descend, recorder_for(device))
        self.history: list[dict[str, float]] = []
        self._told: list[Tensor] = []  # loss and spread (2,) of each step of the epoch that is under way

    @property
    def steps(self) -> int:
        """Steps of an epoch. Images that fill no batch wait for another epoch: statistics of few would be noise."""
        return max(1, len(self._rows) // self.config.descent.batch_size)

    @property
    def steps_left(self) -> int:
        """Steps that are still to be taken."""
        return (self.config.descent.epochs - len(self.history)) * self.steps - len(self._told)

    def finish(
        self,
        on_epoch: Callable[[PretrainEpoch], None],
        checkpoint_file: Path,
        facts: Mapping[str, str],
        on_step: Callable[[], bool],
    ) -> bool:
        """Trains what is left.

        Args:
            on_epoch: Called after each epoch.
            checkpoint_file: Where the state goes, now and then and when it stops.
            facts: What else identifies the run, for `resume`.
            on_step: Called after each step; returns whether to go on.

        Returns:
            Whether it came to its end.

        Raises:
            CollapseError: All images have come to look the same.
        """
        while (epoch := len(self.history)) < self.config.descent.epochs:
            start, first = time.perf_counter(), len(self._told)
            for _ in self._steps(epoch):
                goes_on = on_step()
                if not goes_on or self._saving.is_due():
                    with self._saving:
                        self.save(checkpoint_file, facts)
                if not goes_on:
                    return False
            steps, (loss, spread_) = len(self._told) - first, torch.stack(self._told).mean(0).tolist()
            elapsed_s = time.perf_counter() - start  # now that the device has finished
            result = PretrainEpoch(
                epoch=epoch,
                loss=loss,
                spread=spread_,
                recall=self.neighbour_recall() if self._looks_after(epoch) else None,
                images_per_s=steps * min(self.config.descent.batch_size, len(self._rows)) / elapsed_s,
            )
            self.history.append({name: value for name, value in asdict(result).items() if value is not None})
            self._told.clear()
            on_epoch(result)
            self._refuse_collapse(result)
        return True

    def _steps(self, epoch: int) -> Iterator[None]:
        """Takes the steps of an epoch that are left, one each time it is asked."""
        descent, done = self.config.descent, len(self._told)
        rng = np.random.default_rng(derive_seed(descent.seed, 0, epoch, PRETRAIN_ORDER))
        order = rng.permutation(self._rows)[done * descent.batch_size : self.steps * descent.batch_size]
        self.method.train()
        for step, batch in enumerate(self.source.batches(order, batch_size=descent.batch_size), start=done):
            views = [self._augmenter.view(batch.images, batch.rows, 2 * epoch + number) for number in (0, 1)]
            set_rate(self.optimizer, descent, learning_rate(descent, epoch + (step + 0.5) / self.steps, []))
            self._told.append(torch.stack(self._step(*views)))
            self.method.after_step((epoch + (step + 1) / self.steps) / descent.epochs)
            yield

    def _descend(self, first_BCHH: Tensor, second_BCHH: Tensor) -> tuple[Tensor, ...]:
        """One step of the optimiser; returns the loss and the spread of the features, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            loss, features_BF = self.method(first_BCHH, second_BCHH)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach().float(), spread(features_BF)

    def _looks_after(self, epoch: int) -> bool:
        every = -(-self.config.descent.epochs // _LOOKS)
        return (epoch + 1) % every == 0 or epoch + 1 == self.config.descent.epochs

    def neighbour_recall(self) -> float:
        """`core.collapse.neighbour_recall` of the labelled images, as they are."""
        self.method.eval()
        known, features = self.labelled, list[Tensor]()
        count = images_at_once(self.device, self.arch.image_size)
        with torch.no_grad(), progress("looking at neighbours", len(known.labels)) as bar:
            for batch in known.source.batches(np.arange(len(known.labels)), batch_size=count):
                with autocast(self.device):
                    features.append(self.method.embed(self._whole.eval_view(batch.images)).float())
                bar.advance(len(batch.rows))
        return neighbour_recall(torch.cat(features), known.labels, known.groups, known.num_classes)

    def _refuse_collapse(self, result: PretrainEpoch) -> None:
        if result.spread >= LEAST_SPREAD:  # NaN is not
            return
        raise CollapseError(
            f"Features must differ between images, with a spread of {LEAST_SPREAD} or more, but after "
            f"epoch {result.epoch + 1} it is {result.spread:.3f}: {self.config.method} has collapsed. "
            f"Give a lower --lr than {self.config.descent.lr:g}, a larger --batch-size, or --method vicreg."
        )

    def body(self) -> dict[str, Tensor]:
        """The backbone's tensors without its head, on the CPU, by their names in the timm model."""
        state = {name: tensor.detach().cpu() for name, tensor in self.method.backbone.state_dict().items()}
        return body_tensors(state, self.arch)

    def save(self, path: Path, facts: Mapping[str, str]) -> None:
        """Writes everything that the run needs to go on, aside and renamed."""
        tensors = {_METHOD + name: tensor for name, tensor in self.method.state_dict().items()}
        tensors |= {_OPTIMIZER + name: tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        if self._told:
            tensors[_TOLD] = torch.stack(self._told)
        state = {"history": json.dumps(self.history), "scaler": json.dumps(self.scaler.state_dict())}
        write_tensors(path, tensors, {**facts, **state})

    def resume(self, path: Path) -> None:
        """Goes on where `save` was called; the caller has compared its facts.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            tensors, metadata = read_tensors_with_metadata(path)
            history = json.loads(metadata["history"])
            if (misfit := find_misfit(history, [{str: NUMBER}])) or not len(history) < self.config.descent.epochs:
                raise ValueError(f"history: {misfit or len(history)}")
            told = tensors.pop(_TOLD, torch.empty(0, 2))
            if told.ndim != 2 or told.shape[1] != 2 or len(told) > self.steps:
                raise ValueError(f"steps of shape {list(told.shape)}")
            self.method.load_state_dict(_under(_METHOD, tensors))
            load_optimizer(self.optimizer, _under(_OPTIMIZER, tensors))
            self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        # Of a damaged file anything may be missing or of another kind.
        except (InputError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} must be the whole state of a pre-training, but it is damaged ({type(error).__name__}: "
                f"{shorten(one_line(str(error)))}). Remove it to start afresh."
            ) from error
        self.history, self._told = history, list(told.to(self.device))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
