"""Names in files from strangers that would lead out of their folder."""

import json
import re
import shutil
from pathlib import Path

import pytest

from core.artifacts import StudiesFolder
from ensemble import build
from tests.fixtures.searches import STUDY, build_ensemble, refused, search


def test_a_study_is_taken_from_its_folder_only(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(studies / STUDY, studies.parent / "outside")
    status = build.main([str(studies), "--no-test", "--study", "../outside"])
    assert "`--study` must be one of demo-test_efficientnet, but got --study ../outside" in refused(status, capsys)


@pytest.mark.parametrize("name", ["\x1b[2Jgone", "a b", "weights", "-rf", "\u0663", "<b>"])
def test_folders_with_names_that_no_study_has_are_passed_over(
    studies: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(studies / STUDY, studies / name, dirs_exist_ok=True)
    assert [study.name for study in StudiesFolder(studies).read_studies()] == [STUDY]
    assert "has a name that no study has" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_trial_that_is_a_link_is_refused_and_what_it_points_to_is_untouched(
    studies: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = studies.parent / "outside"
    (studies / STUDY / "trial-0000").rename(outside)
    (studies / STUDY / "trial-0000").symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    for run in (lambda: build_ensemble(studies), lambda: search(images, studies, "--weights", "none", "--keep", 1)):
        capsys.readouterr()
        assert "it is a link" in refused(run(), capsys)
    assert sorted(path.name for path in outside.iterdir()) == before


@pytest.mark.parametrize(
    "name", ["trial-00001", "trial-\u0660\u0660\u0660\u0667", "trial-9999999999", "trial-0007.old", "trial-0007 "]
)
def test_folders_with_names_that_no_trial_has_are_passed_over(studies: Path, name: str) -> None:
    shutil.copytree(studies / STUDY / "trial-0000", studies / STUDY / name)
    assert [trial.number for trial in StudiesFolder(studies).study(STUDY).read_trials()] == [0, 1]


@pytest.mark.parametrize("hashed", ["../../../etc/passwd", "", "0" * 63, "G" * 64, 3, None])
def test_a_hash_of_weights_that_is_a_path_is_refused(
    studies: Path, images: Path, hashed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    file = studies / STUDY / "study.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"weights": told["weights"] | {"spec": "auto", "hash": hashed}}))
    assert re.search(r"hash", refused(search(images, studies), capsys))


def test_images_that_a_split_names_outside_the_data_are_never_opened(
    studies: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = studies / STUDY / "split.csv"
    rows = file.read_text().splitlines()
    index = next(number for number, row in enumerate(rows) if row.endswith(",test"))
    rows[index] = "/etc/passwd," + rows[index].partition(",")[2]
    file.write_text("\n".join([*rows, ""]))
    status = build.main([str(studies), "--device", "cpu", "--data", str(images)])
    assert "/etc/passwd" in refused(status, capsys)
