"""A look at a search's stack is put down to the work that is being done."""

import threading
import time
from types import FrameType, SimpleNamespace
from typing import cast

import pytest

from benchmarks.profile import AROUND, BACKWARD, FORWARD, FROZEN, IMPORTING, OTHER, WORK, watching, work_of


def stack(*calls: tuple[str, str]) -> FrameType:
    """The innermost frame of calls, the outermost first."""
    frame = None
    for module, function in calls:
        frame = SimpleNamespace(f_globals={"__name__": module}, f_code=SimpleNamespace(co_name=function), f_back=frame)
    return cast(FrameType, frame)


TRIAL = (("search.objective", "run"), ("core.run", "train_epoch"))


@pytest.mark.parametrize(
    ("calls", "work"),
    [
        ((*TRIAL, ("core.run", "step"), ("torch.autograd.graph", "_engine_run_backward")), BACKWARD),
        ((*TRIAL, ("core.run", "step"), ("timm.models", "forward")), FORWARD),
        ((*TRIAL, ("core.prefix", "batches"), ("core.prefix", "_in_chunks")), FROZEN),
        ((("search.session", "show_estimate"), ("core.run", "step")), AROUND["search.session", "show_estimate"]),
        ((*TRIAL, ("importlib._bootstrap", "_load")), IMPORTING),
        ((("search.objective", "run"), ("core.study_folder", "write_trial")), WORK["search.objective", "run"]),
        ((("search.run", "main"),), OTHER),
    ],
)
def test_the_innermost_known_call_counts_unless_one_stands_for_all_within(
    calls: tuple[tuple[str, str], ...], work: str
) -> None:
    assert work_of(stack(*calls)) == work


def test_every_name_is_one_of_a_function_that_is_there() -> None:
    import importlib

    for module, function in [*AROUND, *WORK]:
        found = importlib.import_module(module)
        classes = [each for each in vars(found).values() if isinstance(each, type) and each.__module__ == module]
        assert any(hasattr(owner, function) for owner in (found, *classes)), (module, function)


def test_looks_are_counted_while_it_lasts() -> None:
    with watching(threading.get_ident()) as looks:
        time.sleep(0.2)
    counted = looks.total()
    time.sleep(0.05)
    assert looks.total() == counted == looks[OTHER] > 0
