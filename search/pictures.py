"""The pictures of trials that the dashboard shows, drawn by a process of their own while the search goes on."""

import logging
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import optuna
from optuna.artifacts import ArtifactMeta, get_all_artifact_meta, upload_artifact

from core.artifacts import StudyFolder, TrialRecord
from core.errors import InputError
from core.files import written_aside
from core.metrics import confusion_matrix
from search.choosing import predict

CURVES, CONFUSION = "curves.png", "confusion.png"
_ARTIFACT_ID = re.compile(r"[0-9a-f-]{36}")  # as Optuna makes them; a name leads to a file
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
        drawer: Who draws: a process ``beside`` this one, this one ``here`` and at once, or another one ``elsewhere``.
    """

    def __init__(
        self,
        folder: Path,
        truth_N: npt.NDArray[np.integer],
        classes: Sequence[str],
        *,
        drawer: Literal["beside", "here", "elsewhere"] = "beside",
    ) -> None:
        self._folder, self._truth_N, self._classes, self._drawer = folder, truth_N, classes, drawer
        folder.mkdir(exist_ok=True)
        self._pool: ProcessPoolExecutor | None = None
        if drawer == "beside":
            # Spawned, since threads don't survive a fork; it starts with the first picture.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_belong_to_the_search)
        self._pending: list[Future[None]] = []
        self._seen: set[int] = set()  # trials that owe nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def draw_owed(self, study: optuna.Study, folder: StudyFolder) -> None:
        """Draws what other processes left to this one: pictures of finished trials that have a name and no file."""
        for trial in study.get_trials(deepcopy=False):
            if trial.number in self._seen or not trial.state.is_finished():
                continue
            self._seen.add(trial.number)
            names = names_of(get_all_artifact_meta(trial, storage=study._storage))
            if all((self._folder / name).is_file() for name in names.values()) or not folder.holds_trial(trial.number):
                continue
            try:
                self.draw(names, folder.read_trial(trial.number))
            except InputError as error:
                _log.warning("the pictures of trial %d can't be drawn: %s", trial.number, error)

    def draw(self, names: dict[str, str], record: TrialRecord) -> None:
        """Draws the pictures of a trial, or sees to it.

        Args:
            names: File of each.
            record: The trial.

        Raises:
            InputError: Its probabilities are damaged, or of other rows.
        """
        if self._drawer == "elsewhere":
            return
        predictions_N = predict(record, (len(self._truth_N), len(self._classes)))
        confusion_CC = confusion_matrix(self._truth_N, predictions_N, len(self._classes))
        drawing = Drawing(record.history(), confusion_CC, self._classes)
        if self._pool is None:
            draw_pictures(self._folder, names, drawing)
            return
        try:
            self._pending.append(self._pool.submit(draw_pictures, self._folder, names, drawing))
        except BrokenProcessPool:
            _log.warning("the process that draws pictures has died; the next search draws them")
        self._look_at([future for future in self._pending if future.done()])

    def _look_at(self, done: list[Future[None]]) -> None:
        """A trial without its pictures is still a trial."""
        for future in done:
            self._pending.remove(future)
            if (error := future.exception()) is not None:
                _log.warning(
                    "a picture could not be drawn (%s: %s); the next search tries again", type(error).__name__, error
                )

    def close(self) -> None:
        """Waits for the pictures that are owed, but not for ever."""
        if self._pool is None:
            return
        done, late = wait(self._pending, timeout=_PATIENCE_S)
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


def name_pictures(trial: optuna.Trial) -> dict[str, str]:
    """Gives a trial the names of its pictures, unless it has them; before it ends, and their files follow."""
    names = names_of(get_all_artifact_meta(trial))
    with tempfile.TemporaryDirectory() as folder:
        for name in {CURVES, CONFUSION} - names.keys():  # an owner before this one may have died halfway
            stub = Path(folder) / name
            stub.touch()
            names[name] = upload_artifact(artifact_store=_NoStore(), file_path=str(stub), study_or_trial=trial)
    return names


def names_of(metas: Sequence[ArtifactMeta]) -> dict[str, str]:
    """The file of each of our pictures that a trial has a name for; people may have added others in the dashboard."""
    ours = [meta for meta in metas if meta.filename in (CURVES, CONFUSION) and _ARTIFACT_ID.fullmatch(meta.artifact_id)]
    return {meta.filename: meta.artifact_id for meta in ours}


def draw_pictures(folder: Path, names: dict[str, str], drawing: Drawing) -> None:
    """Writes the pictures of a trial.

    Args:
        folder: Where to.
        names: File of each picture.
        drawing: What they show.
    """
    from core.plots import figure_png, plot_confusion, plot_curves

    figures = {CURVES: plot_curves(drawing.history), CONFUSION: plot_confusion(drawing.confusion_CC, drawing.classes)}
    for name in names:
        figure = figures[name]
        with written_aside(folder / names[name]) as aside:
            aside.write_bytes(figure_png(figure))


def _belong_to_the_search() -> None:
    """Ctrl-C goes to all processes of a terminal; the search decides when this one ends, at the latest with itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(search: Any) -> None:
    search.join()  # returns also if it was killed
    os._exit(1)
