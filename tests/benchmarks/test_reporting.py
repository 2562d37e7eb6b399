"""What all benchmarks write at their end has a place before they begin."""

import pytest

from benchmarks import ensemble, labels, voting
from core.cli import run


@pytest.mark.parametrize("module", [voting, labels, ensemble])
@pytest.mark.parametrize(("out", "rule"), [("here", "must be a file"), ("nowhere/x.json", "must be in a folder that")])
def test_a_place_that_cannot_be_written_is_refused_first(module, out, rule, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    words = [".", "--out", out] if module is voting else ["--out", out]
    assert run(lambda args: pytest.fail("it began"), module.build_parser(), words) == 2
    told = capsys.readouterr().err
    assert rule in told
    assert told.count("\n") == 1


def test_an_ensemble_of_fewer_rows_than_classes_is_refused(tmp_path, capsys):
    words = ["--rows", "5", "--trials", "2", "--out", str(tmp_path / "x.json")]
    assert run(ensemble.main, ensemble.build_parser(), words) == 2
    assert "`--rows` must be at least 7, one of each class, but got --rows 5" in capsys.readouterr().err
