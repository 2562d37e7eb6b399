"""A finished study, to be spoilt."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.demo import write_demo
from tests.fixtures.searches import STUDY, build_ensemble, let_trials_take_part, search


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=80, width=96, height=72, workers=1)


@pytest.fixture(scope="session")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies folder with a study of two trials and an ensemble."""
    studies = tmp_path_factory.mktemp("hostile") / "studies"
    assert search(images, studies, "--weights", "none") == 0
    let_trials_take_part(studies / STUDY)
    assert build_ensemble(studies) == 0
    return studies


@pytest.fixture
def studies(searched: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(searched, tmp_path / "studies")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that only running a planted pickle makes."""
    file = tmp_path / "the code has run"
    yield file
    assert not file.exists(), "a pickle was loaded"
