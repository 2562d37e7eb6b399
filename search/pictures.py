"""The pictures of trials that the dashboard shows, drawn by a process of their own while the search goes on."""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import optuna
from optuna.artifacts import get_all_artifact_meta, upload_artifact

from core.artifacts import StudyFolder, TrialRecord
from core.files import written_aside
from core.metrics import confusion_matrix, correct_prior

CURVES, CONFUSION = "curves.png", "confusion.png"
_PATIENCE_S = 60.0  # half a second a picture; more means that the process hangs

_log = logging.getLogger(__name__)


class Drawing(NamedTuple):
    """What the pictures of a trial show.

    Attributes:
        history: One row an epoch.
        confusion_CC: Counts (C, C) of the best epoch; the row is the true class.
        classes: Class names.
    """

    history: list[dict[str, float]]
    confusion_CC: npt.NDArray[np.integer]
    classes: Sequence[str]


class Pictures:
    """Draws for one search.

    Optuna takes no artifact for a trial that is over, and drawing takes half a second, which a search on a GPU would
    wait for in every trial. So a trial is given its artifacts' names before it ends, and their files follow. Files that
    a process owed when it died are drawn by the next one.

    Args:
        folder: Optuna's artifact store; made if needed.
        truth_N: Class of each validation row.
        classes: Class names.
        beside: Whether a process of its own draws; else this one does, at once.
    """

    def __init__(
        self, folder: Path, truth_N: npt.NDArray[np.integer], classes: Sequence[str], *, beside: bool = True
    ) -> None:
        self._folder, self._truth_N, self._classes = folder, truth_N, classes
        folder.mkdir(exist_ok=True)
        # Spawned, since threads don't survive a fork; it starts with the first picture.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_belong_to_the_search) if beside else None
        self._owed: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def give(self, trial: optuna.Trial, record: TrialRecord) -> None:
        """Gives a trial its pictures, unless it has them."""
        if get_all_artifact_meta(trial):
            return
        names = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in (CURVES, CONFUSION):
                stub = Path(folder) / name
                stub.touch()
                names[name] = upload_artifact(artifact_store=_NoStore(), file_path=str(stub), study_or_trial=trial)
        self._draw(names, record)

    def draw_owed(self, study: optuna.Study, folder: StudyFolder) -> None:
        """Draws what a process owed when it died: pictures of finished trials that have a name and no file."""
        for trial in study.get_trials(deepcopy=False):
            metas = get_all_artifact_meta(trial, storage=study._storage)
            absent = any(not (self._folder / meta.artifact_id).is_file() for meta in metas)
            if trial.state.is_finished() and absent and folder.holds_trial(trial.number):
                names = {meta.filename: meta.artifact_id for meta in metas}
                self._draw(names, folder.read_trial(trial.number))

    def _draw(self, names: dict[str, str], record: TrialRecord) -> None:
        predictions_N = correct_prior(record.val_probs(), np.asarray(record.prior)).argmax(1)
        confusion_CC = confusion_matrix(self._truth_N, predictions_N, len(self._classes))
        drawing = Drawing(record.history(), confusion_CC, self._classes)
        if self._pool is None:
            draw(self._folder, names, drawing)
            return
        try:
            self._owed.append(self._pool.submit(draw, self._folder, names, drawing))
        except BrokenProcessPool:
            _log.warning("the process that draws pictures has died; the next search draws them")
        self._look_at([future for future in self._owed if future.done()])

    def _look_at(self, done: list[Future[None]]) -> None:
        """A trial without its pictures is still a trial."""
        for future in done:
            self._owed.remove(future)
            if (error := future.exception()) is not None:
                _log.warning("a picture could not be drawn (%s: %s); the next search tries again", type(error), error)

    def close(self) -> None:
        """Waits for the pictures that are owed, but not for ever."""
        if self._pool is None:
            return
        done, late = wait(self._owed, timeout=_PATIENCE_S)
        if late:
            _log.warning("%d trials wait for their pictures too long; the next search draws them", len(late))
            for process in list(self._pool._processes.values()):  # before 3.14 there is no public way
                process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._look_at(list(done))


class _NoStore:
    """Takes the name of an artifact whose file will follow."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Nothing is read from it."""
        raise NotImplementedError

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Writes nothing."""

    def remove(self, artifact_id: str) -> None:
        """Nothing is removed from it."""
        raise NotImplementedError


def draw(folder: Path, names: dict[str, str], drawing: Drawing) -> None:
    """Writes the pictures of a trial.

    Args:
        folder: Where to.
        names: File of each picture.
        drawing: What they show.
    """
    from core.plots import figure_png, plot_confusion, plot_curves

    figures = {CURVES: plot_curves(drawing.history), CONFUSION: plot_confusion(drawing.confusion_CC, drawing.classes)}
    for name, figure in figures.items():
        with written_aside(folder / names[name]) as aside:
            aside.write_bytes(figure_png(figure))


def _belong_to_the_search() -> None:
    """Ctrl-C goes to all processes of a terminal; the search decides when this one ends, at the latest with itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(search: Any) -> None:
    search.join()  # returns also if it was killed
    os._exit(1)
