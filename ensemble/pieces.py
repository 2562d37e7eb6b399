"""Pieces of the page: tables, pictures, bars with intervals. Whatever comes from outside passes through `escape`."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

from core.plots import figure_svg
from ensemble.tables import Report, Table, percent, span

SCALE = "".join(f'<span style="left:{mark}%">{mark}%</span>' for mark in (0, 25, 50, 75, 100))


def track(
    share: float | None, interval: Sequence[float] | None, val: float | None = None, chance: float | None = None
) -> str:
    """A scale from 0 to 1 with an interval, a dot, and a diamond for validation."""
    marks = []
    if chance is not None:
        marks.append(f'<i class="chance" style="left:{chance:.2%}"></i>')
    if interval is not None:
        low, high = interval
        marks.append(f'<i class="band" style="left:{low:.2%};width:{high - low:.2%}"></i>')
    if share is not None:
        marks.append(f'<i class="dot" style="left:{share:.2%}"></i>')
    if val is not None:
        marks.append(f'<i class="val" style="left:{val:.2%}"></i>')
    return f'<div class="track">{"".join(marks)}</div>'


def bar(
    name: str,
    remark: str,
    share: float | None,
    interval: Sequence[float] | None,
    val: float | None,
    chance: float | None = None,
) -> str:
    """A row: a name with a remark, a track, the share with its interval."""
    head = f'<div class="name">{escape(name)}<span>{escape(remark)}</span></div>'
    tail = f'<div class="value">{percent(share)}<span>{span(interval)}</span></div>'
    return f'<div class="bar">{head}{track(share, interval, val, chance)}{tail}</div>'


def bars(rows: Iterable[str], report: Report, *, chance: bool, optimistic: bool = True) -> str:
    """Bars under each other, with a key; `optimistic` where they have diamonds for validation."""
    key = [("dot", "recall on test" if report.test else f"recall on {report.fitted_to}"), ("band", "95% interval")]
    key += [("val", f"recall on {report.fitted_to}")] if report.test and optimistic else []
    key += [("chance", "chance")] if chance else []
    items = "".join(f'<li><i class="{kind}"></i>{text}</li>' for kind, text in key)
    return f'<div class="bars">{"".join(rows)}<div class="scale">{SCALE}</div></div><ul class="key">{items}</ul>'


def table_html(table: Table, kind: str) -> str:
    """A table that scrolls where it is too wide; `kind` is its class in the style sheet."""
    if not table.rows:
        return ""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header) if any(table.header) else ""
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{thead}<tbody>{body}</tbody></table></div>'


def picture(figure: Figure, alt: str, *, narrow: Figure | None = None) -> str:
    """A picture within the page; `narrow` takes its place on a phone."""
    wide = f'<img src="{_data_uri(figure)}" alt="{escape(alt)}">'
    if narrow is None:
        return wide
    return f'<picture><source media="(max-width: 640px)" srcset="{_data_uri(narrow)}">{wide}</picture>'


def photograph(jpeg: bytes, alt: str) -> str:
    """A photograph within the page."""
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" alt="{escape(alt)}">'


def _data_uri(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(figure_svg(figure)).decode('ascii')}"
