"""A search as a competent user writes it with timm, torchvision, a DataLoader and Optuna: the opponent of `search.run`.

Every trial has a new model, a new optimiser and new loaders, whose workers live through its epochs. The network, its
first weights, the space, the sampler, the pruner and the way a trial is judged are those of `search.run`, so that what
differs is the work that is repeated.

Legend: N examples, C classes.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.trial import TrialState

from benchmarks.plain import PlainImages, normalise, plain_loader
from benchmarks.setup import Task
from core.backbones import build_classifier
from core.config import TrainConfig
from core.device import autocast
from core.evaluation import EVAL_BATCH_SIZE, evaluate
from core.losses import build_criterion, image_weights
from core.optim import parameter_groups
from core.priors import learned_prior
from core.seeds import SAMPLER, Rows, derive_seed
from search.samplers import build_pruner, build_sampler
from search.space import Space

Loader = Any


@dataclass(frozen=True, kw_only=True)
class PlainTrial:
    """What one trial gave.

    Attributes:
        number: Its number.
        params: Its parameters.
        recalls: Validation recall of each epoch that ran, as `search.run` judges.
        ended_s: When it was over, seconds since the search began.
    """

    number: int
    params: dict[str, Any]
    recalls: list[float]
    ended_s: float


class PlainTrainer:
    """Trains configs one after the other, each from nothing.

    Args:
        task: Backbone and images.
        device: Where to compute.
        workers: Processes that decode; one set for each loader.
        reflect: As for `random_transforms`: for recall, and not where seconds alone are compared.
    """

    def __init__(self, task: Task, device: torch.device, *, workers: int, reflect: bool = False) -> None:
        self.task, self.device, self.workers, self.reflect = task, device, workers, reflect

    def train(
        self, config: TrainConfig, on_epoch: Callable[[int, float], bool] = lambda epoch, recall: False
    ) -> list[float]:
        """Trains to the last epoch, or until `on_epoch` says that it is enough; returns the recall of each epoch."""
        task, labels = self.task, self.task.manifest.labels
        num_classes = len(task.manifest.classes)
        torch.manual_seed(config.seed)
        model = build_classifier(task.arch, num_classes=num_classes, weights=task.weights, seed=config.seed)
        model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.set_drop_rate(config.drop_rate)
        model.set_unfreeze_depth(config.unfreeze_depth)
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr, fused=True)
        counts_C = np.bincount(labels[task.split.train], minlength=num_classes)
        criterion = build_criterion(config, counts_C, self.device)
        steps = -(-len(task.split.train) // config.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(config, steps))
        recalls = []
        with (
            self._loader(task.split.train, config.batch_size, config.augment_strength, shuffle=True) as train,
            self._loader(task.split.val, EVAL_BATCH_SIZE, 0.0, shuffle=False) as val,
        ):
            for epoch in range(config.epochs):
                labels_N, probs_NC = self._train_epoch(model, train, optimizer, schedule, criterion)
                half = len(labels_N) // 2
                prior_C = learned_prior(config, probs_NC[half:], image_weights(config, counts_C, labels_N[half:]))
                val_probs_NC = self._predict(model, val)
                recall = evaluate(labels[task.split.val], val_probs_NC, prior_C).recall
                recalls.append(recall)
                if on_epoch(epoch, recall):
                    break
        return recalls

    def _train_epoch(
        self, model: Any, loader: Loader, optimizer: torch.optim.Optimizer, schedule: Any, criterion: Any
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """One epoch; returns labels (N,) and what was said before each step (N, C), in its order."""
        model.train()
        seen, probs = [], []
        for images, labels in loader:
            labels = labels.to(self.device, non_blocking=True)
            with autocast(self.device):
                logits = model(self._normalised(images))
            loss = criterion(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            seen.append(labels)
            probs.append(logits.detach().float().softmax(1))
        return torch.cat(seen).cpu().numpy(), torch.cat(probs).cpu().numpy()

    @torch.inference_mode()
    def _predict(self, model: Any, loader: Loader) -> npt.NDArray[np.float32]:
        model.eval()
        probs = []
        for images, _ in loader:
            with autocast(self.device):
                probs.append(model(self._normalised(images)).float().softmax(1))
        return np.asarray(torch.cat(probs).cpu().numpy())

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        return normalise(images.to(self.device, non_blocking=True), self.task.arch.mean, self.task.arch.std)

    @contextmanager
    def _loader(self, rows: Rows, batch_size: int, strength: float, *, shuffle: bool) -> Iterator[Loader]:
        manifest = self.task.manifest
        loader = plain_loader(
            PlainImages(
                [manifest.file(row) for row in rows],
                manifest.labels[rows].tolist(),
                image_size=self.task.arch.image_size,
                framing=self.task.arch.framing,
                augment_strength=strength,
                reflect=self.reflect,
            ),
            batch_size=batch_size,
            workers=self.workers,
            shuffle=shuffle,
            pin_memory=self.device.type == "cuda",
            start="fork",
        )
        try:
            yield loader
        finally:
            iterator: Any = loader._iterator  # there is no public way to end persistent workers
            if iterator is not None:
                iterator._shutdown_workers()


def _cosine(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step."""

    def factor(step: int) -> float:
        progress = (step + 0.5) / steps
        if progress < config.warmup_epochs:
            return progress / config.warmup_epochs
        return 0.5 * (
            1 + math.cos(math.pi * (progress - config.warmup_epochs) / (config.epochs - config.warmup_epochs))
        )

    return factor


def plain_search(
    trainer: PlainTrainer, space: Space, *, n_trials: int, epochs: int, patience: int, seed: int, pruner: str
) -> list[PlainTrial]:
    """Searches with Optuna, in memory; the first trial is the space's known-good one, as in `search.run`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=build_pruner(pruner, epochs=epochs))
    study.enqueue_trial(space.known_good)
    begin = time.perf_counter()
    trials = []
    for number in range(n_trials):
        # As in `search.session`, so that both sides draw the same trials at first.
        study.sampler = build_sampler("tpe", space.distributions, seed=derive_seed(seed, SAMPLER, number) % 2**32)
        trial = study.ask(space.distributions)
        config = trainer.task.config(epochs, **trial.params, trial=number)
        judge = _Judge(trial, epochs=epochs, patience=patience)
        recalls = trainer.train(config, judge)
        study.tell(trial, None if judge.pruned else max(recalls), state=TrialState.PRUNED if judge.pruned else None)
        ended_s = time.perf_counter() - begin
        trials.append(PlainTrial(number=number, params=trial.params, recalls=recalls, ended_s=ended_s))
    return trials


class _Judge:
    """Reports epochs to Optuna, and ends a trial as `search.run` does."""

    def __init__(self, trial: optuna.Trial, *, epochs: int, patience: int) -> None:
        self._trial, self._epochs, self._patience = trial, epochs, patience
        self._best, self._best_epoch = -1.0, 0
        self.pruned = False

    def __call__(self, epoch: int, recall: float) -> bool:
        self._trial.report(recall, step=epoch)
        if recall > self._best:
            self._best, self._best_epoch = recall, epoch
        if epoch + 1 == self._epochs:
            return False
        self.pruned = self._trial.should_prune()
        return self.pruned or 0 < self._patience <= epoch - self._best_epoch
