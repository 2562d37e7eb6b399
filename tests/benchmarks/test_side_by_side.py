"""Trials at once, on few images of the smallest of networks."""

import json
from pathlib import Path

import pytest

from benchmarks import side_by_side
from core import cli
from core.demo import write_demo


@pytest.mark.slow
def test_rates_of_all_processes_are_added_up(tmp_path: Path) -> None:
    images = write_demo(tmp_path / "demo", images=80, width=96, height=72, workers=1)
    arguments = ["--data", images, "--arch", "test_efficientnet", "--weights", "none", "--image-size", 32, "--depth", 2]
    arguments += ["--images", 32, "--seconds", 1, "--processes", 2, "--device", "cpu", "--out", tmp_path / "out.json"]
    assert cli.run(side_by_side.main, side_by_side.build_parser(), list(map(str, arguments))) == 0
    one, two = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["over_one"] == 1.0
    assert len(two["peak_memory_gb"]) == 2
    assert two["images_per_s"] > 0
