"""Holds architectures to the contract at every depth: python -m benchmarks.architectures; writes docs/architectures.md.

With `--table` it writes, instead, the table that `python -m search.run --list-archs` reads, for the version of timm
that is installed: about a quarter of an hour.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.contract import IMAGE_SIZE, NAMED, Kept, check_architecture
from benchmarks.reporting import add_out_argument, finish
from core.archs import list_names
from core.catalogue import ArchFacts, measure_arch, read_table, write_table
from core.cli import Parser, progress, run, write

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"

_HEAD = """# Architectures

Written by `python -m benchmarks.architectures`. `--arch` takes any convolutional or transformer classifier of timm that
has one linear head and tells its blocks (`group_matcher`). `unfreeze_depth` counts these blocks, the stem being one;
what timm groups with the head, such as a last norm, goes with the last block. Image size and normalisation come from
the weight tag; transformers whose positions timm can resample take other sizes, in whole patches. `python -m search.run
--list-archs '*resnet*'` shows names, sizes and whether weights are on this machine.

## The contract
Held to at every depth by `pytest --slow tests/core/test_architectures.py`, at a few depths and by a small one of each
family in every run of the tests: a step of training changes the blocks that learn, their running statistics and
nothing else; the halves of the network, cut where learning begins, give what the whole gives, so that what is frozen is
computed once per view; what is saved and loaded says the same, and that as timm's own forward pass does; with its
batch norms folded into convolutions, as they are for a vote on a processor, it says so too, to 1e-9 in double
precision. At every depth only, as it takes long: an ensemble of it, exported to ONNX, gives PyTorch's probabilities to
1e-4."""

_SPACES = """## What is searched
MobileNets and EfficientNets have ranges of their own (`search/space.py`); any other backbone has them by its size:

| parameters without the head | learning rate, first trial | dropout, first trial |
|---|---|---|"""

_REST = """

All else is the same for each: batch size, weight decay, label smoothing, rebalancing, strength of augmentation, and an
`unfreeze_depth` from 0 to all blocks, the first trial's being half of them."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="timm's names (default: those of the page)")
    parser.add_argument("--table", action="store_true", help="write the table of --list-archs instead")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: docs/architectures.md")
    add_out_argument(parser, "architectures")
    return parser


def main(args: argparse.Namespace) -> int:
    """Checks, and writes the page; or writes the table."""
    if args.table:
        return write_whole_table()
    names = args.only or NAMED
    kept = []
    with progress("architectures", len(names)) as bar:
        for name in names:
            kept.append(check_architecture(name, every_depth=True, exports=True))
            write(_row(kept[-1]))
            bar.advance()
    args.page.write_text(page(kept), encoding="utf-8")
    frozen = sum(len(each.depths) - 1 for each in kept)
    finish(
        args.out,
        rows=[dataclasses.asdict(each) for each in kept],
        ratio=sum(len(each.cut) for each in kept) / frozen,
        about=f"share of the depths of {len(kept)} architectures with something frozen at which it is remembered",
    )
    return 0


def write_whole_table() -> int:
    """Looks at every model of the timm that is installed."""
    names = list_names()
    facts = []
    with progress("models", len(names)) as bar:
        for name in names:
            facts.append(measure_arch(name))
            bar.advance()
    write_table(version("timm"), facts)
    write(
        f"{len(facts)} models of timm {version('timm')}, of which {sum(not each.refusal for each in facts)} can be used"
    )
    return 0


def page(kept: Sequence[Kept]) -> str:
    """The page of what was checked."""
    release, table = read_table()
    heads = [
        *("architecture", "blocks", "parameters, M", "its pixels", "checked at depths", "remembered at depths"),
        *("norms folded", "exported, differs by", "seconds"),
    ]
    lines = [
        f"Checked with images of {IMAGE_SIZE} pixels and random weights, one processor thread of a busy machine:\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    checked = "\n".join([*lines, *map(_row, kept)])
    refused = [each for each in table.values() if each.refusal]
    spaces = "\n".join([_SPACES, *map(_space_row, _sizes())]) + _REST
    return "\n\n".join([_HEAD, checked, spaces, _refusals(release, len(table), refused)]) + "\n"


def _row(kept: Kept) -> str:
    cut = f"0 to {kept.cut[-1]}" if kept.cut == tuple(range(kept.blocks)) else ", ".join(map(str, kept.cut)) or "none"
    exported = "" if kept.exported is None else f"{kept.exported:.1g}"
    return (
        f"| `{kept.name}` | {kept.blocks} | {kept.parameters / 1e6:.1f} | {kept.image_size} | "
        f"{kept.depths[0]} to {kept.depths[-1]} | {cut} | {kept.folded} | {exported} | {kept.seconds:.1f} |"
    )


def _sizes() -> list[tuple[str, int]]:
    from search.space import LARGE, SMALL

    few, many = f"{SMALL // 1_000_000}", f"{LARGE // 1_000_000}"
    return [(f"below {few} M", SMALL - 1), (f"{few} to {many} M", SMALL), (f"from {many} M on", LARGE)]


def _space_row(size: tuple[str, int]) -> str:
    from search.space import any_backbone

    space = any_backbone(5, size[1])
    words, first = space.describe(), space.known_good
    return f"| {size[0]} | {words['lr']}, {first['lr']:g} | {words['drop_rate']}, {first['drop_rate']:g} |"


def _refusals(release: str, count: int, refused: Sequence[ArchFacts]) -> str:
    """Which models of timm can't be used, by the reason, the names of a family folded into one."""
    families: dict[str, list[str]] = {}
    for each in refused:
        families.setdefault(_reason(each.refusal), []).append(each.name)
    lines = [f"- {reason}: {_folded(names)}" for reason, names in sorted(families.items())]
    said = f"Of the {count:,} models of timm {release}, {len(refused)} are refused in one sentence; so many begin so:"
    return "\n".join(["## What is refused", said, "", *lines])


def _reason(refusal: str) -> str:
    if "one linear head" in refusal:
        return "no linear head, or several (a convolution, an MLP, a second head for distillation, or none)"
    return "no blocks that timm tells of" if "into blocks" in refusal else "no image classifiers"


def _folded(names: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        family = name.split("_")[0]
        counts[family] = counts.get(family, 0) + 1
    return ", ".join(f"`{family}*`" + (f" ({count})" if count > 1 else "") for family, count in counts.items())


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
