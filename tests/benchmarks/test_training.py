"""The trainer against one batch that never changes, on few images of the smallest of networks."""

import json
from pathlib import Path

import pytest

from benchmarks import training
from core import cli
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.demo import write_demo


def test_every_depth_is_held_to_its_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "LEAST_S", 0.0)
    arch = resolve_arch("test_efficientnet")
    deepest = build_classifier(arch, num_classes=2, weights=None, seed=0).max_unfreeze_depth
    data = write_demo(tmp_path / "demo", images=80, width=96, height=72, workers=1)
    arguments = ["--data", data, "--arch", "test_efficientnet", "--weights", "none", "--image-size", 32]
    arguments += [
        "--images",
        32,
        "--batch-size",
        16,
        "--depths",
        0,
        deepest,
        "--repeats",
        2,
        "--out",
        tmp_path / "out.json",
    ]

    status = cli.run(training.main, training.build_parser(), [*map(str, arguments), "--device", "cpu"])

    content = json.loads((tmp_path / "out.json").read_text())
    head, whole = content["rows"]
    assert status == (0 if content["ratio"] >= training.BARS["cpu"] else 1)
    assert content["ratio"] == min(row["ratio"]["median"] for row in content["rows"])
    assert (head["remembered"], whole["remembered"]) == (True, False)
    assert len(head["activation"]) == 1, "the head is fed pooled features"
    assert whole["activation"] == [3, 32, 32]
    assert all(row["ratio"]["n"] == 2 for row in content["rows"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")


def test_it_asks_for_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(training.main, training.build_parser(), []) == 2
    assert "`--data` must be given" in capsys.readouterr().err
