"""Names of architectures, and what timm knows of each."""

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from core.errors import InputError
from core.framing import DEFAULT, EARLIER, Frame, Framing

# timm takes seconds to import and --help must not: it is imported inside functions.
if TYPE_CHECKING:
    from timm.models import PretrainedCfg

ALIASES = {"mobilenet": "mobilenetv2_100"}
# The size that EfficientNet-B3 was scaled to (Tan, Le 2019); timm's tag trains at 288 and tests at 320.
IMAGE_SIZES = {"efficientnet_b3": 300}
SMALLEST_SIZE, LARGEST_SIZE = 32, 4096  # pixels of a side; a batch of images of more would fill any memory


@dataclass(frozen=True, kw_only=True)
class Arch:
    """An architecture and what its pretrained weights expect.

    Attributes:
        name: As the user wrote it.
        timm_name: Name of the timm model, without a tag.
        image_size: Side of the square that the model sees, pixels.
        mean: Mean of each channel, red first, of pixels scaled to 0-1.
        std: Standard deviation of each channel, likewise.
        weight_tag: timm's tag of the pretrained weights; None where timm knows none.
        framing: What of a photo it sees. Studies and ensembles from before there was a choice don't say.
    """

    name: str
    timm_name: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weight_tag: str | None
    framing: Framing = EARLIER

    @property
    def frame(self) -> Frame:
        """What is kept of a photo."""
        return Frame.of(self.image_size, self.framing)

    @property
    def full_name(self) -> str:
        """timm's name with the tag."""
        return f"{self.timm_name}.{self.weight_tag}" if self.weight_tag else self.timm_name


def resolve_arch(name: str) -> Arch:
    """Looks up an architecture.

    Args:
        name: ``mobilenet``, or any timm model with or without a tag; without one, timm's default tag is meant.

    Raises:
        InputError: timm has no such model or tag; the nearest names are in the message.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    timm_name, dot, tag = ALIASES.get(name, name).partition(".")
    known = timm.list_models()
    if timm_name not in known:
        raise InputError(_unknown("a timm model", name, [*ALIASES, *known]))
    tagged = timm.list_models(f"{timm_name}.*", include_tags=True)
    if dot and f"{timm_name}.{tag}" not in tagged:  # nor an empty one: the study would be named after it
        raise InputError(_unknown(f"{timm_name} with one of its tags", name, tagged))
    cfg = pretrained_cfg(f"{timm_name}.{tag}" if tag else timm_name)
    data = resolve_model_data_config(None, pretrained_cfg=asdict(cfg))  # type: ignore[no-untyped-call]
    return Arch(
        name=name,
        timm_name=timm_name,
        image_size=IMAGE_SIZES.get(timm_name, data["input_size"][-1]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        weight_tag=cfg.tag,
        framing=DEFAULT,
    )


def list_names() -> list[str]:
    """The names of all timm models, without tags."""
    import timm

    return timm.list_models()


def _unknown(rule: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5) or [*ALIASES, *IMAGE_SIZES]
    return f"`arch` must be {rule}, but got arch={name!r}. Use {' or '.join(near)}, for example."


def pretrained_cfg(full_name: str) -> "PretrainedCfg":
    """What timm knows of the weights of a model that it lists: ``hf_hub_id``, ``license``, ``classifier`` and more."""
    import timm

    cfg = timm.get_pretrained_cfg(full_name)
    assert cfg is not None, f"timm lists {full_name} but has no config for it"
    return cfg
