import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from core.listing import list_folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "mel/0.jpg", "nv/0.jpg", "bcc/0.jpg")
    original = os.scandir

    def locked(path: str) -> Any:
        if os.path.basename(path) == "bcc":
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", locked)

    with pytest.raises(
        InputError, match=r"must be readable, but 1 are not: .*/bcc \(Permission denied\)\. Give rights"
    ):
        list_folder(tmp_path)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    touch(tmp_path, "mel/0.jpg", "nv/0.jpg")
    (tmp_path / "nv").chmod(0)
    yield tmp_path
    (tmp_path / "nv").chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anywhere")
def test_a_folder_without_rights_is_refused(locked: Path) -> None:
    with pytest.raises(InputError, match=r"1 are not: .*/nv \(Permission denied\)"):
        list_folder(locked)


def test_what_a_disk_has_at_its_root_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "mel/0.jpg", "lost+found/1.jpg")

    assert list_folder(tmp_path).images == ("mel/0.jpg",)
