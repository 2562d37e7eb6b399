"""A number of inputs for one reader, in whatever process."""

import importlib
import os
import resource
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import hypothesis
import psutil

from tests.fuzz.target import Target

TARGETS = {"images": "pictures", "tables": "tables", "studies": "studies", "configs": "configs"}
_MOST_MEMORY = 4 << 30  # bytes of addresses beside those of the process; the largest image that is decoded takes 1.5


@dataclass(frozen=True)
class Outcome:
    """What a batch gave."""

    target: str
    inputs: int
    seconds: float
    failure: str


def load(name: str) -> Target:
    """A target by its name; what it reads with is imported only now."""
    target = importlib.import_module(f"tests.fuzz.{TARGETS[name]}").TARGET
    assert isinstance(target, Target)
    return target


def run_batch(name: str, inputs: int, seed: int) -> Outcome:
    """Gives a reader some inputs; equal seeds give equal ones."""
    target = load(name)
    if not target.needs_torch:
        # Beside what is there: a process of all tests has 6 GB, and Python itself breaks where nothing can be had.
        most = psutil.Process().memory_info().vms + _MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    count = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(value=target.inputs)
    def check(value: Any) -> None:
        nonlocal count
        count += 1
        target.check(value)

    start, failure = time.perf_counter(), ""
    try:
        check()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        failure = "".join(traceback.format_exception(error))
    finally:
        if not target.needs_torch:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return Outcome(name, count, time.perf_counter() - start, failure)


def start(folder: str) -> None:
    """Begins a process: warnings are errors, as in the tests, and files go where the parent will remove them."""
    import core.images

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes there of every fault that it finds
    warnings.simplefilter("error")
    importlib.reload(core.images)
    tempfile.tempdir = folder
