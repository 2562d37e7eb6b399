"""What a network or its depth has no place for is refused."""

import pytest

from core.archs import resolve_arch
from core.backbones import build_classifier
from core.classifier import Classifier
from core.errors import InputError
from core.trainer import Trainer
from core.uses import least_depth, refuse_unused
from tests.fixtures.colours import colour_config, colour_trainer, go_on


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return colour_trainer("test_convnext")


def classifier(name: str) -> Classifier:
    return build_classifier(resolve_arch(name), num_classes=3, weights=None, seed=0)


def test_branches_are_left_out_from_the_block_on_that_has_one() -> None:
    # The last block of MobileNetV2 is one layer without a shortcut; ConvNeXt has one in each.
    assert least_depth("drop_path", classifier("mobilenetv2_035")) == 2
    assert least_depth("drop_path", classifier("test_convnext")) == 1
    assert least_depth("drop_path", classifier("vgg11")) is None
    assert least_depth("drop_path", classifier("test_efficientnet")) is None


def test_a_field_that_needs_no_block_serves_at_any_depth(trainer: Trainer) -> None:
    assert least_depth("mixup", trainer.model) == 0
    for values in ({"mixup": 0.2}, {"l1": 0.1}, {"ema": 1.0}):
        refuse_unused(colour_config(trainer, unfreeze_depth=0, **values), trainer.model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_decay": 0.5, "unfreeze_depth": 0}, "`layer_decay` must be 1 where fewer than 1 of the 5 blocks"),
        ({"drop_path": 0.1, "unfreeze_depth": 0}, "`drop_path` must be 0 where fewer than 1 of the 5 blocks"),
        ({"cutmix": 1.0, "unfreeze_depth": 4}, "`cutmix` must be 0 where fewer than 5 of the 5 blocks"),
    ],
)
def test_what_nothing_would_use_is_refused_before_the_first_step(
    trainer: Trainer, values: dict[str, float], message: str
) -> None:
    def step(images: int) -> None:
        raise AssertionError("a step was taken")

    with pytest.raises(InputError, match=message):
        trainer.train(colour_config(trainer, **values), go_on, on_step=step)


def test_branches_of_a_network_without_any_are_refused_by_its_name() -> None:
    trainer = colour_trainer()
    with pytest.raises(InputError, match=r"`drop_path` must be 0 for test_efficientnet, .* but got drop_path=0\.1"):
        trainer.train(colour_config(trainer, drop_path=0.1), go_on)
