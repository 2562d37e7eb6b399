"""Recorded trials are read up to where a search would have ended them; files of others are refused."""

from pathlib import Path

import pytest

from benchmarks.recording import curve_of, epochs_of_patience, read_curves
from core.errors import InputError
from tests.fixtures.recorded import trial, write_curves


@pytest.mark.parametrize(
    ("recalls", "patience", "epochs"),
    [
        ([0.5, 0.6, 0.7], 1, None),
        ([0.5, 0.5, 0.5], 2, 3),  # as good is no gain
        ([0.5, 0.4, 0.6, 0.5, 0.55, 0.9], 2, 5),
        ([0.5, 0.4, 0.3], 3, None),
        ([0.5, 0.4, 0.3], 0, None),
        ([], 1, None),
    ],
)
def test_patience_ends_a_trial_after_as_many_epochs_without_gain(
    recalls: list[float], patience: int, epochs: int | None
) -> None:
    assert epochs_of_patience(recalls, patience) == epochs


def test_a_trial_that_patience_ends_before_its_loss_breaks_is_complete() -> None:
    ended = curve_of(trial(0, 0.5, 0.4, 0.4, reason="NaN"), 2)
    assert (ended.recalls, ended.elapsed_s, ended.final) == ((0.5, 0.4, 0.4), (2.0, 4.0, 6.0), 0.5)
    broken = curve_of(trial(0, 0.5, 0.4, 0.4, reason="NaN"), 3)
    assert (len(broken.recalls), broken.complete, broken.final) == (3, False, 0.0)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a file that exists, but got .*none\.json\. Write one"):
        read_curves(tmp_path / "none.json", 4)
    (tmp_path / "foreign.json").write_text('{"trials": []}')
    with pytest.raises(InputError, match=r"written by benchmarks\.curves, but it lacks 'provenance'"):
        read_curves(tmp_path / "foreign.json", 4)
    broken = write_curves(tmp_path / "broken.json", [trial(0, reason="NaN")], epochs=2)
    with pytest.raises(InputError, match="must hold a complete trial, but it holds none"):
        read_curves(broken, 4)
