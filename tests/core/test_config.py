import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import TrainConfig
from core.errors import InputError

VALID = {"arch": "mobilenetv2_100", "image_size": 64, "lr": 1e-3}


@given(
    lr=st.floats(1e-8, 1.0),
    drop_rate=st.floats(0, 0.99),
    batch_size=st.integers(1, 512),
    schedule=st.sampled_from(["cosine", "step", "plateau"]),
)
def test_a_config_survives_json(lr: float, drop_rate: float, batch_size: int, schedule: str) -> None:
    config = TrainConfig.from_dict(
        VALID | {"lr": lr, "drop_rate": drop_rate, "batch_size": batch_size, "schedule": schedule}
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("lr", 0.0, "above 0"),
        ("lr", float("nan"), "a finite number"),
        ("lr", "fast", "a finite number"),
        ("epochs", 0, "at least 1"),
        ("epochs", 3.0, "a whole number"),
        ("batch_size", True, "a whole number"),
        ("drop_rate", 1.0, r"in \[0, 1\)"),
        ("rebalance", 1.5, r"in \[0, 1\]"),
        ("optimizer", "lion", "one of adamw, adam, sgd"),
        ("schedule", 7, "text"),
        ("loss", "hinge", "one of weighted, cross_entropy, logit_adjusted, focal"),
        ("sampler", "random", "one of shuffled, balanced"),
        ("focal_gamma", 11.0, "at most 10"),
        ("warmup_epochs", 10, "below `epochs`"),
        ("ema", -1.0, "0 or more"),
        ("mixup", 11.0, "at most 10"),
        ("cutmix", 11.0, "at most 10"),
        ("l1", 2.0, r"in \[0, 1\]"),
        ("drop_path", 1.0, r"in \[0, 1\)"),
        ("layer_decay", 0.0, r"in \(0, 1\]"),
        ("average_last", 11, "at most `epochs`"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_with_rule_and_value(field: str, value: object, rule: str) -> None:
    with pytest.raises(InputError, match=rf"`{field}` must be {rule}, but got {field}="):
        TrainConfig.from_dict(VALID | {field: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "weighted", "sampler": "balanced"}, "`loss` must be cross_entropy with sampler=balanced"),
        ({"loss": "logit_adjusted", "sampler": "balanced"}, "`loss` must be cross_entropy with sampler=balanced"),
        ({"loss": "cross_entropy"}, "`loss` must be cross_entropy with sampler=balanced, and only then"),
        ({"loss": "focal", "focal_gamma": 2.0}, "`rebalance` must be 0 with loss=focal"),
        ({"loss": "focal", "focal_gamma": 2.0, "rebalance": 0.0, "sampler": "balanced"}, "must be shuffled with loss"),
        ({"loss": "focal", "rebalance": 0.0}, "`focal_gamma` must be above 0 with loss=focal"),
        ({"focal_gamma": 2.0}, "`focal_gamma` must be 0 with loss=weighted"),
    ],
)
def test_rare_classes_are_brought_forward_by_one_mechanism(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig.from_dict(VALID | {"rebalance": 0.5} | values)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "logit_adjusted", "rebalance": 1.0},
        {"loss": "focal", "focal_gamma": 2.0},
        {"loss": "cross_entropy", "sampler": "balanced", "rebalance": 0.5},
        {"loss": "cross_entropy"},
    ],
)
def test_each_mechanism_alone_is_taken(values: dict[str, object]) -> None:
    assert TrainConfig.from_dict(VALID | values).to_dict().items() >= values.items()


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(InputError, match="known keys only, but got leaning_rate"):
        TrainConfig.from_dict(VALID | {"leaning_rate": 1e-3})


def test_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match="must have lr"):
        TrainConfig.from_dict({"arch": "mobilenetv2_100", "image_size": 64})


def test_one_average_is_taken() -> None:
    with pytest.raises(InputError, match=r"`average_last` must be 0 with ema=1\.0, but got average_last=2"):
        TrainConfig.from_dict(VALID | {"ema": 1.0, "average_last": 2})


def test_images_are_mixed_in_one_way() -> None:
    with pytest.raises(InputError, match=r"`cutmix` must be 0 with mixup=0\.2, but got cutmix=1\.0"):
        TrainConfig.from_dict(VALID | {"mixup": 0.2, "cutmix": 1.0})
