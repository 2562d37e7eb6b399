"""Paired ablations, on few images of the smallest of networks, and what their table makes of known runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, ablation_page
from benchmarks.ablation_changes import BASE, CENTRE, CHANGES, changed_arch, changed_values, choose_changes
from benchmarks.ablation_table import best_change, compare, markdown
from benchmarks.reporting import student_interval
from core import cli
from core.archs import resolve_arch
from core.backbones import build_classifier
from core.config import TrainConfig
from core.demo import write_demo
from core.errors import InputError


def recorded(seed: int, name: str, recall: float, seconds: float = 10.0, reason: str = "") -> dict[str, Any]:
    whole: dict[str, Any] = {"recall": recall, "recall_argmax": 0.4, "accuracy": 0.7, "loss": 1.0, "seconds": seconds}
    whole |= {"recalls": [0.3, recall, recall - seconds / 1000]}  # the last of them not the best
    return {"seed": seed, "name": name, "values": {"ema": 1.0}, "reason": reason, **({} if reason else whole)}


RUNS = [
    *(recorded(seed, BASE, recall) for seed, recall in enumerate((0.5, 0.6, 0.7))),
    *(recorded(seed, "ema-1", recall, 11.0) for seed, recall in enumerate((0.51, 0.63, 0.72))),
    recorded(0, "last-3", 0.0, reason="the loss was not finite"),
    recorded(1, "last-3", 0.58),
]


def test_gains_are_those_over_the_base_of_the_same_seed() -> None:
    base, ema, last = compare(RUNS, ["ema-1", "last-3"])
    assert (base["n"], base["recall"]) == (3, pytest.approx(0.6))
    assert ema["gains"] == pytest.approx([0.01, 0.03, 0.02])
    assert (ema["n"], ema["gain"], ema["cost"]) == (3, pytest.approx(0.02), pytest.approx(1.1))
    # Half-width by hand: 4.303 (Student, 2 degrees of freedom) x 0.01 / sqrt(3).
    assert (ema["low"], ema["high"]) == pytest.approx((0.02 - 0.02484, 0.02 + 0.02484), abs=1e-4)
    assert (last["n"], last["failed"], last["gain"], last["low"]) == (1, 1, pytest.approx(-0.02), None)
    assert best_change([base, ema, last]) is ema


def test_one_seed_has_no_interval() -> None:
    assert student_interval([0.1]) == (None, None)
    assert student_interval([0.1, 0.1]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_the_table_names_every_change_with_its_n() -> None:
    lines = markdown(compare(RUNS, ["ema-1", "last-3", "mixup-0.2"])).splitlines()
    assert lines[2] == "| base | | 0.600 | | | | 1 |"
    assert lines[3] == "| ema-1 | ema=1.0 | 0.620 | +2.0 (-0.5 to +4.5) | 3 of 3 | +1.9 (-0.6 to +4.4) | 1.10 × |"
    assert lines[4] == "| last-3 | ema=1.0 | 0.580 | -2.0 | 0 of 1, 1 failed | -2.0 | 1.00 × |"
    assert len(lines) == 5, "what was never run has no row"


def larger(size: int) -> dict[str, Any]:
    return changed_values("size-1.5", image_size=size, epochs=10)


def test_every_change_is_a_valid_config_that_differs_from_the_base() -> None:
    tuned = {"drop_rate": 0.2, "weight_decay": 0.01, "label_smoothing": 0.05, "rebalance": 0.5}  # as a first trial
    base = TrainConfig(arch="a", image_size=64, lr=0.1, **tuned)
    configs = {
        name: TrainConfig.from_dict(base.to_dict() | changed_values(name, image_size=64, epochs=10))
        for name in CHANGES
        if name != CENTRE
    }
    assert all(config != base for config in configs.values())
    assert len(set(configs.values())) == len(CHANGES) - 1
    arch = resolve_arch("mobilenetv2_100")
    assert (arch.framing, changed_arch(arch, CHANGES[CENTRE]).framing) == ("whole", "centre")
    assert [larger(size)["image_size"] for size in (32, 64, 224)] == [64, 96, 320]
    assert changed_arch(arch, larger(224)).image_size == 320
    assert changed_values("epochs-2", image_size=64, epochs=8) == {"epochs": 16}


def test_what_a_backbone_or_run_has_no_place_for_is_left_out_or_refused() -> None:
    model = build_classifier(resolve_arch("mobilenetv2_035"), num_classes=3, weights=None, seed=0)

    def choose(*only: str, epochs: int = 10, depth: int = 8) -> list[str]:
        return choose_changes(only, model, "mobilenetv2_035", epochs=epochs, depth=depth)

    def families(names: list[str]) -> set[str]:
        return {name.split("-")[0] for name in CHANGES} - {name.split("-")[0] for name in names}

    assert choose() == list(CHANGES)
    assert families(choose(epochs=2)) == {"last"}
    assert families(choose(depth=7)) == {"cutmix"}
    assert families(choose(depth=1)) == {"cutmix", "paths"}, "its last block has no residual branch"
    assert families(choose(depth=0)) == {"cutmix", "paths", "layers"}
    with pytest.raises(InputError, match=r"`--only` must name changes .* but got paths-0\.1"):
        choose("paths-0.1", depth=1)


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_demo(tmp_path / "demo", images=80, width=96, height=72, workers=1)
    recording, out = tmp_path / "runs.json", tmp_path / "table.json"
    arguments = ["--data", data, "--arch", "test_efficientnet", "--weights", "none", "--image-size", 32]
    arguments += ["--train-images", 32, "--epochs", 1, "--recording", recording, "--out", out, "--device", "cpu"]

    def ablate(*more: object) -> int:
        return cli.run(ablation.main, ablation.build_parser(), [*map(str, arguments), *map(str, more)])

    assert ablate("--seeds", 1, "--only", "ema-0.5") == 0
    first = json.loads(recording.read_text())["runs"]
    assert ablate("--seeds", 2, "--only", "ema-0.5", "size-1.5", "epochs-2") == 0
    content = json.loads(recording.read_text())
    assert content["runs"][:2] == first
    found = [(run["seed"], run["name"]) for run in content["runs"]]
    assert len(found) == len(set(found)) == 8
    assert {len(run["recalls"]) for run in content["runs"] if run["name"] == "epochs-2"} == {2}
    printed = capsys.readouterr().out
    assert "8 runs, of which 6 are missing" in printed
    table = json.loads(out.read_text())
    setting, base, *changes = table["rows"]
    assert setting["image_size"] == 32
    assert (base["name"], base["n"]) == (BASE, 2)
    assert [(row["name"], row["n"]) for row in changes] == [("ema-0.5", 2), ("size-1.5", 2), ("epochs-2", 2)]
    assert printed.splitlines()[-1] == f"ratio: {table['ratio']:.3g}"

    assert ablate("--seeds", 1, "--epochs", 2) == 2
    assert "of the same setting, but in" in capsys.readouterr().err


def test_the_page_has_every_figure_from_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = {
        "arch": "a",
        "image_size": 64,
        "epochs": 10,
        "train_images": "all",
        "val_images": "all",
        "data": "d",
        "threads": 1,
    }
    result = {
        "rows": [{**setting, "base": {"lr": 0.1, "unfreeze_depth": 5}}, *compare(RUNS, ["ema-1"])],
        "machine": {"cpu": "c", "threads": 2},
        "versions": {"torch": "2.15.0"},
        "created": "2026-11-26T10:00:00Z",
        "command": "python -m benchmarks.ablation",
    }
    (tmp_path / "ablation-a-64.json").write_text(json.dumps(result))
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "page.md")]
    assert cli.run(ablation_page.main, ablation_page.build_parser(), arguments) == 0
    text = (tmp_path / "page.md").read_text()
    assert "## a at 64 pixels, 5 blocks learning, 3 seeds" in text
    assert "| ema-1 | ema=1.0 | 0.620 | +2.0 (-0.5 to +4.5) |" in text
    (tmp_path / "ablation-a-64.json").unlink()
    assert cli.run(ablation_page.main, ablation_page.build_parser(), arguments) == 2
    assert "must be a folder with ablation*.json" in capsys.readouterr().err
