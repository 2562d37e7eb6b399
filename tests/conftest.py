"""What all tests share: their own cache folder, a fixed number of threads, and when a marked test skips itself."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a hub, nor wait for one
# The golden losses hold for one number of threads: sums are added up in another order with more. And one thread is the
# fastest for networks this small: on busy cores two of them mostly wait for each other. It is set before any folder's
# conftest is read, as some import torch, which asks once.
os.environ["OMP_NUM_THREADS"] = "1"

# The machines that run this are shared and noisy: a deadline in milliseconds would fail at random.
hypothesis.settings.register_profile("dermatune", deadline=None, print_blob=True)
hypothesis.settings.load_profile("dermatune")


# Files that take longest, first: each runs in one process, and the last one to start decides when all are over.
LONGEST_FILES = (
    *("test_end_to_end.py", "test_workers.py", "test_database.py", "test_cluster.py"),
    *("test_run.py", "test_chaos.py", "test_loaders.py"),
)


def ham10000_folder() -> Path:
    """Where HAM10000's images are, if anywhere: `DERMATUNE_HAM10000`, else beside the clone."""
    return Path(os.environ.get("DERMATUNE_HAM10000", ROOT.parent / "shared" / "data" / "ham10000"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is imported, of which nothing is garbage
    # In the environment, so that child processes have it too.
    cache = tempfile.mkdtemp(prefix="dermatune-tests-")
    config.add_cleanup(lambda: shutil.rmtree(cache))
    config.add_cleanup(gc.unfreeze)  # some modules complain of what is still there when a process ends
    os.environ["DERMATUNE_CACHE"] = cache


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)  # the rest stays in order
    reasons = {
        "slow": None if config.getoption("--slow") else "slow: give pytest --slow to run it",
        "realdata": None if ham10000_folder().is_dir() else f"no HAM10000 images in {ham10000_folder()}",
    }
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        reasons["gpu"] = None if torch.cuda.is_available() else "no CUDA device"
    for item in items:
        for name, reason in reasons.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    # The collector would look at half a million objects that stay for as long as the process, each time.
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """HAM10000's folder, for tests marked `realdata`."""
    return ham10000_folder()
