"""Pages of docs/ that are written from result files, so that no figure in them was copied by hand."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting import RESULTS
from core.cli import Parser, write
from core.errors import InputError

DOCS = Path(__file__).parent.parent / "docs"

Result = Mapping[str, Any]


def page_parser(name: str, about: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments of a command that writes a page.

    Args:
        name: Of its module in `benchmarks`.
        about: What it does.
        out: Where the page goes by default.
    """
    parser = Parser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    parser.add_argument("--out", type=Path, default=out, help=f"default: docs/{out.name}")
    return parser


def write_page(args: argparse.Namespace, kind: str, page: Callable[[Sequence[Result]], str]) -> int:
    """Writes a page from all results of a kind.

    Args:
        args: What `page_parser`'s parser has read.
        kind: What the files' names begin with, and of the benchmark that writes them.
        page: The page of their contents.

    Raises:
        InputError: There are none.
    """
    from core.files import read_json

    files = sorted(args.results.glob(f"{kind}*.json"))
    if not files:
        raise InputError(
            f"`--results` must be a folder with {kind}*.json, but {args.results} has none. "
            f"Write one with benchmarks.{kind}."
        )
    args.out.write_text(page([read_json(file) for file in files]), encoding="utf-8")
    write(f"{args.out}: {len(files)} of them")
    return 0
