"""Trained trials as classifiers of images.

Shapes: V views, M members, N images, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from core.archs import Arch, resolve_arch
from core.augment import Augmenter
from core.backbones import build_classifier
from core.classifier import Classifier
from core.cli import progress
from core.device import autocast, compute_dtype, keep_freed_memory, resolve_device
from core.errors import InputError
from core.evaluation import EVAL_BATCH_SIZE, predict_views
from core.files import read_tensors
from core.framing import Frame
from core.loaders import BatchSource, open_files, open_source
from core.manifest import Manifest
from ensemble.decision import pool
from ensemble.spec import EnsembleSpec, MemberSpec
from ensemble.voting import SoftVotingEnsemble

Rows = npt.NDArray[np.int64]


class ImageSet:
    """Images for members that see them in different frames; what has been opened in one serves all of that one.

    Args:
        rows: Rows of the images, in the order of every result.
        open_in: Opens them in a frame, on a device.
    """

    def __init__(self, rows: Rows, open_in: Callable[[Frame, torch.device], BatchSource]) -> None:
        self.rows = rows
        self._open_in = open_in
        self._sources: dict[tuple[Frame, torch.device], BatchSource] = {}

    @classmethod
    def of_files(cls, paths: Sequence[str | Path]) -> Self:
        """New images, by their files."""
        files = [Path(path) for path in paths]
        return cls(
            np.arange(len(files), dtype=np.int64),
            lambda frame, device: open_files(files, frame=frame, device=device),
        )

    @classmethod
    def of_manifest(cls, manifest: Manifest, rows: Rows, *, kind: str = "auto") -> Self:
        """Some rows of a manifest; `kind` is the kind of source, see `core.loaders.open_source`."""
        return cls(
            rows,
            lambda frame, device: open_source(manifest, frame=frame, rows=rows, device=device, kind=kind),
        )

    def source(self, frame: Frame, device: torch.device) -> BatchSource:
        """The images in a frame, on a device."""
        key = (frame, device)
        if key not in self._sources:
            self._sources[key] = self._open_in(frame, device)
        return self._sources[key]

    def open(self, frames: Iterable[Frame], device: str) -> None:
        """Opens them in all frames that they will be asked for in, so that nothing is refused after work has begun.

        Args:
            frames: What models see.
            device: Name of the device to compute on.
        """
        for frame in frames:
            self.source(frame, resolve_device(device))

    def finest(self) -> BatchSource:
        """The images at the largest size at which they have been opened."""
        return self._sources[max(self._sources, key=lambda key: key[0])]

    def close(self) -> None:
        """Closes whatever has been opened."""
        while self._sources:
            self._sources.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TrialClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """A trained trial that behaves like a scikit-learn classifier of images.

    Args:
        weights_files: State dicts of its networks, safetensors: one, or those of its runs over folds, which are
            pooled (`ensemble.decision.pool`).
        priors: The class frequencies that each network learned; needed of several only.
        arch: Its architecture, with size and normalisation.
        classes: Class names, the order of its outputs.
        device: Name of the device to compute on, see `core.device.resolve_device`.
        batch_size: Images at a time; changes memory and time only.
        views: How many views of an image are averaged, see `core.evaluation.predict_views`.

    Attributes:
        classes_: Class names (C,).
        models_: The networks, on the device, for evaluation alone.
    """

    def __init__(
        self,
        weights_files: Sequence[Path],
        arch: Arch,
        classes: Sequence[str],
        *,
        priors: Sequence[Sequence[float]] = (),
        device: str = "auto",
        batch_size: int = EVAL_BATCH_SIZE,
        views: int = 1,
    ) -> None:
        self.weights_files = weights_files
        self.arch = arch
        self.classes = classes
        self.priors = priors
        self.device = device
        self.batch_size = batch_size
        self.views = views

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Loads the weights; the learning happened in the search, so that `X` and `y` are not looked at.

        Raises:
            InputError: timm has no such architecture, or the weights' file is missing, damaged or another model's.
        """
        resolve_arch(self.arch.timm_name)  # timm's own error for a name that it doesn't know is not for people
        self.device_ = resolve_device(self.device)
        keep_freed_memory(self.device_)
        self.models_ = [self._load(Path(file)) for file in self.weights_files]
        self.classes_ = np.asarray(self.classes)
        return self

    def _load(self, file: Path) -> nn.Module:
        model = load_network(file, self.arch, num_classes=len(self.classes), device=self.device_)
        with torch.inference_mode(), autocast(self.device_):
            grey = torch.zeros(1, 3, self.arch.image_size, self.arch.image_size, device=self.device_)
            self._check_numbers(model.eval()(grey).float().cpu().numpy(), file)  # NumPy has no bf16
        # In half precision folded weights would be rounded to other numbers than those that were judged.
        folds = compute_dtype(self.device_) == torch.float32
        return model.folded(self.arch.image_size) if folds else model

    def _check_numbers(self, told: npt.NDArray[np.float32], file: Path) -> None:
        """NaN would be the first class wherever a maximum is taken."""
        if not np.isfinite(told).all():
            half = " or overflow in half precision, which --device cpu doesn't" if self.device_.type == "cuda" else ""
            raise InputError(
                f"A member must believe something of every image, but {file} gives what is no number: its weights are "
                f"damaged{half}. Build the ensemble anew."
            )

    def predict_proba(self, X: ImageSet | Sequence[str | Path]) -> npt.NDArray[np.float64]:
        """Softmax probabilities, uncorrected (N, C), of an `ImageSet` or of paths to files: the mean of all views."""
        mean_NC: npt.NDArray[np.float64] = self.predict_views(X).mean(axis=0, dtype=np.float64)
        return mean_NC

    def predict_views(self, X: ImageSet | Sequence[str | Path]) -> npt.NDArray[np.float32]:
        """As `predict_proba`, of each view by itself (V, N, C); the first is of the images as they are."""
        check_is_fitted(self)
        if not isinstance(X, ImageSet):
            with ImageSet.of_files(X) as images:
                return self.predict_views(images)
        source = X.source(self.arch.frame, self.device_)
        augmenter = Augmenter(
            image_size=self.arch.image_size, mean=self.arch.mean, std=self.arch.std, seed=0, device=self.device_
        )
        told_KVNC = []
        with progress(f"classifying with {self.arch.name}", len(X.rows) * len(self.models_)) as bar:
            for model, file in zip(self.models_, self.weights_files, strict=True):
                told_VNC = predict_views(
                    model,
                    source,
                    X.rows,
                    augmenter=augmenter,
                    views=self.views,
                    batch_size=self.batch_size,
                    on_batch=bar.advance,
                )
                self._check_numbers(told_VNC, Path(file))
                told_KVNC.append(told_VNC)
        if len(told_KVNC) == 1:
            return told_KVNC[0]
        pooled_VNC = [pool(np.stack(told_KNC), np.asarray(self.priors)) for told_KNC in zip(*told_KVNC, strict=True)]
        return np.asarray(pooled_VNC, np.float32)

    def predict(self, X: ImageSet | Sequence[str | Path]) -> npt.NDArray[Any]:
        """The class with the highest uncorrected probability (N,)."""
        predicted_N: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted_N


def load_network(file: Path, arch: Arch, *, num_classes: int, device: torch.device) -> Classifier:
    """A trained network on a device.

    Args:
        file: Its state dict, safetensors.
        arch: Its architecture.
        num_classes: How many classes it tells apart.
        device: Where it shall be.

    Raises:
        InputError: The file is missing, damaged or another model's.
    """
    if not file.is_file():
        raise InputError(f"A member's weights must exist, but {file} does not. Build the ensemble anew.")
    model = build_classifier(arch, num_classes=num_classes, weights=None, seed=0)
    try:
        model.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        raise InputError(
            f"{file} must hold the weights of {arch.timm_name} for {num_classes} classes, but its tensors don't fit. "
            "Use the versions that ensemble.json names, or build the ensemble anew."
        ) from error
    moved: Classifier = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def load_ensemble(folder: Path, *, device: str = "auto") -> SoftVotingEnsemble:
    """Loads what `ensemble.build` wrote, wherever the folder lies now.

    Args:
        folder: Holds `ensemble.json` and the members' weights.
        device: Name of the device to compute on.

    Raises:
        InputError: The folder holds no ensemble, a damaged one, or one of a newer version.
    """
    spec = EnsembleSpec.read(folder)
    return assemble(spec, [[folder / name for name in member.files] for member in spec.members], device=device)


def assemble(spec: EnsembleSpec, files: Sequence[Sequence[Path]], *, device: str = "auto") -> SoftVotingEnsemble:
    """Loads the members from the files of their weights, and puts them together as the spec says.

    Raises:
        InputError: A file is missing, damaged or another model's.
    """
    members = [
        (member.name, _classifier(spec, member, weights, device))
        for member, weights in zip(spec.members, files, strict=True)
    ]
    weights, priors = [member.weight for member in spec.members], [member.prior for member in spec.members]
    return SoftVotingEnsemble(members, weights=weights, priors=priors, rule=spec.rule).fit()


def _classifier(spec: EnsembleSpec, member: MemberSpec, files: Sequence[Path], device: str) -> TrialClassifier:
    priors, views = member.network_priors, spec.rule.views
    return TrialClassifier(files, member.arch, spec.classes, priors=priors, device=device, views=views)


def view_probas(ensemble: SoftVotingEnsemble, images: ImageSet) -> npt.NDArray[np.float64]:
    """What each member believes of each view, uncorrected (V, M, N, C); the first view is of the images as they are."""
    told = [member.predict_views(images).astype(np.float64) for member in ensemble.estimators_]
    return np.stack(told, axis=1)
