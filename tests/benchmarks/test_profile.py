"""A look at a search's stack is put down to the work that is being done."""

import threading
import time
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import cast

import pytest

from benchmarks.profile import AROUND, BACKWARD, FORWARD, FROZEN, IMPORTING, OTHER, WORK, watching, work_of
from benchmarks.profile_page import build_parser, main
from core.cli import run
from core.files import write_json


def stack(*calls: tuple[str, str]) -> FrameType:
    """The innermost frame of calls, the outermost first."""
    frame = None
    for module, function in calls:
        frame = SimpleNamespace(f_globals={"__name__": module}, f_code=SimpleNamespace(co_name=function), f_back=frame)
    return cast(FrameType, frame)


TRIAL = (("search.objective", "run"), ("core.run", "train_epoch"))


@pytest.mark.parametrize(
    ("calls", "work"),
    [
        ((*TRIAL, ("core.run", "step"), ("torch.autograd.graph", "_engine_run_backward")), BACKWARD),
        ((*TRIAL, ("core.run", "step"), ("timm.models", "forward")), FORWARD),
        ((*TRIAL, ("core.prefix", "batches"), ("core.prefix", "_in_chunks")), FROZEN),
        ((("search.session", "show_estimate"), ("core.run", "step")), AROUND["search.session", "show_estimate"]),
        ((*TRIAL, ("importlib._bootstrap", "_load")), IMPORTING),
        ((("search.objective", "run"), ("core.study_folder", "write_trial")), WORK["search.objective", "run"]),
        ((("search.run", "main"),), OTHER),
    ],
)
def test_the_innermost_known_call_counts_unless_one_stands_for_all_within(
    calls: tuple[tuple[str, str], ...], work: str
) -> None:
    assert work_of(stack(*calls)) == work


def test_every_name_is_one_of_a_function_that_is_there() -> None:
    import importlib

    for module, function in [*AROUND, *WORK]:
        found = importlib.import_module(module)
        classes = [each for each in vars(found).values() if isinstance(each, type) and each.__module__ == module]
        assert any(hasattr(owner, function) for owner in (found, *classes)), (module, function)


def test_looks_are_counted_while_it_lasts() -> None:
    with watching(threading.get_ident()) as looks:
        time.sleep(0.2)
    counted = looks.total()
    time.sleep(0.05)
    assert looks.total() == counted == looks[OTHER] > 0


def test_the_page_tells_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = {
        "table": "setting",
        "data": "ham10000",
        "arch": "mobilenetv2_100",
        "image_size": 64,
        "epochs": 10,
        "trials": 20,
        "device": "cpu, 2 cores, float32",
        "seconds": 321.4,
        "train_images": 1000,
        "val_images": 500,
    }
    result = {
        "rows": [setting, {"work": BACKWARD, "share": 0.5}, {"work": OTHER, "share": 0.5}],
        "ratio": 0.5,
        "machine": {"cpu": "a processor"},
        "versions": {"torch": "2.15.0"},
        "created": "2026-11-26T12:00:00Z",
        "command": "python -m benchmarks.profile",
    }
    write_json(tmp_path / "profile.json", result)
    assert run(main, build_parser(), ["--results", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert f"| {BACKWARD} | 50.0% | {'█' * 20} |" in page
    assert "20 trials of 10 epochs on 1,000 training and 500 validation images (ham10000), 321 s in all" in page
    assert run(main, build_parser(), ["--results", str(tmp_path / "none"), "--out", str(tmp_path / "page.md")]) == 2
    assert "Write one with benchmarks.profile." in capsys.readouterr().err
