"""The command measures each vote, and choosing among a hundred trials stays far below its bar."""

import json
from pathlib import Path

import pytest

from benchmarks.ensemble import BAR_S, VOTES, build_parser, draw, main, measure
from core.cli import run


def test_command_measures_each_vote_and_ends_with_the_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ensemble.json"
    small = ["--trials", "6", "--rows", "300", "--repeats", "1", "--out", str(out)]
    assert run(main, build_parser(), small) == 0
    printed, content = capsys.readouterr().out, json.loads(out.read_text())
    assert printed.splitlines()[-1] == f"ratio: {content['ratio']:.3g}"
    assert [(row["vote"], row["top_k"]) for row in content["rows"]] == [("mean", "tied"), *((v, "auto") for v in VOTES)]


def test_choosing_among_a_hundred_trials_stays_within_its_bar() -> None:
    # Processor time, with room for a busy machine, whose cores do less in a second.
    assert measure(draw(100, 10_000, 0), "auto", None)["cpu_s"] < 2 * BAR_S
