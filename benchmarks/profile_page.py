"""Writes docs/profile.md from what benchmarks.profile measured: python -m benchmarks.profile_page.

Every figure comes from benchmarks/results/profile*.json; nothing is written by hand.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import RESULTS
from core.cli import Parser, run, write
from core.errors import InputError

PAGE = Path(__file__).parent.parent / "docs" / "profile.md"
BAR = 40  # characters of the whole

_HEAD = """# Where the time of a search goes

Written by `python -m benchmarks.profile_page` from `benchmarks/results/profile*.json`. A search runs as it ships, with
an empty cache, and a hundred times a second a look is taken at what its main thread does. What differs between trials,
and would be left of a search without waste, are the rows of the learning part."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.profile_page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    parser.add_argument("--out", type=Path, default=PAGE, help="default: docs/profile.md")
    return parser


def main(args: argparse.Namespace) -> int:
    """Writes the page."""
    from core.files import read_json

    files = sorted(args.results.glob("profile*.json"))
    if not files:
        raise InputError(
            f"`--results` must be a folder with profile*.json, but {args.results} has none. "
            "Write one with benchmarks.profile."
        )
    args.out.write_text(page([read_json(file) for file in files]), encoding="utf-8")
    write(f"{args.out}: {len(files)} of them")
    return 0


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page of what was measured."""
    return "\n\n".join([_HEAD, *map(_section, results)]) + "\n"


def _section(result: Mapping[str, Any]) -> str:
    setting, *rows = result["rows"]
    where = f"{result['machine']['cpu']}, {setting['device']}; torch {result['versions']['torch']}"
    table = "\n".join(f"| {row['work']} | {row['share']:.1%} | {'█' * round(BAR * row['share'])} |" for row in rows)
    return (
        f"## {setting['arch']} at {setting['image_size']} pixels\n\n"
        f"{setting['trials']} trials of {setting['epochs']} epochs on {setting['train_images']:,} training and "
        f"{setting['val_images']:,} validation images ({setting['data']}), {setting['seconds']:.0f} s in all; "
        f"{where}; {result['created'][:10]}."
        f"\n\n| work | share | |\n|---|---|---|\n{table}\n\nThe learning parts take {result['ratio']:.1%}.\n\n"
        f"`{result['command']}`"
    )


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
