"""Blocks, freezing and dropout of the classifier."""

import copy
import itertools

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import group_parameters
from torch import nn
from torch._dynamo.testing import CompileCounter

from core.classifier import Classifier, split_blocks
from core.errors import InputError

DEPTHS = {"mobilenetv2_100": 8, "tf_efficientnet_lite0": 8, "efficientnet_b3": 8, "resnet18": 5}
# Between them these group a last norm or a convolution with the classifier, or have tokens and buffers.
FAMILIES = [
    "mobilenetv3_small_050",
    "convnext_atto",
    "densenet121",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On tensors this small and a busy machine, two threads spend nearly all their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, num_classes: int = 3) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = timm.create_model(name, pretrained=False, num_classes=num_classes)
    # timm starts the last norm of a residual branch at zero, so that nothing before it would learn in a first step.
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return Classifier(backbone)


def make_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def train_a_step(model: Classifier) -> set[str]:
    """One step of SGD in training mode; the names of all parameters and running statistics that it changed."""
    before = copy.deepcopy(model.backbone.state_dict())
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss = nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 10 * parameter.grad
                parameter.grad = None
    return {name for name, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, before[name])}


def learning_tensors(model: Classifier, depth: int) -> set[str]:
    """What must learn at a depth, from timm's own grouping of these architectures, in which the head is one group."""
    groups = group_parameters(model.backbone, model.backbone.group_matcher(coarse=True))
    names = {name for group in sorted(groups)[len(groups) - 1 - depth :] for name in groups[group]}
    modules = {name.rpartition(".")[0] for name in names}
    return {name for name in model.backbone.state_dict() if name in names or name.rpartition(".")[0] in modules}


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_trains_its_blocks_and_leaves_the_rest_with_its_running_statistics_alone(name):
    model = make(name)
    state = copy.deepcopy(model.state_dict())
    for depth in range(model.max_unfreeze_depth + 1):
        model.load_state_dict(state)
        model.set_unfreeze_depth(depth)
        assert train_a_step(model) == learning_tensors(model, depth)


@pytest.mark.parametrize(("name", "depth"), DEPTHS.items())
def test_the_greatest_depth_is_the_number_of_the_models_own_blocks(name, depth):
    assert make_classifier_on_meta(name).max_unfreeze_depth == depth


def make_classifier_on_meta(name: str) -> Classifier:
    return Classifier(make_meta(name))


def test_the_convolution_and_norm_before_the_head_learn_with_the_last_block_of_mobilenetv2():
    model = make_classifier_on_meta("mobilenetv2_100")
    model.set_unfreeze_depth(1)
    learning = [name.split(".") for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert {name[0] for name in learning} == {"blocks", "conv_head", "bn2", "classifier"}
    assert {name[1] for name in learning if name[0] == "blocks"} == {"6"}


@pytest.mark.parametrize("name", [*DEPTHS, *FAMILIES])
def test_blocks_hold_every_tensor_but_the_heads_exactly_once(name):
    backbone = make_meta(name)
    model = Classifier(backbone)
    blocked = [tensor for block in model.blocks for tensor in block]
    everything = [tensor for tensor, _ in [*backbone.named_parameters(), *backbone.named_buffers()]]
    head = {f"{model.head_name}.weight", f"{model.head_name}.bias"}
    assert sorted(blocked) == sorted(set(everything) - head)


@pytest.mark.parametrize("name", [*DEPTHS, *FAMILIES])
def test_deeper_unfreezing_adds_parameters_and_takes_none_away(name):
    model = make_classifier_on_meta(name)
    learning = []
    for depth in range(model.max_unfreeze_depth + 1):
        model.set_unfreeze_depth(depth)
        learning.append({tensor for tensor, p in model.named_parameters() if p.requires_grad})
    assert learning[0] == {f"backbone.{model.head_name}.weight", f"backbone.{model.head_name}.bias"}
    assert all(shallow < deep for shallow, deep in itertools.pairwise(learning))
    assert learning[-1] == {tensor for tensor, _ in model.named_parameters()}


def test_frozen_blocks_stay_in_evaluation_mode_after_every_switch():
    model = make("resnet18")
    model.set_unfreeze_depth(2)
    for _ in range(2):
        model.train()
        assert not any(module.training for module in model.backbone.layer2.modules())
        assert not model.backbone.bn1.training
        assert all(module.training for module in model.backbone.layer3.modules())
        model.eval()
        assert not any(module.training for module in model.modules())
    model.train().set_unfreeze_depth(5)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("depth", [-1, 6])
def test_a_depth_that_the_model_does_not_have_is_refused(depth):
    with pytest.raises(InputError, match=rf"`unfreeze_depth` must be from 0 .* to 5 .* but got unfreeze_depth={depth}"):
        make_classifier_on_meta("resnet18").set_unfreeze_depth(depth)


@pytest.mark.parametrize("name", [*DEPTHS, "convnext_atto", "mobilenetv3_small_050"])
def test_in_evaluation_mode_logits_equal_those_of_timms_own_forward(name):
    model = make(name).eval()
    model.set_drop_rate(0.5)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), model.backbone(images))


@pytest.mark.parametrize(
    ("name", "match"), [("dla34", "one linear head, but DLA has Conv2d"), ("pit_ti_224", "blocks")]
)
def test_models_without_a_linear_head_or_blocks_are_refused(name, match):
    with pytest.raises(InputError, match=f"`arch` must be .*{match}"):
        Classifier(make_meta(name))


def test_a_group_without_parameters_is_no_block_of_its_own():
    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.head = nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2)

        def group_matcher(self, coarse):
            return lambda name: ("a", "norm", "head").index(name.split(".")[0])

    statistics = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    assert split_blocks(Toy(), "head") == (("a.weight", "a.bias", *statistics),)


# --- Dropout: a head that is the identity shows what reaches it -----------------------------------------------------


@pytest.fixture(scope="module")
def transparent() -> Classifier:
    model = make("test_efficientnet", num_classes=256)
    head = model.backbone.get_submodule(model.head_name)
    assert head.in_features == 256
    with torch.no_grad():
        head.weight.copy_(torch.eye(256))
        head.bias.zero_()
    return model.train()


@given(rate=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_dropout_zeroes_its_share_and_scales_the_rest_so_that_the_mean_stays(transparent, rate, seed):
    transparent.set_drop_rate(rate)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        seen = transparent.classify(torch.ones(400, 256))
    kept = seen != 0
    deviation = (rate * (1 - rate) / seen.numel()) ** 0.5
    assert abs(kept.double().mean() - (1 - rate)) < 6 * deviation
    torch.testing.assert_close(seen[kept], torch.full_like(seen[kept], 1 / (1 - rate)), rtol=1e-5, atol=0)


def test_a_drop_rate_of_zero_changes_no_bit(transparent):
    features = torch.randn(16, 256)
    transparent.set_drop_rate(0.0)
    trained = transparent.classify(features)
    assert torch.equal(trained, transparent.eval().classify(features))
    transparent.train()


def test_dropout_keeps_the_type_of_half_precision_features(transparent):
    transparent.set_drop_rate(0.5)
    assert transparent._drop(torch.ones(2, 256, dtype=torch.bfloat16), None).dtype == torch.bfloat16


def test_many_drop_rates_are_one_graph(transparent):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(transparent.classify, backend=counter, fullgraph=True)
    zeros = []
    with torch.no_grad():
        for rate in torch.linspace(0, 0.9, 12).tolist():
            transparent.set_drop_rate(rate)
            zeros.append((compiled(torch.ones(64, 256)) == 0).double().mean().item())
    assert counter.frame_count == 1
    assert zeros == pytest.approx(torch.linspace(0, 0.9, 12).tolist(), abs=0.03)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_drop_rate_outside_its_range_is_refused(transparent, rate):
    with pytest.raises(InputError, match=r"`drop_rate` must be in \[0, 1\)"):
        transparent.set_drop_rate(rate)


def test_settings_are_no_part_of_the_state_dict(transparent):
    assert all(name.startswith("backbone.") for name in transparent.state_dict())
