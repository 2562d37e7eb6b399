"""What `--list-archs` says of timm's models, without building them, and without importing torch where a table serves.

The table lies beside this file and is of one version of timm (`python -m benchmarks.architectures --table` writes it):
to build all of them, though without memory for their weights, takes a quarter of an hour.
"""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.archs import ALIASES, list_names
from core.carried import CARRIED
from core.errors import InputError

TABLE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True, kw_only=True)
class ArchFacts:
    """What is known of a timm model that has not been built.

    Attributes:
        name: timm's, without a tag.
        parameters: Of the backbone, the head's aside; 0 where it can't be used.
        blocks: Blocks that `unfreeze_depth` counts; 0 where it can't be used.
        image_size: Side of the square that its weights expect, pixels; 0 where timm knows none.
        repo: Repository of its weights on the Hugging Face hub; empty where timm knows none.
        refusal: Why it can't be used; empty if it can.
    """

    name: str
    parameters: int = 0
    blocks: int = 0
    image_size: int = 0
    repo: str = ""
    refusal: str = ""


def read_table() -> tuple[str, dict[str, ArchFacts]]:
    """The version of timm that the table is of, and what it knows, by name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        release = file.readline().removeprefix("# timm ").strip()
        rows = list(csv.DictReader(file))
    numbers = [field.name for field in fields(ArchFacts) if field.type is int]
    typed: list[dict[str, Any]] = [row | {name: int(row[name]) for name in numbers} for row in rows]
    facts = [ArchFacts(**row) for row in typed]
    return release, {each.name: each for each in facts}


def write_table(release: str, facts: list[ArchFacts]) -> None:
    """Writes the table of a version of timm."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# timm {release}\n")
        table = csv.DictWriter(file, [field.name for field in fields(ArchFacts)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(each) for each in facts)


def find_archs(pattern: str) -> list[ArchFacts]:
    """The models whose names match a pattern; what the table doesn't know is built to find out.

    Args:
        pattern: As the shell's, such as ``mobilenet*``; aliases of ours match too.

    Raises:
        InputError: None matches.
    """
    release, table = read_table()
    # Another version may know others.
    known = list(table) if release == version("timm") else list_names()
    named = {ALIASES[alias] for alias in ALIASES if fnmatchcase(alias, pattern)}
    names = [name for name in known if name in named or fnmatchcase(name, pattern)]
    if not names:
        raise InputError(
            f"`--list-archs` must match a timm model, but got --list-archs={pattern}. Put stars around a part of a "
            "name, in quotation marks, as in --list-archs '*efficientnet*'."
        )
    return [table[name] if name in table else measure_arch(name) for name in names]


def measure_arch(name: str) -> ArchFacts:
    """Builds a model without memory for its weights, and looks at it."""
    from core.archs import pretrained_cfg, resolve_arch
    from core.backbones import build_skeleton

    arch = resolve_arch(name)
    repo = pretrained_cfg(arch.full_name).hf_hub_id or ""
    try:
        model = build_skeleton(arch)
    except InputError as error:
        return ArchFacts(name=name, image_size=arch.image_size, repo=repo, refusal=str(error))
    return ArchFacts(
        name=name,
        parameters=model.body_size,
        blocks=model.max_unfreeze_depth,
        image_size=arch.image_size,
        repo=repo,
    )


def where_weights_are(facts: ArchFacts) -> str:
    """Whether a model's weights are on this machine, and where; nobody is asked over the network."""
    from core.hub import cached_file

    if facts.repo and cached_file(facts.repo):
        return "yes (cache)"
    carried = CARRIED.get(facts.name)
    if carried and (file := carried.locate()) and file.is_file():
        return f"yes (package {carried.distribution})"
    return "no"


def list_archs(pattern: str) -> Iterator[str]:
    """Lines that tell of the models whose names match a pattern, one a line, and of those that can't be used."""
    found = find_archs(pattern)
    usable = [each for each in found if not each.refusal]
    width = max((len(each.name) for each in usable), default=0)
    if usable:
        yield f"{'name':<{width}}  {'parameters':>10}  {'blocks':>6}  {'pixels':>6}  weights here"
    for each in usable:
        yield (
            f"{each.name:<{width}}  {each.parameters / 1e6:>8.1f} M  {each.blocks:>6}  {each.image_size:>6}  "
            f"{where_weights_are(each)}"
        )
    refused = [each.name for each in found if each.refusal]
    if refused:
        yield f"{len(refused)} more that can't be used, as --arch NAME says why: {', '.join(refused)}"
    if any(each.name == ALIASES["mobilenet"] for each in usable):
        yield f"--arch mobilenet is {ALIASES['mobilenet']}."
