"""Writes docs/ablations.md from what benchmarks.ablation measured: python -m benchmarks.ablation_page.

Every figure comes from benchmarks/results/ablation-*.json; nothing is written by hand.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.ablation_table import markdown
from benchmarks.pages import DOCS, Result, page_parser, write_page
from core.cli import run
from core.errors import counted
from core.framing import recorded_framing

_HEAD = """# Ablations

Written by `python -m benchmarks.ablation_page` from `benchmarks/results/ablation-*.json`; decision 20 has the reasons
for what is measured. Each change is made alone, to the first trial of a search. Gains are points of macro recall on
validation, judged as a trial is (`argmax p / prior`, best epoch), paired within seeds; a seed draws the split of train
and validation, by lesion, and the run. The intervals in brackets, 95 %, are Student's over seeds. The best of many
epochs is in part luck, which the gain at the last epoch leaves out. The test part stays sealed.

A search draws a change only if its interval lies above 0. Of forty changes that do nothing, one does by chance."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    return page_parser("ablation_page", __doc__, DOCS / "ablations.md")


def main(args: argparse.Namespace) -> int:
    """Writes the page."""
    return write_page(args, "ablation", page)


def page(results: Sequence[Result]) -> str:
    """The page of what was measured."""
    return "\n\n".join([_HEAD, *map(_section, results)]) + "\n"


def _section(result: Result) -> str:
    setting, *rows = result["rows"]
    base = ", ".join(f"{name}={value}" for name, value in setting["base"].items())
    framing, command = recorded_framing(setting), result["command"]
    if "framing" not in setting:  # it ran when there was no choice
        command += f" --framing {framing}"
    machine, learning = result["machine"], counted(setting["base"]["unfreeze_depth"], "block")
    where = machine.get("gpu") or f"{machine['cpu']}, {counted(setting['threads'], 'thread')}"
    return (
        f"## {setting['arch']} at {setting['image_size']} pixels, {learning} learning, {rows[0]['n']} seeds\n\n"
        f"{setting['epochs']} epochs; framing: {framing}; training images: {setting['train_images']}, validation "
        f"images: {setting['val_images']}; data: {setting['data']}; {where}; torch {result['versions']['torch']}; "
        f"{result['created'][:10]}. Base: {base}.\n\n{markdown(rows)}\n\n`{command}`"
    )


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
