"""benchmarks.seeds sums up what ensembles of several seeds say of one test split."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.seeds import ENSEMBLE, GAIN, SINGLE, VALIDATION, build_parser, main, summarise
from core.cli import run


def scored(recall: float, name: str = "") -> dict[str, Any]:
    interval = [recall - 0.1, recall + 0.1]
    return {"name": name, "step": name, "macro_recall": recall, "macro_recall_interval": interval, "accuracy": 0.8}


def metrics(seed: int) -> dict[str, Any]:
    """Of a seed, in which each recall is a point higher."""
    more = 0.01 * seed
    steps = [("best single, b #2", 0.5), (f"best single, a #{seed}", 0.6), ("+ prior correction (tau 1)", 0.8)]
    return {
        "test": {
            "fingerprint": "f" * 64,
            "opening": 1,
            "images": 100,
            "lesions": 90,
            "ensemble": scored(0.8 + more),
            "members": [scored(0.7 + more, f"a #{seed}"), scored(0.75 + more, "b #2")],
            "ladder": [scored(recall + more, step) for step, recall in steps],
            "gain_over_best_single": 0.1,
            "gain_over_best_single_interval": [0.02 * seed, 0.2],
        },
        "validation": {"ensemble": scored(0.85)},
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "ensemble").mkdir(parents=True)
    (folder / "ensemble" / "metrics.json").write_text(json.dumps(content))
    return folder


def test_steps_are_the_same_whatever_trial_was_best() -> None:
    rows = {row["step"]: row for row in summarise([metrics(0), metrics(1), metrics(2)])}
    assert list(rows)[:3] == ["best single, b", "best single, a", "+ prior correction"]
    assert rows["best single, a"]["values"] == pytest.approx([0.6, 0.61, 0.62])
    assert rows[SINGLE]["mean"] == pytest.approx(0.71), "what was best before the test, not on it"
    assert rows[ENSEMBLE]["interval"] == pytest.approx([0.71, 0.91])
    assert rows[GAIN]["interval"] == pytest.approx([0.02, 0.2])
    assert rows[VALIDATION]["mean"] == pytest.approx(0.85)


def test_a_step_that_one_seed_lacks_has_no_mean() -> None:
    other = copy.deepcopy(metrics(1))
    other["test"]["ladder"].append(scored(0.81, "+ 8 views"))
    assert "+ 8 views" not in [row["step"] for row in summarise([metrics(0), other])]


def test_the_command_shows_them_and_ends_with_the_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(tmp_path / f"seed-{seed}", metrics(seed)) for seed in range(2)]
    out = tmp_path / "out.json"
    assert run(main, build_parser(), [*map(str, folders), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert (
        "| gain over it | +10.0 | +1.0 to +20.0 | +10.0 to +10.0 | +10.0 (+0.0 to +20.0), +10.0 (+2.0 to +20.0) |  |"
    ) in told
    assert "optimistic" not in told
    assert told.endswith("ratio: 1.14\n")
    assert json.loads(out.read_text())["rows"][0]["openings"] == [1, 1]


def test_the_intervals_over_seeds_are_students() -> None:
    rows = {row["step"]: row for row in summarise([metrics(0), metrics(1), metrics(2)])}
    assert rows[ENSEMBLE]["interval_over_seeds"] == pytest.approx([0.81 - 0.0248, 0.81 + 0.0248], abs=1e-4)


def test_a_later_opening_is_called_optimistic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = metrics(0)
    content["test"]["opening"] = 2
    folder = write(tmp_path / "seed-0", content)
    assert run(main, build_parser(), [str(folder), "--out", str(tmp_path / "out.json")]) == 0
    assert f"optimistic: {folder} had opened the test 2 times" in capsys.readouterr().out


def test_a_folder_that_is_named_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "seed-0", metrics(0))
    assert run(main, build_parser(), [str(folder), f"{folder}/../seed-0"]) == 2
    assert "but got one of them twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda content: content.update(test=None), "must have opened the test split"),
        (lambda content: content["test"].update(fingerprint="0" * 64), "must share one test split"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str
) -> None:
    other = metrics(1)
    spoil(other)
    folders = [write(tmp_path / "a", metrics(0)), write(tmp_path / "b", other)]
    assert run(main, build_parser(), [*map(str, folders)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_without_an_ensemble_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, build_parser(), [str(tmp_path)]) == 2
    assert "must hold an ensemble" in capsys.readouterr().err
