"""Writes docs/profile.md from what benchmarks.profile measured: python -m benchmarks.profile_page.

Every figure comes from benchmarks/results/profile*.json; nothing is written by hand.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.pages import DOCS, Result, page_parser, write_page
from core.cli import run

BAR = 40  # characters of the whole

_HEAD = """# Where the time of a search goes

Written by `python -m benchmarks.profile_page` from `benchmarks/results/profile*.json`. A search runs as it ships, with
an empty cache, and a hundred times a second a look is taken at what its main thread does. What differs between trials,
and would be left of a search without waste, are the rows of the learning part."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    return page_parser("profile_page", __doc__, DOCS / "profile.md")


def main(args: argparse.Namespace) -> int:
    """Writes the page."""
    return write_page(args, "profile", page)


def page(results: Sequence[Result]) -> str:
    """The page of what was measured."""
    return "\n\n".join([_HEAD, *map(_section, results)]) + "\n"


def _section(result: Result) -> str:
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
