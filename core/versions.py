"""Which versions gave a result."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "torchvision", "timm", "ffcv", "optuna", "numpy", "scikit-learn", "pillow")


def installed_versions() -> dict[str, str]:
    """Version of Python and of each package that a result depends on; an extra may be ``not installed``."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
