"""Depthwise convolutions whose activations are smaller than their kernel."""

import copy
import platform
import statistics
import time
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from core.depthwise import hasten_small_depthwise


def gradients(conv: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Outputs, and gradients of the inputs and of the weights."""
    images = images.clone().requires_grad_()
    outputs = conv(images)
    weights = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
    return (outputs, *torch.autograd.grad((outputs * weights).sum(), [images, *conv.parameters()]))


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding"),
    [
        (2, 2, 3, 1, 1),
        (2, 2, 3, 2, 1),
        (1, 1, 3, 1, 1),
        (4, 4, 5, 1, 2),
        (4, 4, 5, 2, 2),
        (2, 9, 3, 1, 1),
        (2, 3, 3, 1, (1, 0)),
        (7, 7, 3, 1, 1),
    ],
)
def test_gradients_are_those_of_the_plain_convolution(
    height: int, width: int, kernel: int, stride: int, padding: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 24, kernel, stride=stride, padding=padding, groups=24, bias=False).double()
    fast = copy.deepcopy(plain)
    hasten_small_depthwise(fast)
    images = torch.randn(3, 24, height, width).double().contiguous(memory_format=torch.channels_last)
    for expected, given in zip(gradients(plain, images), gradients(fast, images), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)


def test_outputs_are_the_same_bits_whether_the_layer_learns_or_not() -> None:
    """What is remembered of a frozen part must be what a learning one would give."""
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    hasten_small_depthwise(conv)
    images = torch.randn(8, 32, 2, 2).contiguous(memory_format=torch.channels_last)
    learning = conv(images)
    with torch.no_grad():
        assert torch.equal(conv(images), learning)
    assert torch.equal(conv.requires_grad_(False)(images), learning)
    assert torch.equal(nn.Conv2d.forward(copy.deepcopy(conv), images), learning)


def test_a_copy_computes_with_its_own_weights() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    hasten_small_depthwise(conv)
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        twin.weight.zero_()
    assert not twin(torch.ones(2, 8, 2, 2)).any()
    assert conv(torch.ones(2, 8, 2, 2)).any()


def test_a_network_learns_as_it_would() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv2_050", num_classes=3).to(memory_format=torch.channels_last).double().train()
    fast = copy.deepcopy(plain)
    hasten_small_depthwise(fast)
    images = torch.randn(6, 3, 64, 64).double().contiguous(memory_format=torch.channels_last)
    for network in (plain, fast):
        nn.functional.cross_entropy(network(images), torch.arange(6) % 3).backward()
    for (name, expected), given in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(given.grad, expected.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_only_plain_depthwise_convolutions_are_touched() -> None:
    others = nn.ModuleList(
        [
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=True),
            nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False, padding_mode="reflect"),
        ]
    )
    hasten_small_depthwise(others)
    assert not any("_conv_forward" in vars(module) for module in others.modules())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the slow way is oneDNN's")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the slow way was seen on x86-64 only")
def test_the_other_way_is_worth_it() -> None:
    """If a newer PyTorch no longer has the slow way, this module can go."""
    plain = nn.Conv2d(960, 960, 3, padding=1, groups=960, bias=False).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    hasten_small_depthwise(fast)
    images = torch.randn(32, 960, 2, 2).contiguous(memory_format=torch.channels_last)

    def seconds(conv: nn.Module) -> float:
        return statistics.median(_seconds(lambda: conv(images).sum().backward()) for _ in range(7))

    assert seconds(fast) < seconds(plain) / 2


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
