"""Which versions gave a result."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchvision", "timm", "ffcv", "optuna", "numpy", "scikit-learn", "pillow")


def installed_versions(also: Sequence[str] = ()) -> dict[str, str]:
    """Version of Python, of each package that a result depends on and of some more; may be ``not installed``."""
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *also):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
