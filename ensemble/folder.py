"""The folder that `ensemble.build` writes: replaced as a whole, and only where nothing of anybody else's is in it."""

import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import InputError
from core.files import remove_leftovers, written_aside
from ensemble.spec import EnsembleSpec

# What earlier builds and exports wrote, killed ones included, which leave what they were writing aside.
_EXPORTED = r"ensemble(-int8)?\.onnx(\.json)?"
_WRITTEN = r"ensemble\.json|metrics\.json|predictions\.csv|predictions-isic\.csv|report\.html|report\.md"
_OWN_FILE = rf"({_WRITTEN}|{_EXPORTED})"
_OWN = re.compile(rf"{_OWN_FILE}|\.{_OWN_FILE}\.[0-9a-f]{{12}}\.tmp|members|members/[^/]+-\d{{4,}}(-\d+)?\.safetensors")
_OTHERS_MAY_BE_WRITING_S = 3600.0  # copying the members takes seconds


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """A rebuild replaces the folder, so nobody else's files may be in it.

    Args:
        folder: It, or this machine's copy.
        names: What lies in it, relative to it, with slashes.

    Raises:
        InputError: It is no folder, or something else lies in it.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "a file"
        raise InputError(f"{folder} must be a folder of its own, because it is replaced, but is {kind}. Move it away.")
    if strangers := sorted(name for name in names if not _OWN.fullmatch(name)):
        raise InputError(
            f"{folder} must hold only what ensemble.build wrote, because it is replaced, but it holds {strangers[0]}. "
            "Move that elsewhere."
        )


def write_ensemble(target: Path, spec: EnsembleSpec, weights: Sequence[Sequence[Path]]) -> None:
    """Writes the ensemble's folder as a whole, in place of an older one.

    Args:
        target: The folder.
        spec: What will stand in `ensemble.json`.
        weights: The weights' files of each member.
    """
    remove_leftovers(target.parent, older_than_s=_OTHERS_MAY_BE_WRITING_S)
    with written_aside(target, replacing=_moved_away(target)) as aside:
        for member, files in zip(spec.members, weights, strict=True):
            for name, file in zip(member.files, files, strict=True):
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, aside / name)
        spec.write(aside)


@contextmanager
def _moved_away(target: Path) -> Iterator[None]:
    """Keeps the older folder until the new one has its name: what can't be removed must not cost both."""
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    if target.exists():
        target.rename(old)
    try:
        yield
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)  # what stays is a leftover, which `remove_leftovers` knows
