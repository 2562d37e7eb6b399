"""The three sources give the same batches, and FFCV 1.0.2's traps stay shut."""

import logging
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import loaders
from core.beton import HAVE_FFCV
from core.budget import Budget
from core.cache import cache_folder
from core.errors import InputError
from core.framing import Frame
from core.images import load_image
from core.loaders import Batch, BatchSource, decode_ahead, open_files, open_source
from core.manifest import Manifest
from core.sources import MappedSource, ResidentSource, TorchSource

CPU = torch.device("cpu")
COUNT = 100  # 64 + 36, and 3 * 33 + 1
FRAME = Frame.of(64, "whole")
SMALL_FRAME = Frame(24, "whole")
SURFACES_S = 10.0  # an error must be told within this time of its fault

needs_ffcv = pytest.mark.skipif(not HAVE_FFCV, reason="ffcv cannot be imported here")
each_source = pytest.mark.parametrize("kind", ["resident", "torch", pytest.param("ffcv", marks=needs_ffcv)])


@pytest.fixture(scope="module")
def manifest(hundred_images: Manifest) -> Manifest:
    return hundred_images


@pytest.fixture(scope="module")
def opened(manifest: Manifest) -> Iterator[dict[str, BatchSource]]:
    """One source of each kind over all rows, for all tests: FFCV compiles for seconds."""
    kinds = ["resident", "torch", *(["ffcv"] if HAVE_FFCV else [])]
    rows = np.arange(COUNT)
    sources = {kind: open_source(manifest, frame=FRAME, rows=rows, device=CPU, kind=kind) for kind in kinds}
    yield sources
    for source in sources.values():
        source.close()


@pytest.fixture
def source(opened: dict[str, BatchSource], kind: str) -> BatchSource:
    return opened[kind]


@pytest.fixture
def ffcv_source(opened: dict[str, BatchSource]) -> Any:
    return opened["ffcv"]


@pytest.fixture
def torch_threads() -> Iterator[int]:
    """A number of torch threads that nobody would choose by chance."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(COUNT)


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))


@each_source
def test_pixels_are_exactly_those_of_load_image(source: BatchSource, manifest: Manifest) -> None:
    batch = joined(list(source.batches(order(0), batch_size=33)))
    for image, row in zip(batch.images, batch.rows, strict=True):
        expected = load_image(manifest.file(int(row)), FRAME)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@each_source
def test_whole_epoch_has_every_row_once_in_order_with_its_label(source: BatchSource, manifest: Manifest) -> None:
    for epoch in range(2):
        batch = joined(list(source.batches(order(epoch), batch_size=7)))
        np.testing.assert_array_equal(batch.rows, order(epoch))
        np.testing.assert_array_equal(batch.labels, manifest.labels[order(epoch)])


@each_source
def test_held_batches_stay_right(source: BatchSource, manifest: Manifest) -> None:
    held, copies = [], []
    for batch in source.batches(order(1), batch_size=8):
        held.append(batch)
        copies.append(Batch(*(tensor.clone() for tensor in batch)))
    list(source.batches(order(2), batch_size=8))
    for kept, copy in zip(joined(held), joined(copies), strict=True):
        assert torch.equal(kept, copy)
    np.testing.assert_array_equal(joined(held).labels, manifest.labels[order(1)])


@each_source
@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [64, 36]), (33, [33, 33, 33, 1]), (1000, [100])])
def test_last_batch_is_smaller_and_never_dropped(source: BatchSource, batch_size: int, sizes: list[int]) -> None:
    batches = list(source.batches(order(3), batch_size=batch_size))
    side = FRAME.size
    assert source.frame == FRAME
    for batch, size in zip(batches, sizes, strict=True):
        assert batch.images.shape == (size, 3, side, side)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.shape == batch.rows.shape == (size,)
        assert batch.labels.dtype == batch.rows.dtype == torch.int64


@each_source
def test_no_rows_are_no_batches(source: BatchSource) -> None:
    assert list(source.batches(np.array([], dtype=np.int64), batch_size=4)) == []


@pytest.mark.parametrize("kind", ["resident", pytest.param("ffcv", marks=needs_ffcv)])
@settings(max_examples=15)
@given(rows=st.lists(st.integers(0, COUNT - 1), max_size=30), batch_size=st.integers(1, 40))
def test_any_order_and_batch_size_give_just_these_rows(
    opened: dict[str, BatchSource], manifest: Manifest, kind: str, rows: list[int], batch_size: int
) -> None:
    asked = np.array(rows, dtype=np.int64)
    batches = list(opened[kind].batches(asked, batch_size=batch_size))
    assert sum(len(batch.rows) for batch in batches) == len(rows)
    assert [row for batch in batches for row in batch.rows.tolist()] == rows
    assert [label for batch in batches for label in batch.labels.tolist()] == manifest.labels[asked].tolist()


@each_source
@pytest.mark.parametrize("stranger", [60, 99, COUNT, 10**9, -1])
def test_row_that_was_not_opened_is_refused_by_the_call(manifest: Manifest, kind: str, stranger: int) -> None:
    train = np.arange(60)
    with open_source(manifest, frame=FRAME, rows=train, device=CPU, kind=kind) as source:
        with pytest.raises(IndexError, match=rf"row {stranger} \(one of 1\) is not among the 60 rows"):
            source.batches(np.array([0, stranger, 5]), batch_size=2)
        assert len(list(source.batches(train, batch_size=60))) == 1


@each_source
def test_two_epochs_of_one_source_may_run_at_once(source: BatchSource, manifest: Manifest) -> None:
    pairs = list(zip(source.batches(order(4), batch_size=25), source.batches(order(5), batch_size=25), strict=True))
    for seed, batches in zip((4, 5), zip(*pairs, strict=True), strict=True):
        np.testing.assert_array_equal(joined(list(batches)).rows, order(seed))
        np.testing.assert_array_equal(joined(list(batches)).labels, manifest.labels[order(seed)])


@each_source
def test_source_draws_no_random_numbers_and_keeps_the_threads(source: BatchSource, torch_threads: int) -> None:
    before = torch.get_rng_state()
    list(source.batches(order(6), batch_size=50))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == torch_threads


@pytest.mark.parametrize(("kind", "written"), [("resident", ".npy"), pytest.param("ffcv", ".beton", marks=needs_ffcv)])
def test_what_is_decoded_ahead_is_what_the_source_reads(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, written: str
) -> None:
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path))
    decode_ahead(manifest, SMALL_FRAME, rows=np.arange(COUNT), device=CPU, kind=kind, memory=0)
    files = [file for file in cache_folder("pixels").iterdir() if not file.name.startswith(".")]
    assert [file.suffix for file in files] == [written]
    open_source(manifest, frame=SMALL_FRAME, rows=np.arange(COUNT), device=CPU, kind=kind).close()
    assert [file for file in cache_folder("pixels").iterdir() if not file.name.startswith(".")] == files


@each_source
def test_closed_source_refuses(manifest: Manifest, kind: str) -> None:
    source = open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU, kind=kind)
    source.close()
    source.close()
    with pytest.raises(RuntimeError, match=f"this {kind} source is closed"):
        source.batches(order(0), batch_size=4)


def test_resident_source_reads_its_own_rows_only(manifest: Manifest) -> None:
    class Recorder:
        asked: list[int] = []  # noqa: RUF012 - one instance

        def __getitem__(self, row: int, /) -> np.ndarray:
            self.asked.append(row)
            return np.full((4, 4, 3), row, dtype=np.uint8)

    recorder = Recorder()
    rows = np.array([70, 3, 41])
    with ResidentSource(recorder, manifest.labels, rows, frame=Frame(4, FRAME.framing), device=CPU) as source:
        batch = next(source.batches(rows, batch_size=3))
    assert sorted(recorder.asked) == [3, 41, 70]
    assert batch.images[:, 0, 0, 0].tolist() == [70, 3, 41]


# FFCV's traps.


@needs_ffcv
def test_error_inside_ffcv_surfaces(ffcv_source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**arguments: object) -> None:
        raise ZeroDivisionError("a fault in an operation")

    monkeypatch.setattr(ffcv_source._loader, "code", ([(broken, [])], []))
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="FFCV failed while reading") as caught:
        list(ffcv_source.batches(order(0), batch_size=10))
    assert time.monotonic() - started < SURFACES_S
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert threading.active_count() == threads


@needs_ffcv
def test_twenty_broken_off_epochs_leave_threads_and_memory_flat(ffcv_source: Any) -> None:
    def break_off(seed: int) -> None:
        batches = ffcv_source.batches(order(seed), batch_size=48)
        next(batches)
        batches.close()

    for seed in range(5):
        break_off(seed)
    threads, memory = threading.active_count(), psutil.Process().memory_info().rss
    for seed in range(20):
        break_off(seed)
    assert threading.active_count() == threads
    buffers = 4 * 48 * FRAME.size**2 * 3  # bytes of one epoch's
    assert psutil.Process().memory_info().rss - memory < 4 * buffers, "20 epochs' would be five times as much"


@needs_ffcv
def test_epoch_that_is_forgotten_ends_its_thread(ffcv_source: Any) -> None:
    threads = threading.active_count()
    next(iter(ffcv_source.batches(order(0), batch_size=5)))
    assert threading.active_count() == threads


@needs_ffcv
def test_closing_in_the_middle_of_an_epoch_ends_it_with_an_error(manifest: Manifest) -> None:
    source = open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU, kind="ffcv")
    threads = threading.active_count()
    batches = source.batches(order(0), batch_size=5)
    next(batches)
    source.close()
    assert threading.active_count() == threads
    with pytest.raises(RuntimeError, match="FFCV failed while reading") as caught:
        list(batches)
    assert "closed in the middle of an epoch" in str(caught.value.__cause__)


@needs_ffcv
def test_new_epochs_batch_sizes_and_sources_compile_nothing(ffcv_source: Any, manifest: Manifest) -> None:
    from numba.core import event

    list(ffcv_source.batches(order(0), batch_size=10))
    with event.install_recorder("numba:compile") as recorder:
        for batch_size in (1, 7, 64, 100):
            list(ffcv_source.batches(order(batch_size), batch_size=batch_size))
        with open_source(manifest, frame=FRAME, rows=np.arange(9), device=CPU, kind="ffcv") as other:
            list(other.batches(np.arange(9), batch_size=4))
    assert recorder.buffer == []


@needs_ffcv
def test_two_loaders_may_be_alive_at_once(
    ffcv_source: Any, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path(ffcv_source._loader.fname)
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path))
    shutil.copy(written, cache_folder(written.parent.name))  # Another path is another beton, hence another loader.
    with open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU, kind="ffcv") as other:
        assert isinstance(other, loaders.FfcvSource)
        assert other._loader is not ffcv_source._loader
        for seed in range(3):
            pairs = zip(
                ffcv_source.batches(order(seed), batch_size=9), other.batches(order(9), batch_size=9), strict=True
            )
            for batches in pairs:
                for batch in batches:
                    np.testing.assert_array_equal(batch.labels, manifest.labels[batch.rows])


CHILD = """
import numpy as np
import torch

def read(sender, manifest, frame):
    torch.set_num_threads(3)
    from core.loaders import open_source
    rows = np.arange(len(manifest))
    with open_source(manifest, frame=frame, rows=rows, device=torch.device("cpu"), kind="ffcv") as source:
        batches = list(source.batches(rows, batch_size=64))
    sender.send(([int(batch.images.sum()) for batch in batches], torch.get_num_threads()))
"""


@pytest.mark.slow
@needs_ffcv
def test_spawned_child_reads_the_same_and_keeps_its_threads(
    ffcv_source: Any, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    (tmp_path / "reading_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    read = importlib.import_module("reading_child").read
    context = multiprocessing.get_context("spawn")
    receiver: Connection
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read, args=(sender, manifest, FRAME))
    child.start()
    sender.close()
    sums, threads = receiver.recv()
    child.join()
    assert child.exitcode == 0
    assert sums == [int(batch.images.sum()) for batch in ffcv_source.batches(np.arange(COUNT), batch_size=64)]
    assert threads == 3


WITHOUT_FFCV = """
import sys
sys.modules["ffcv"] = None  # every import of it fails
import pickle
import numpy as np
import torch
from core.beton import HAVE_FFCV
from core.cache import cache_folder
from core.budget import Budget
from core.errors import InputError
from core.framing import Frame
from core.loaders import open_source

assert not HAVE_FFCV
with open(sys.argv[1], "rb") as file:
    manifest = pickle.load(file)
rows, cpu = np.arange(len(manifest)), torch.device("cpu")
sums, written = {}, set()
for kind in ("auto", "resident", "torch"):
    with open_source(manifest, frame=Frame.of(64, "whole"), rows=rows, device=cpu, kind=kind) as source:
        sums[kind] = [int(batch.images.sum()) for batch in source.batches(rows, batch_size=64)]
    written.add(tuple((p.name, p.stat().st_mtime_ns) for p in cache_folder("pixels").glob("*.npy")))
assert len(written) == 1 and len(written.pop()) == 1, "decoded once, into one file"
assert sums["auto"] == sums["resident"] == sums["torch"], sums
try:
    open_source(manifest, frame=Frame.of(64, "whole"), rows=rows, device=cpu, kind="ffcv")
except InputError as error:
    print(error)
print(sums["auto"])
"""


def test_everything_but_ffcv_works_without_ffcv(
    opened: dict[str, BatchSource], manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    (tmp_path / "manifest").write_bytes(pickle.dumps(manifest))
    monkeypatch.setenv("DERMATUNE_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", WITHOUT_FFCV, str(tmp_path / "manifest")]
    root = Path(loaders.__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal, sums = done.stdout.splitlines()
    assert refusal.startswith("`kind` must be resident or torch where ffcv cannot be imported, but got kind='ffcv'.")
    batches = opened["torch"].batches(np.arange(COUNT), batch_size=64)
    assert sums == str([int(batch.images.sum()) for batch in batches])


# The choice of a source.


def test_memory_decides_what_is_resident(manifest: Manifest) -> None:
    needed = COUNT * FRAME.size**2 * 3
    for memory, held in ((needed, needed), (needed - 1, 0)):
        rows = np.arange(COUNT)
        with open_source(manifest, frame=FRAME, rows=rows, device=CPU, memory=memory) as source:
            assert source.held == held


def test_the_cpu_gathers_from_pixels_that_all_processes_share(manifest: Manifest) -> None:
    pixels = np.arange(6 * 48, dtype=np.uint8).reshape(6, 4, 4, 3)
    rows = np.array([4, 1])
    with MappedSource(pixels, manifest.labels, rows, frame=Frame(4, FRAME.framing)) as source:
        (batch,) = source.batches(rows, batch_size=8)
        pixels[4] = 0
        assert batch.images[0].any(), "a batch belongs to whoever asked for it"
        np.testing.assert_array_equal(batch.images[1].permute(1, 2, 0), pixels[1])
        np.testing.assert_array_equal(batch.labels, manifest.labels[rows])
        with pytest.raises(IndexError, match="row 3 "):
            source.batches(np.array([3]), batch_size=8)


def test_auto_takes_resident_where_the_pixels_fit_two_fifths_of_the_free_memory(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = COUNT * FRAME.size**2 * 3
    monkeypatch.setattr(loaders, "free_memory", lambda device: int(needed / 0.4) + 1)
    with caplog.at_level(logging.INFO, logger="core.loaders"):
        with open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU) as source:
            assert source.name == "resident"
    assert "batches come from the resident source: 0.00 GB of pixels, 0.00 GB free on cpu" in caplog.text


def test_auto_streams_what_does_not_fit(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = COUNT * FRAME.size**2 * 3
    monkeypatch.setattr(loaders, "free_memory", lambda device: int(needed / 0.4) - 3)
    with caplog.at_level(logging.INFO, logger="core.loaders"):
        with open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU) as source:
            assert source.name == ("ffcv" if HAVE_FFCV else "torch")
        with open_source(manifest, frame=FRAME, rows=np.arange(COUNT // 2), device=CPU) as source:
            assert source.name == "resident", "what counts is the rows that were asked for"
    assert "GB may be used" in caplog.text


def test_resident_that_cannot_fit_is_refused(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "free_memory", lambda device: 1000)
    with pytest.raises(InputError, match=r"`kind` must be ffcv or torch where the pixels don't fit, but got"):
        open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU, kind="resident")


def test_unknown_kind_is_refused(manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"`kind` must be one of auto, resident, ffcv, torch, but got kind='dali'\."):
        open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=CPU, kind="dali")


# Files without a manifest, and the torch source's processes.


def test_new_files_have_their_place_as_row_and_no_label(manifest: Manifest) -> None:
    files = [manifest.file(row) for row in (5, 2, 9)]
    with open_files(files, frame=FRAME, device=CPU) as source:
        first, second = source.batches(np.arange(3), batch_size=2)
    assert first.labels.tolist() + second.labels.tolist() == [-1, -1, -1]
    assert first.rows.tolist() + second.rows.tolist() == [0, 1, 2]
    expected = load_image(files[2], FRAME)
    np.testing.assert_array_equal(second.images[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("share", [0.4, 0])
def test_new_files_give_equal_pixels_whether_kept_or_decoded_again(
    manifest: Manifest, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.loaders.MEMORY", Budget(name="--memory", share=share))
    files = [manifest.file(row) for row in (5, 2, 9)]
    with open_files(files, frame=FRAME, device=CPU) as source:
        (batch,) = source.batches(np.arange(3), batch_size=3)
    assert source.name == ("resident" if share else "torch")
    for place, file in enumerate(files):
        expected = load_image(file, FRAME)
        np.testing.assert_array_equal(batch.images[place].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("share", [0.4, 0])
def test_all_unreadable_new_files_are_named_when_they_are_opened(
    manifest: Manifest, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.loaders.MEMORY", Budget(name="--memory", share=share))
    cut, empty = tmp_path / "cut.jpg", tmp_path / "empty.jpg"
    cut.write_bytes(manifest.file(3).read_bytes()[:700])
    empty.write_bytes(b"")
    with pytest.raises(InputError, match=rf"2 of 3 are not: {cut} \(truncated\), {empty} \(empty file\)\."):
        open_files([cut, manifest.file(2), empty], frame=FRAME, device=CPU)


def test_workers_serve_broken_off_and_whole_epochs_name_a_bad_file_and_end(manifest: Manifest, tmp_path: Path) -> None:
    files = [manifest.file(row) for row in range(20)]
    files[13] = tmp_path / "broken.jpg"
    files[13].write_bytes(b"\xff\xd8 no more")
    labels, rows = manifest.labels[:20], np.arange(20)
    with TorchSource(files, labels, rows, frame=SMALL_FRAME, device=CPU, workers=2) as source:
        next(source.batches(rows[:13], batch_size=3))
        batch = joined(list(source.batches(rows[12::-1], batch_size=5)))
        np.testing.assert_array_equal(batch.rows, rows[12::-1])
        for image, row in zip(batch.images, batch.rows, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), load_image(files[int(row)], SMALL_FRAME))
        assert len(multiprocessing.active_children()) == 2, "the second epoch took the first one's workers"
        with pytest.raises(InputError, match=r"\A[^\n]*broken\.jpg[^\n]*\Z"):
            list(source.batches(rows, batch_size=4))
    assert multiprocessing.active_children() == []


@pytest.mark.gpu
@each_source
def test_sources_on_a_gpu_give_the_same_as_load_image(manifest: Manifest, kind: str) -> None:
    device = torch.device("cuda", 0)
    with open_source(manifest, frame=FRAME, rows=np.arange(COUNT), device=device, kind=kind) as source:
        for seed in range(3):
            held = joined(list(source.batches(order(seed), batch_size=8)))
            assert {tensor.device for tensor in held} == {device}
            np.testing.assert_array_equal(held.labels.cpu(), manifest.labels[order(seed)])
            for image, row in zip(held.images.cpu(), held.rows.cpu(), strict=True):
                expected = load_image(manifest.file(int(row)), FRAME)
                np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
