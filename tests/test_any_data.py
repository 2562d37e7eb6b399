"""From data as people have them through a search to the test images that an ensemble would be judged on."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from core import cli
from core.artifacts import StudiesFolder
from core.cache import cache_folder
from core.demo import write_demo
from core.errors import InputError
from ensemble.parts import find_test
from ensemble.studies import read_studies
from search.run import build_parser, main
from tests.fixtures.arrays import write_dermamnist
from tests.fixtures.drawing import nothing_drawn
from tests.fixtures.images import write_image
from tests.fixtures.tabular import write_isic2018, write_plain_table

SMALL = ["--arch", "test_efficientnet", "--image-size", "32", "--weights", "none", "--device", "cpu"]
QUICK = [*SMALL, "--epochs", "1", "--trials", "1"]


def search(*arguments: object) -> int:
    with nothing_drawn():
        return cli.run(main, build_parser(), [str(argument) for argument in arguments])


def searched(studies: Path, *data: object) -> Path:
    """The folder of a study of one trial, on the data that the flags name."""
    assert search(*QUICK, "--studies", studies, *data) == 0
    return next(path.parent for path in studies.glob("*/study.json"))


def roles(study: Path) -> dict[str, str]:
    with (study / "split.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row["split"] for row in csv.DictReader(file)}


def sealed_images(studies: Path, *places: Path) -> set[str]:
    """What `ensemble.build` would open, `places` being its `--data`."""
    manifest, rows, part = find_test(read_studies(StudiesFolder(studies))[0], places)
    assert {manifest.paths[row] for row in rows} == set(part.images)
    assert all(manifest.file(row).is_file() for row in rows)
    return set(part.images)


def test_official_parts_are_trained_validated_and_tested_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_isic2018(data, test=True)

    study = searched(tmp_path / "studies", "--data", data)

    tested = {image for image, role in roles(study).items() if role == "test"}
    assert tested
    assert all("Test_Input" in image for image in tested)
    assert not any("Test_Input" in image for image, role in roles(study).items() if role in ("train", "val"))
    assert sealed_images(tmp_path / "studies") == tested


def test_an_npz_file_is_found_again_after_its_cache_is_gone(tmp_path: Path) -> None:
    write_dermamnist(tmp_path / "dermamnist.npz")

    study = searched(tmp_path / "studies", "--data", tmp_path / "dermamnist.npz")
    shutil.rmtree(cache_folder("arrays"))

    tested = {image for image, role in roles(study).items() if role == "test"}
    assert all(image.startswith("test/") for image in tested)
    assert sealed_images(tmp_path / "studies") == tested


def test_columns_are_named_once_and_kept_by_the_study(tmp_path: Path) -> None:
    write_plain_table(tmp_path / "data")
    table = tmp_path / "data" / "labels.csv"
    text = table.read_text(encoding="utf-8-sig")
    table.write_text(text.replace("Path;Label;Patient", "Datei;Befund;Fall"), encoding="utf-8")
    columns = ["--image-column", "Datei", "--label-column", "Befund", "--group-column", "fall"]

    study = searched(tmp_path / "studies", "--data", tmp_path / "data", *columns)

    assert sealed_images(tmp_path / "studies") == {image for image, role in roles(study).items() if role == "test"}


def test_two_sets_are_searched_as_one_and_may_move_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_demo(tmp_path / "first", images=80, width=48, height=36, workers=1)
    second = tmp_path / "second"
    for n in range(12):
        write_image(second / ("mel", "nv")[n % 2] / f"{n}.jpg", n, size=(48, 36))
    copy = next(first.glob("*/*.jpg"))
    shutil.copy(copy, second / "mel" / "copied.jpg")
    studies = tmp_path / "studies"

    study = searched(studies, "--data", first, "--data", second)

    assert len(roles(study)) == 80 + 12
    assert json.loads((study / "study.json").read_text())["data"]["places"] == [str(first), str(second)]
    moved = [tmp_path / "moved" / name for name in ("first", "second")]
    for old, new in zip((first, second), moved, strict=True):
        new.parent.mkdir(exist_ok=True)
        os.rename(old, new)
    with pytest.raises(InputError, match=f"must exist, but {first} does not. Say with --data"):
        sealed_images(studies)
    with pytest.raises(InputError, match="`--data` must be given 2 times"):
        sealed_images(studies, moved[0])
    assert sealed_images(studies, *moved) == {image for image, role in roles(study).items() if role == "test"}


def test_a_study_does_not_go_on_with_data_of_other_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_isic2018(tmp_path / "data", test=True)
    searched(tmp_path / "studies", "--data", tmp_path / "data")
    shutil.rmtree(next((tmp_path / "data").glob("*Test_Input*")))
    for table in (tmp_path / "data").rglob("*Test_GroundTruth*.csv"):
        table.unlink()

    assert search(*QUICK[:-1], "2", "--studies", tmp_path / "studies", "--data", tmp_path / "data") == 2
    assert "these differ: data (was" in capsys.readouterr().err


def test_columns_without_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert search(*QUICK, "--label-column", "kind") == 2
    assert "`--data` must be given where columns are" in capsys.readouterr().err
