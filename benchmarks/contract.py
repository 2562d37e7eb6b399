"""What every architecture must hold to, as `tests/core/test_architectures.py` and `benchmarks.architectures` check.

Images are as small as the architecture takes them, weights random: what is checked depends on neither.
"""

import copy
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.archs import Arch
    from core.classifier import Classifier
    from ensemble.spec import EnsembleSpec

IMAGE_SIZE = 64  # pixels: what all of them take
CLASSES = 3
_IMAGES = 4
_TOLERANCE = 1e-4  # of the largest logit: halves may sum in another order than the whole
_DOUBLE_TOLERANCE = 1e-9  # likewise, in double precision

# Of each family a small one, which the tests look at at a few depths.
SMALL = (
    "mobilenetv1_100",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "efficientnet_lite0",
    "resnet18",
    "densenet121",
    "convnext_atto",
    "regnetx_002",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
# Those that people name; they are looked at at every depth.
NAMED = (
    *("mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small"),
    *("efficientnet_b0", "efficientnet_b3", "tf_efficientnet_lite0", "efficientnetv2_rw_t", "tf_efficientnetv2_b0"),
    *("resnet18", "resnet50", "densenet121", "convnext_tiny", "regnety_016"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224"),
)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An architecture that keeps the contract.

    Attributes:
        name: timm's.
        blocks: Blocks that `unfreeze_depth` counts.
        parameters: Of the backbone, the head's aside.
        image_size: Of its weights, pixels.
        depths: Depths at which it was checked.
        cut: Those of them at which something is frozen and the network is cut, so that it is remembered.
        folded: Batch norms that a vote on a processor does without.
        exported: Largest difference of a probability between PyTorch and the exported file; None if it wasn't exported.
        seconds: That the check took.
    """

    name: str
    blocks: int
    parameters: int
    image_size: int
    depths: tuple[int, ...]
    cut: tuple[int, ...]
    folded: int
    exported: float | None
    seconds: float


def check_architecture(name: str, *, every_depth: bool, exports: bool = False) -> Kept:
    """Holds an architecture to the contract.

    Args:
        name: timm's.
        every_depth: Else head alone, one block, half of them, and everything.
        exports: Whether it is exported too, which takes up to a minute.

    Raises:
        AssertionError: It doesn't keep it.
        InputError: It can't be used, or not be exported.
    """
    from core.archs import resolve_arch
    from core.backbones import build_classifier

    start = time.perf_counter()
    arch = resolve_arch(name)
    small = replace(arch, image_size=IMAGE_SIZE)
    model = build_classifier(small, num_classes=CLASSES, weights=None, seed=0)
    stir(model)
    first = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    most = model.max_unfreeze_depth
    depths = tuple(range(most + 1)) if every_depth else tuple(sorted({0, 1, most // 2, most}))
    cut = []
    for depth in depths:
        model.load_state_dict(first)
        model.set_unfreeze_depth(depth)
        if _check_halves(model, small):
            cut.append(depth)
        _check_step(model, small)
    model.load_state_dict(first)
    _check_saving(model, small)
    folded = _check_folding(model, small)
    return Kept(
        name=arch.timm_name,
        blocks=most,
        parameters=model.body_size,
        image_size=arch.image_size,
        depths=depths,
        cut=tuple(cut),
        folded=folded,
        exported=_check_export(small) if exports else None,
        seconds=time.perf_counter() - start,
    )


def stir(model: "nn.Module") -> None:
    """Moves all weights and running statistics: timm starts some at zero, behind which nothing would learn or show."""
    import torch

    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=numbers))
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.add_(0.1 * torch.randn(statistic.shape, generator=numbers))
            elif name.endswith("running_var"):
                statistic.mul_(0.5 + torch.rand(statistic.shape, generator=numbers))


def _images(arch: "Arch") -> "Tensor":
    import torch

    return torch.randn(_IMAGES, 3, arch.image_size, arch.image_size, generator=torch.Generator().manual_seed(2))


def _check_step(model: "Classifier", arch: "Arch") -> None:
    """A step of training changes exactly the blocks that learn, running statistics included."""
    import torch

    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    labels = torch.arange(_IMAGES) % CLASSES
    torch.nn.functional.cross_entropy(model.train()(_images(arch)), labels).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(10 * parameter.grad)
                parameter.grad = None
    changed = {name for name, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = expected_to_learn(model.backbone, model.head_name, model.unfreeze_depth)
    assert changed == expected, (
        f"{arch.timm_name} at depth {model.unfreeze_depth}: {sorted(changed ^ expected)[:4]} of "
        f"{len(changed ^ expected)} tensors that learn and shouldn't, or should and don't"
    )


def expected_to_learn(backbone: "nn.Module", head_name: str, depth: int) -> set[str]:
    """What must learn at a depth by timm's own grouping; what stands with the head goes with the last block."""
    from timm.models import group_parameters

    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))  # type: ignore[operator]
    blocks: list[set[str]] = []
    for number in sorted(groups):
        body = {name for name in groups[number] if not name.startswith(f"{head_name}.")}
        if blocks and len(body) < len(groups[number]):
            blocks[-1] |= body
        else:
            blocks.append(body)
    learning = set[str]().union(*blocks[len(blocks) - depth :])
    learning |= {name for name, _ in backbone.named_parameters() if name.startswith(f"{head_name}.")}
    return learning | _statistics_of(backbone, learning)


def _statistics_of(backbone: "nn.Module", learning: Collection[str]) -> set[str]:
    """The running statistics of norms whose weights learn."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    modules = {name.rpartition(".")[0] for name in learning}
    return {
        name
        for name, _ in backbone.named_buffers()
        if name.rpartition(".")[2] in statistics and name.rpartition(".")[0] in modules
    }


def _check_halves(model: "Classifier", arch: "Arch") -> bool:
    """What the halves of a cut network make of images is what the whole one does; returns whether it is cut."""
    import torch

    if (cut := model.cut(arch.image_size)) is None:
        return False
    images = _images(arch)
    model.train()  # what the cut was tried with was evaluation
    with torch.no_grad():
        # Batches are normalised by themselves, so that statistics that move in between change nothing.
        halves, whole = model.classify(cut.learning(cut.frozen(images))), model(images)
    assert (whole - halves).abs().max() <= _TOLERANCE * whole.abs().max(), (
        f"{arch.timm_name} at depth {model.unfreeze_depth}: activations of the frozen part lead elsewhere"
    )
    return True


def _check_folding(model: "Classifier", arch: "Arch") -> int:
    """What is computed for a vote is what was trained; returns how many norms it does without."""
    import torch

    def norms(network: "nn.Module") -> int:
        return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())

    # In single precision stirred weights make 3e-4 of the order of sums alone (MobileNetV3).
    exact, images = copy.deepcopy(model).double(), _images(arch).double()
    folded = exact.folded(arch.image_size)
    with torch.inference_mode():
        fewer, whole = folded(images), exact(images)
    assert (whole - fewer).abs().max() <= _DOUBLE_TOLERANCE * whole.abs().max(), (
        f"{arch.timm_name}: its folded norms lead elsewhere"
    )
    return norms(exact) - norms(folded)


def _check_saving(model: "Classifier", arch: "Arch") -> None:
    """What was saved and loaded into another classifier says the same, and that as timm's own forward does."""
    import torch

    from core.backbones import build_classifier
    from core.files import read_tensors, write_tensors

    other = build_classifier(arch, num_classes=CLASSES, weights=None, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        write_tensors(file, model.state_dict())
        other.load_state_dict(read_tensors(file))
    with torch.no_grad():
        images = _images(arch)
        expected = model.eval()(images)
        assert torch.equal(other.eval()(images), expected), f"{arch.timm_name} is another once it was saved"
        torch.testing.assert_close(model.backbone(images), expected)


def _check_export(arch: "Arch") -> float:
    """An ensemble of it alone is written as one file; returns how far its probabilities are from PyTorch's.

    Raises:
        InputError: It can't be written, or gives others.
    """
    import torch

    from core.backbones import build_classifier
    from ensemble.graph import EnsembleGraph
    from ensemble.onnx_file import check_onnx, write_onnx

    model = build_classifier(arch, num_classes=CLASSES, weights=None, seed=0)
    images = _coloured(arch)
    with torch.no_grad():
        # With statistics of such images as are compared, and of many: else what a new network makes of them fades from
        # layer to layer, or grows to logits of 1e5 whose last digits decide.
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        model.train()(images)
        spread = model.eval()(images).softmax(1).std(0).max()
    assert spread > 100 * _TOLERANCE, f"{arch.timm_name} says the same of all images, which shows nothing"
    graph = EnsembleGraph(_alone(arch), [[model.folded(arch.image_size)]]).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(graph, file)
        return check_onnx(graph, file)


def _coloured(arch: "Arch") -> "Tensor":
    """Noise of few grey levels around a colour of each image's own (64, 3, H, H), normalised."""
    import torch

    numbers = torch.Generator().manual_seed(2)
    colours = torch.rand(64, 3, 1, 1, generator=numbers) * 0.8
    pixels = colours + torch.rand(64, 3, arch.image_size, arch.image_size, generator=numbers) * 0.2
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (arch.mean, arch.std))
    return (pixels - mean) / std


def _alone(arch: "Arch") -> "EnsembleSpec":
    """An ensemble of one untrained network."""
    from core.versions import installed_versions
    from ensemble.decision import Rule
    from ensemble.spec import EnsembleSpec, MemberSpec

    member = MemberSpec(
        study=arch.timm_name,
        trial=0,
        arch=arch,
        files=("model.safetensors",),
        weight=1.0,
        prior=(1 / CLASSES,) * CLASSES,
        recall=0.0,
        recall_interval=(0.0, 0.0),
        best_epoch=0,
        config={},
    )
    return EnsembleSpec(
        classes=tuple(f"class {c}" for c in range(CLASSES)),
        members=(member,),
        left_out=(),
        demo=True,
        data={},
        split={},
        versions=installed_versions(),
        command="",
        created="2026-01-01T00:00:00Z",
        rule=Rule(tau=1.0, vote="mean", views=1, temperature=1.0),
        operating_points=(),
    )
