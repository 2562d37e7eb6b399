"""An exported ensemble as a classifier of image files, by onnxruntime on the CPU. No torch here.

Shapes: N images, S stored side, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import cli
from core.errors import InputError
from core.framing import Frame
from core.inspection import refuse_unreadable
from core.pixels import decode_in_order
from ensemble.export_card import KEY, OUTPUT, ExportCard
from ensemble.onnx_session import open_session, require, telling_damage

_BATCH = 32  # images at a time; changes memory and time only


class ExportedEnsemble:
    """What `ensemble.export` wrote.

    Args:
        path: The ONNX file.
        threads: How many compute; by default as many as this process has cores.

    Attributes:
        card: What it is.

    Raises:
        InputError: onnxruntime is not installed, or the file is damaged, of a newer version or somebody else's.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if not path.is_file():
            raise InputError(f"`ensemble` must exist, but {path} does not. Check the path.")
        require(["onnxruntime"], what=f"`ensemble` {path}")
        self._path, self._session = path, open_session(path, threads=threads)
        self.card = ExportCard.parse(_metadata(self._session, path).get(KEY), where=str(path))
        with telling_damage(path):
            _check_interface(self._session, self.card, path)

    def predict_proba(self, files: Sequence[Path]) -> npt.NDArray[np.float64]:
        """Probabilities (N, C) of image files, in the order of the card's classes.

        Raises:
            InputError: Some can't be decoded; all of them are named.
        """
        if len(files) > _BATCH:  # else the last of ten thousand could undo the work of all
            refuse_unreadable(files, among=len(files))
        told = []
        with cli.progress("classifying", len(files)) as bar:
            for start in range(0, len(files), _BATCH):
                part = files[start : start + _BATCH]
                told.append(self.run({one.name: _decode(part, one.frame, files) for one in self.card.inputs}))
                bar.advance(len(part))
        return np.concatenate(told)

    def run(self, pixels: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
        """Probabilities (N, C), rows summing to 1, of decoded images (N, S, S, 3) by the names of inputs."""
        with telling_damage(self._path):  # some damage shows only here
            (probs_NC,) = self._session.run([OUTPUT], dict(pixels))
        wide_NC = np.asarray(probs_NC, np.float64)
        if not np.isfinite(wide_NC).all():  # NaN would be the first class wherever a maximum is taken
            raise InputError(
                f"{self._path} must give a probability for every class, but gives what is no number. "
                "Export the ensemble anew."
            )
        scaled_NC: npt.NDArray[np.float64] = wide_NC / wide_NC.sum(axis=1, keepdims=True)
        return scaled_NC


def _decode(part: Sequence[Path], frame: Frame, among: Sequence[Path]) -> npt.NDArray[np.uint8]:
    try:
        return np.stack(list(decode_in_order(part, frame)))
    except InputError:
        refuse_unreadable(among, among=len(among))  # names all of them, not the first alone
        raise


def _metadata(session: Any, path: Path) -> dict[str, str]:
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise InputError(f"The metadata of {path} must be UTF-8, but are not. Export the ensemble anew.") from error


def _check_interface(session: Any, card: ExportCard, path: Path) -> None:
    """Refuses a file whose graph isn't what its card says."""
    takes = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    gives = [(one.name, one.type, one.shape[1:]) for one in session.get_outputs()]
    inputs = [(one.name, "tensor(uint8)", [one.size, one.size, 3]) for one in card.inputs]
    if sorted(takes) != sorted(inputs) or gives != [(OUTPUT, "tensor(float)", [len(card.classes)])]:
        raise InputError(
            f"{path} must take and give what its card says, but takes {takes} and gives {gives}. "
            "Export the ensemble anew."
        )
