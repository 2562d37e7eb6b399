"""The config parser: any JSON object becomes a config that survives being written, or is refused."""

import dataclasses
import json
import math
from typing import Any

from hypothesis import strategies as st

from core.config import AUGMENT_STRENGTHS, TrainConfig
from core.errors import InputError
from tests.fuzz.mutations import json_values
from tests.fuzz.target import Target, assert_one_sentence, no_hang

_RIGHT: dict[str, Any] = TrainConfig(arch="mobilenetv2_100", image_size=224, lr=0.001).to_dict()
_NAMES = [field.name for field in dataclasses.fields(TrainConfig)]
_LIKELY = st.sampled_from([0, 1, 0.5, 2, 32, 224, 1.0, *AUGMENT_STRENGTHS, "adam", "sgd", "step", "", True, None])

# Most are right but for one to three values, so that each rule is reached.
_INPUTS = st.builds(
    lambda changes, gone: {name: value for name, value in (_RIGHT | changes).items() if name not in gone},
    st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=9), _LIKELY | json_values, max_size=3),
    st.sets(st.sampled_from(_NAMES), max_size=1),
) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=9), json_values)


def check(values: dict[str, Any]) -> None:
    """Gives an object to the parser."""
    with no_hang():
        try:
            config = TrainConfig.from_dict(values)
        except InputError as error:
            assert_one_sentence(error)
            return
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config
    assert all(math.isfinite(value) for value in config.to_dict().values() if isinstance(value, float))


TARGET = Target("configs", 0.1, _INPUTS, check)
