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
        ("warmup_epochs", 10, "below `epochs`"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_with_rule_and_value(field: str, value: object, rule: str) -> None:
    with pytest.raises(InputError, match=rf"`{field}` must be {rule}, but got {field}="):
        TrainConfig.from_dict(VALID | {field: value})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(InputError, match="known keys only, but got leaning_rate"):
        TrainConfig.from_dict(VALID | {"leaning_rate": 1e-3})


def test_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match="must have lr"):
        TrainConfig.from_dict({"arch": "mobilenetv2_100", "image_size": 64})
