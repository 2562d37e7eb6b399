"""The command replays recorded trials, and its tables say how that ended."""

import json
from pathlib import Path

import pytest

from benchmarks.pruning import build_parser, main
from core.cli import run
from tests.fixtures.recorded import trial, write_curves


def test_command_prints_three_tables_and_ends_with_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [trial(n, *(0.4 + 0.02 * n + 0.03 * epoch for epoch in range(4))) for n in range(7)]
    trials.append(trial(7, reason="the loss was not finite"))
    curves = write_curves(tmp_path / "64.json", trials, epochs=4)
    other = write_curves(tmp_path / "128.json", trials, epochs=4, image_size=128)
    out = tmp_path / "pruning.json"
    small = ["--curves", str(curves), "--out", str(out), "--replays", "2", "--resamples", "5"]

    assert run(main, build_parser(), [*small, "--other", str(other)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert "8 recorded trials of 4 epochs at 64 pixels, patience 4; 2 replays of 8 trials" in printed
    assert "Spearman's rho of the best recalls: 1.00 (1.00 to 1.00)" in printed
    assert printed.splitlines()[-1] == f"ratio: {content['ratio']:.3g}"
    assert {row["table"] for row in content["rows"]} == {"setting", "pruners", "order", "sizes"}
    shipped = [row for row in content["rows"] if row.get("ships")]
    assert [(row["option"], row["epochs"]) for row in shipped] == [("percentile", content["ratio"])]
    assert (content["rows"][0]["recorded"], content["rows"][0]["complete"]) == (8, 7)

    assert run(main, build_parser(), small) == 0
    assert "no second size has been recorded" in capsys.readouterr().out
