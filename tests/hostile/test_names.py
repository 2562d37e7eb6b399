"""Names that would steer a terminal, a page or a Markdown reader."""

import argparse
import io
import logging
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from core import cli
from core.errors import InputError
from ensemble import build, predict
from tests.fixtures.images import write_image
from tests.fixtures.searches import let_trials_take_part, search

NAMES = (
    "<script>alert(1)</script>",
    "a\"b'c&d",
    "|pipe|",
    "[bold red]markup[/]",
    "$x^{$",
    "\x1b[2J\x1b]0;title\x07",
    "`code` _em_",
)


class Tags(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A studies folder of classes and files with such names, with its ensemble, and all that the commands printed."""
    root = tmp_path_factory.mktemp("steered")
    rows = ["image,label,group"]
    for c, name in enumerate(NAMES):
        for number in range(8):
            file = f"{c}<b>&\x1b[2J[/]{number}.png"
            write_image(root / "data" / file, 100 * c + number)
            cell = name.replace('"', '""')
            rows.append(f'"{file}","{cell}",lesion {c} {number}')
    (root / "data" / "labels.csv").write_text("\n".join([*rows, ""]))
    streams = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", streams[0])
        patch.setattr("sys.stderr", streams[1])
        assert search(root / "data", root / "studies", "--weights", "none") == 0, streams[1].getvalue()
        let_trials_take_part(root / "studies" / "test_efficientnet")
        assert build.main([str(root / "studies"), "--device", "cpu", "--source", "torch"]) == 0, streams[1].getvalue()
        out = root / "out.csv"
        arguments = [str(root / "studies" / "ensemble"), str(root / "data"), "--out", str(out), "--device", "cpu"]
        assert predict.main(arguments) == 0, streams[1].getvalue()
        (root / "data" / f"9<b>\x1b[2J{NAMES[3][:4]}.png").write_bytes(b"no image")
        assert predict.main(arguments) == 2
    return root, "".join(stream.getvalue() for stream in streams)


def test_no_control_character_from_data_reaches_the_terminal(steered: tuple[Path, str]) -> None:
    _, printed = steered
    assert [char for char in printed if not char.isprintable() and char != "\n"] == []
    assert r"\x1b[2J" in printed, "the names are shown all the same, as escapes"
    assert NAMES[3] in printed


def test_a_page_shows_such_names_as_text(steered: tuple[Path, str]) -> None:
    page = (steered[0] / "studies" / "ensemble" / "report.html").read_text()
    parser = Tags()
    parser.feed(page)
    assert "script" not in parser.tags
    assert not [name for name in parser.attributes if name.startswith("on") or name == "c&d"]
    for name in NAMES:
        assert name in parser.text


def test_markdown_shows_such_names_as_text(steered: tuple[Path, str]) -> None:
    text = (steered[0] / "studies" / "ensemble" / "report.md").read_text()
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    body = text[: text.index("## Commands")]
    assert not re.search(r"(?<!\\)[<`]", body)
    rows = [line for line in body.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    header = next(number for number, row in enumerate(rows) if row.startswith("| Class "))
    assert len(set(widths[header : header + 2 + len(NAMES)])) == 1


def test_bars_take_no_markup_from_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with cli.progress("with [/] and [bold]x\x1b[2J", 2) as bar:
        bar.advance()
    error = capsys.readouterr().err
    assert "[/] and [bold]x" in error
    assert "x\x1b[2J" not in error


def test_a_log_line_and_a_refusal_are_made_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: object) -> int:
        logging.getLogger("core.x").warning("read %s", "a\x1b[2Jb")
        cli.write("c\x1b[2Jd\ne\x07")
        raise InputError("`x` must be right, but got \x1b[2J\nwrong. Mend it.")

    assert cli.run(fail, argparse.ArgumentParser(prog="tool"), []) == 2
    output = capsys.readouterr()
    assert output.out == "c\\x1b[2Jd\ne\\x07\n"
    assert output.err == (
        "WARNING core.x: read a\\x1b[2Jb\ntool: error: `x` must be right, but got \\x1b[2J\\nwrong. Mend it.\n"
    )


def test_a_class_that_a_terminal_has_no_letters_for_is_written_in_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding="ascii"))

    def tell(args: object) -> int:
        cli.write("Nävus")
        return 0

    assert cli.run(tell, argparse.ArgumentParser(prog="tool"), []) == 0
    assert buffer.getvalue() == b"N\\xe4vus\n"


def test_the_dashboard_is_started_for_this_machine_only(steered: tuple[Path, str]) -> None:
    (command,) = [line for line in steered[1].splitlines() if "optuna-dashboard" in line]
    assert command.endswith(" --host 127.0.0.1")
    assert os.path.basename(command.split()[1]) == "journal.log"
