"""What the part of a network that learns is fed: activations at the cut, once for each view where there is room.

Epoch e shows the same view of an image to every trial of a study, so the frozen part gives the same activation for it.
Remembering it changes time, never numbers; on a card up to rounding, as kernels may sum in another order for another
number of images (docs/decisions/0012).

Legend: N rows, B batch, S stored side, H side that the network sees.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.activations import Activations, Filling, Kind, Remembered
from core.archs import Arch
from core.augment import Augmenter
from core.classifier import Classifier
from core.config import TrainConfig
from core.cut import Cut
from core.device import autocast
from core.evaluation import EVAL_BATCH_SIZE
from core.machinery import machinery
from core.sources import BatchSource

Rows = npt.NDArray[np.int64]

# The CPU's kernels sum in an order that depends on the number of images at once. Always the same number, and an
# activation doesn't depend on the batch that it was computed for. 16 is as fast as more, and divides usual batch sizes.
CPU_CHUNK = 16

# What turns pixels into activations; the modules are all imported from here.
_CODE = ("core.augment", "core.classifier", "core.cut", "core.cuts", "core.device", __name__)


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
        arch: Image size, framing and normalisation.
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
        self._at_once = EVAL_BATCH_SIZE
        self._cut: Cut | None = None
        self._measured: dict[int, _Measured] = {}  # by depth
        self._hashes: dict[int, str] = {}

    def start(self, config: TrainConfig, *, remember: bool = True, at_once: int = EVAL_BATCH_SIZE) -> None:
        """Prepares for a run; the model has its depth already.

        Args:
            config: Of the run.
            remember: Whether activations may be remembered, or be used if they are.
            at_once: Images that memory has room for at once; of so many a card's time is measured.
        """
        assert self._model.unfreeze_depth == config.unfreeze_depth, "the model has another depth"
        self._augmenter.seed = config.augment_seed
        self._augmenter.set_strength(config.augment_strength)
        self._views, self._strength = config.views or config.epochs, config.augment_strength
        self._remembers = remember and self._activations is not None and bool(self._pixels)
        self._at_once = at_once
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

    def classify(self, inputs: torch.Tensor, drawn: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, C) of what `batches` gave; `drawn` as in `core.classifier.Classifier.classify`."""
        if self._cut is None:
            return cast(torch.Tensor, self._model(inputs, drawn))
        return self._model.classify(self._cut.learning(inputs), drawn)

    def pass_frozen(self, views: torch.Tensor) -> torch.Tensor:
        """What the learning part is fed of some views (B, 3, H, H); nothing is remembered of them."""
        return views if self._cut is None else self._in_chunks(self._cut.frozen, views)

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
        depth = self._model.unfreeze_depth
        key, kind = self._key(part, view, depth), self._kind(part, self._measured_at(part, depth))
        if (remembered := self._activations.find(key, kind)) is not None:
            yield from self._read(remembered, part, rows, batch_size)
            return
        with self._activations.fill(key, kind) or nullcontext() as filling:
            yield from self._compute(part, rows, view, batch_size, filling)
            if filling is not None and len(missing := filling.missing):  # an epoch may leave an image out
                for _ in self._compute(part, part.rows[missing], view, batch_size, filling):
                    pass

    def _read(self, remembered: Remembered, part: Part, rows: Rows, batch_size: int) -> Iterator[Fed]:
        places, start = np.searchsorted(part.rows, rows), 0
        labels = part.labels.index_select(0, torch.from_numpy(places).to(self._device))
        for items in remembered.batches(places, batch_size):
            yield Fed(_unpack(items), labels[start : start + len(items)])
            start += len(items)

    def _compute(
        self, part: Part, rows: Rows, view: int | None, batch_size: int, filling: Filling | None = None
    ) -> Iterator[Fed]:
        places, start = np.searchsorted(part.rows, rows), 0
        # A card launches as much for one batch as for several.
        several = max(1, self._at_once // batch_size) if self._device.type == "cuda" else 1
        for fed in self._activate(part, rows, view, several * batch_size):
            if filling is not None:
                filling.put(places[start : start + len(fed.inputs)], _pack(fed.inputs))
            start += len(fed.inputs)
            yield from map(Fed, torch.split(fed.inputs, batch_size), torch.split(fed.labels, batch_size))

    def _activate(self, part: Part, rows: Rows, view: int | None, batch_size: int) -> Iterator[Fed]:
        """Batches that are computed, from images or from what is remembered of an earlier cut."""
        if (base := self._base(part, view)) is None:
            for batch in self._source.batches(rows, batch_size=batch_size):
                yield Fed(self._from_images(batch.images, batch.rows, view), batch.labels)
            return
        remembered, way = base
        for fed in self._read(remembered, part, rows, batch_size):
            yield Fed(self._in_chunks(way, fed.inputs), fed.labels)

    def _base(self, part: Part, view: int | None) -> tuple[Remembered, nn.Module] | None:
        """What is remembered of the nearest cut before this one, and what leads from there to here."""
        if self._activations is None or not self.remembers:
            return None
        for depth in range(self._model.unfreeze_depth + 1, self._model.max_unfreeze_depth):
            if (measured := self._measured.get(depth)) is None:  # no run of this process has been there
                continue
            remembered = self._activations.find(self._key(part, view, depth), self._kind(part, measured))
            if remembered is not None and (way := self._model.way(depth, self._arch.image_size)) is not None:
                return remembered, way
        return None

    def _from_images(self, images: torch.Tensor, rows: torch.Tensor, view: int | None) -> torch.Tensor:
        """What the learning part is fed of one batch (B, ...)."""
        if self._cut is None:
            return self._view(images, rows, view)
        frozen = self._cut.frozen
        return self._in_chunks(lambda images, rows: frozen(self._view(images, rows, view)), images, rows)

    def _in_chunks(self, compute: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """What frozen modules make of tensors of B rows each, always for the same number of rows at once on the CPU."""
        count = len(inputs[0])
        size = CPU_CHUNK if self._device.type == "cpu" else count
        outputs = []
        with torch.no_grad(), autocast(self._device):
            for start in range(0, count, size):
                chunk = [each[start : start + size] for each in inputs]
                left = len(chunk[0])
                if left < size:
                    again = torch.arange(size, device=self._device) % left
                    chunk = [each[again] for each in chunk]
                outputs.append(compute(*chunk)[:left])
        return _unpack(_pack(torch.cat(outputs)))

    def _view(self, images: torch.Tensor, rows: torch.Tensor, view: int | None) -> torch.Tensor:
        return self._augmenter.eval_view(images) if view is None else self._augmenter.train_view(images, rows, view)

    def _kind(self, part: Part, measured: "_Measured") -> Kind:
        return Kind(
            rows=len(part.rows),
            item=measured.item,
            dtype=measured.dtype,
            saved_s=measured.seconds_per_image * len(part.rows),
        )

    def _measured_at(self, part: Part, depth: int) -> "_Measured":
        if depth not in self._measured:
            self._measured[depth] = self._measure(part)
        return self._measured[depth]

    def _measure(self, part: Part) -> "_Measured":
        """Computes a few activations, twice, because kernels choose their algorithms on first use."""
        count = CPU_CHUNK if self._device.type == "cpu" else self._at_once  # fewer would measure a GPU's launches
        batch = next(self._source.batches(part.rows[:count], batch_size=count))
        for _ in range(2):
            start = time.perf_counter()
            inputs = self._from_images(batch.images, batch.rows, 0)
            inputs.flatten()[:1].cpu()  # a GPU has finished, too
            elapsed_s = time.perf_counter() - start
        return _Measured(tuple(_pack(inputs).shape[1:]), inputs.dtype, elapsed_s / len(inputs))

    def _key(self, part: Part, view: int | None, depth: int) -> str:
        """Names the activations of a part in a view at the cut of a depth: it differs wherever they might."""
        if depth not in self._hashes:
            self._hashes[depth] = self._model.frozen_hash(depth)
        shown = [] if view is None else [self._augmenter.seed, self._strength, view]
        facts: list[object] = [*machinery(self._device, _CODE)]
        facts += [self._arch.timm_name, self._arch.image_size, self._arch.framing]
        facts += [self._arch.mean, self._arch.std, self._hashes[depth], depth, self._pixels, part.digest, shown]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class _Measured(NamedTuple):
    item: tuple[int, ...]  # shape of one activation, as packed
    dtype: torch.dtype
    seconds_per_image: float


def _pack(activations: torch.Tensor) -> torch.Tensor:
    """As they are remembered: channels, if they have places in an image, come last."""
    return (activations.permute(0, 2, 3, 1) if activations.ndim == 4 else activations).contiguous()


def _unpack(items: torch.Tensor) -> torch.Tensor:
    """The inverse of `_pack`; kernels see the same memory layout, remembered or not."""
    return items.permute(0, 3, 1, 2) if items.ndim == 4 else items
