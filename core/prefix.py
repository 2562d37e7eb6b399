"""What the part of a network that learns is fed: activations at the cut, once for each view where there is room.

Epoch e shows the same view of an image to every trial of a study, so the frozen part gives the same activation for it.
Remembering it changes time, never numbers (docs/decisions/0012).

Legend: N rows, B batch, S stored side, H side that the network sees.
"""

import functools
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from core.activations import Activations, Filling, Kind
from core.archs import Arch
from core.augment import Augmenter
from core.classifier import Classifier
from core.config import TrainConfig
from core.cut import Cut
from core.device import autocast, compute_dtype, cpu_name
from core.evaluation import EVAL_BATCH_SIZE
from core.sources import BatchSource

Rows = npt.NDArray[np.int64]

# The CPU's kernels sum in an order that depends on the number of images at once. Always the same number, and an
# activation doesn't depend on the batch that it was computed for. 16 is as fast as more, and divides usual batch sizes.
CPU_CHUNK = 16

# What turns pixels into activations; the modules are all imported from here.
_CODE = ("core.augment", "core.classifier", "core.cut", "core.device", __name__)


class Fed(NamedTuple):
    """A batch for the part that learns.

    Attributes:
        inputs: Activations at the cut (B, ...); without a cut, views (B, 3, H, H).
        labels: int64 (B,).
    """

    inputs: torch.Tensor
    labels: torch.Tensor


class Part:
    """A part of the data, whose activations are remembered together.

    Args:
        rows: All its rows, in any order.
        labels: int64, of every row of the manifest.
        device: Where labels are wanted.

    Attributes:
        rows: Sorted; the place of a row is its place here.
        labels: int64, by place.
        digest: Tells parts apart.
    """

    def __init__(self, rows: Rows, labels: Rows, device: torch.device) -> None:
        self.rows = np.unique(rows)
        self.labels = torch.from_numpy(labels[self.rows]).to(device)
        self.digest = hashlib.sha256(self.rows.tobytes()).hexdigest()[:32]


class Prefix:
    """Feeds the runs of one model, one after the other.

    Args:
        model: The model; it stays on its device.
        arch: Image size and normalisation.
        source: Gives images.
        pixels: Names what the source gives, for keys; empty remembers nothing.
        activations: Where they are remembered; None for nowhere.
    """

    def __init__(
        self, model: Classifier, arch: Arch, source: BatchSource, *, pixels: str, activations: Activations | None
    ) -> None:
        self._model, self._arch, self._source = model, arch, source
        self._pixels, self._activations = pixels, activations
        self._device = source.device
        self._augmenter = Augmenter(
            image_size=arch.image_size, mean=arch.mean, std=arch.std, seed=0, device=source.device
        )
        self._views = 1
        self._strength = 0.0
        self._remembers = False
        self._cut: Cut | None = None
        self._measured: dict[int, _Measured] = {}  # by depth
        self._hashes: dict[int, str] = {}

    def start(self, config: TrainConfig, *, remember: bool = True) -> None:
        """Prepares for a run; the model has its depth already.

        Args:
            config: Of the run.
            remember: Whether activations may be remembered, or be used if they are.
        """
        assert self._model.unfreeze_depth == config.unfreeze_depth, "the model has another depth"
        self._augmenter.seed = config.augment_seed
        self._augmenter.set_strength(config.augment_strength)
        self._views, self._strength = config.views or config.epochs, config.augment_strength
        self._remembers = remember and self._activations is not None and bool(self._pixels)
        self._cut = self._model.cut(self._arch.image_size)

    @property
    def remembers(self) -> bool:
        """Whether the run's activations may be remembered: where something is frozen, and there is a place for them."""
        return self._remembers and self._cut is not None

    def forget(self) -> bool:
        """Gives back the device's memory that activations take; whether there was any."""
        return self._activations is not None and self._activations.clear_memory()

    @property
    def held(self) -> int:
        """Bytes of the device's memory that activations take."""
        return 0 if self._activations is None else self._activations.held

    def classify(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of what `batches` gave."""
        if self._cut is None:
            return cast(torch.Tensor, self._model(inputs))
        return self._model.classify(self._cut.learning(inputs))

    def batches(self, part: Part, rows: Rows, *, epoch: int | None, batch_size: int) -> Iterator[Fed]:
        """Batches of `rows`, in that order, the last one maybe smaller.

        Args:
            part: What the rows are part of.
            rows: Which ones.
            epoch: Whose view is shown; None shows images as they are.
            batch_size: Images at a time.
        """
        assert np.isin(rows, part.rows).all(), "rows of another part"
        view = None if epoch is None else epoch % self._views
        if self._activations is None or not self.remembers:
            yield from self._compute(part, rows, view, batch_size)
            return
        key, kind = self._key(part, view), self._kind(part)
        if (remembered := self._activations.find(key, kind)) is not None:
            places = np.searchsorted(part.rows, rows)
            labels = part.labels.index_select(0, torch.from_numpy(places).to(self._device))
            start = 0
            for items in remembered.batches(places, batch_size):
                yield Fed(_unpack(items), labels[start : start + len(items)])
                start += len(items)
            return
        with self._activations.fill(key, kind) or nullcontext() as filling:
            yield from self._compute(part, rows, view, batch_size, filling)
            if filling is not None:  # An epoch may leave an image out.
                for _ in self._compute(part, part.rows[filling.missing], view, batch_size, filling):
                    pass

    def _compute(
        self, part: Part, rows: Rows, view: int | None, batch_size: int, filling: Filling | None = None
    ) -> Iterator[Fed]:
        places, start = np.searchsorted(part.rows, rows), 0
        for batch in self._source.batches(rows, batch_size=batch_size):
            inputs = self._activate(batch.images, batch.rows, view)
            if filling is not None:
                filling.put(places[start : start + len(inputs)], _pack(inputs))
            start += len(inputs)
            yield Fed(inputs, batch.labels)

    def _activate(self, images: torch.Tensor, rows: torch.Tensor, view: int | None) -> torch.Tensor:
        """What the learning part is fed of one batch (B, ...)."""
        if self._cut is None:
            return self._view(images, rows, view)
        size = CPU_CHUNK if self._device.type == "cpu" else len(images)
        outputs = []
        with torch.no_grad(), autocast(self._device):
            for start in range(0, len(images), size):
                chunk, chunk_rows = images[start : start + size], rows[start : start + size]
                count = len(chunk)
                if count < size:
                    again = torch.arange(size, device=self._device) % count
                    chunk, chunk_rows = chunk[again], chunk_rows[again]
                outputs.append(self._cut.frozen(self._view(chunk, chunk_rows, view))[:count])
        return _unpack(_pack(torch.cat(outputs)))

    def _view(self, images: torch.Tensor, rows: torch.Tensor, view: int | None) -> torch.Tensor:
        return self._augmenter.eval_view(images) if view is None else self._augmenter.train_view(images, rows, view)

    def _kind(self, part: Part) -> Kind:
        depth = self._model.unfreeze_depth
        if depth not in self._measured:
            self._measured[depth] = self._measure(part)
        measured = self._measured[depth]
        return Kind(
            rows=len(part.rows),
            item=measured.item,
            dtype=measured.dtype,
            saved_s=measured.seconds_per_image * len(part.rows),
        )

    def _measure(self, part: Part) -> "_Measured":
        """Computes a few activations, twice, because kernels choose their algorithms on first use."""
        count = CPU_CHUNK if self._device.type == "cpu" else EVAL_BATCH_SIZE  # fewer would measure a GPU's launches
        batch = next(self._source.batches(part.rows[:count], batch_size=count))
        for _ in range(2):
            start = time.perf_counter()
            inputs = self._activate(batch.images, batch.rows, 0)
            inputs.flatten()[:1].cpu()  # a GPU has finished, too
            elapsed_s = time.perf_counter() - start
        return _Measured(tuple(_pack(inputs).shape[1:]), inputs.dtype, elapsed_s / len(inputs))

    def _key(self, part: Part, view: int | None) -> str:
        """Names the activations of a part in a view: it differs wherever they might."""
        depth = self._model.unfreeze_depth
        if depth not in self._hashes:
            self._hashes[depth] = self._model.frozen_hash()
        shown = [] if view is None else [self._augmenter.seed, self._strength, view]
        facts: list[object] = [_code(), machine_kind(self._device), str(compute_dtype(self._device))]
        facts += [self._arch.timm_name, self._arch.image_size]
        facts += [self._arch.mean, self._arch.std, self._hashes[depth], depth, self._pixels, part.digest, shown]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class _Measured(NamedTuple):
    item: tuple[int, ...]  # shape of one activation, as packed
    dtype: torch.dtype
    seconds_per_image: float


def machine_kind(device: torch.device) -> str:
    """What besides its inputs decides the last bits of an activation."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda} {cudnn}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{device.type} {platform.machine()} {cpu_name()} {capability} {torch.get_num_threads()}"


@functools.cache
def _code() -> str:
    """Hash of the code that makes activations, ours and theirs."""
    digest = hashlib.sha256(f"{torch.__version__} {version('timm')}".encode())
    for name in _CODE:
        digest.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return digest.hexdigest()


def _pack(activations: torch.Tensor) -> torch.Tensor:
    """As they are remembered: channels, if they have places in an image, come last."""
    return (activations.permute(0, 2, 3, 1) if activations.ndim == 4 else activations).contiguous()


def _unpack(items: torch.Tensor) -> torch.Tensor:
    """The inverse of `_pack`; kernels see the same memory layout, remembered or not."""
    return items.permute(0, 3, 1, 2) if items.ndim == 4 else items
