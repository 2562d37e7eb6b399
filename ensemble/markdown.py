"""The report as Markdown, for a terminal, a merge request or a paper's supplement."""

import re
from collections.abc import Iterator

from core.errors import one_line
from ensemble import steps, tables
from ensemble.card import card
from ensemble.tables import Report, Table, percent, span

# Whatever Markdown or the HTML that it may contain could take for markup.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")


def render_markdown(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    scores, spec = report.judged.blend, report.spec
    yield f"# Ensemble report: {'sealed test split' if report.test else f'{report.fit_name} only'}\n"
    if spec.demo:
        yield "**DEMO. Procedural images; these figures say nothing about real lesions.**\n"
    interval = f"95% interval {span(scores.interval)}; {report.sample}"
    yield f"**Macro recall {percent(scores.recall)}** ({interval}) on {report.judged_name}.\n"
    notes = (tables.headline(report), _escape(tables.few_lesions(report)), tables.caution(report))
    yield " ".join(note for note in notes if note) + "\n"
    yield f"Accuracy, which is also the micro recall: {percent(scores.accuracy)}.\n"
    yield "## What each step gains\n"
    yield f"{_escape(steps.ladder_note(report))}\n"
    yield from _table(steps.ladder(report))
    yield f"{_escape(steps.over_single(report))}\n"
    yield "## Ensemble and members\n"
    yield from _table(tables.classifiers(report))
    yield f"{_escape(steps.rule(report))}\n"
    for name, reason in spec.left_out:
        yield f"Left out: {_escape(name)}, {_escape(reason)}.\n"
    if report.spec.fitted:
        yield f"## Fitted to {report.fit_name}\n"
        yield f"{_escape(steps.fitted_note(report))}\n"
        yield from _table(steps.fitted(report))
        if steps.ways(report).rows:
            yield f"{_escape(steps.ways_note())}\n"
            yield from _table(steps.ways(report))
    yield "## Each class against the rest\n"
    yield from _table(tables.class_scores(report))
    if report.judged.watched:
        yield "## Classes looked at closely\n"
        yield from _table(steps.watched(report))
    if report.judged.flagged:
        yield "## Operating points\n"
        yield f"{_escape(steps.flags_note(report))}\n"
        yield from _table(steps.flags(report))
    yield "## Confusion matrices\n"
    for each in (scores, *report.judged.members):
        yield f"### {_escape(each.name)}\n"
        yield from _table(tables.confusion(each, spec.classes))
    yield "## How far probabilities can be believed\n"
    yield from _table(steps.reliability(report))
    if report.mistakes:
        yield "## The mistakes that it is surest of\n"
        yield from _table(tables.mistakes(report))
    yield "## How the members learned\n"
    for member, history in zip(spec.members, report.histories, strict=True):
        yield from (f"- {_escape(member.name)}: {gap}" for gap in tables.gap(history, member.best_epoch))
    yield "\n## What the searches found\n"
    for finding in report.findings:
        yield f"### {_escape(finding.study)}\n\n{_escape(tables.trial_counts(finding))}\n"
        if finding.summary.get("importance"):
            shares = (f"{_escape(name)} {share:.0%}" for name, share in finding.summary["importance"].items())
            yield f"Share of the recall's variance explained: {', '.join(shares)}.\n"
        yield from _table(tables.best_trials(finding))
    for title, table in (
        ("Intended use and limits", card(report)),
        ("The members' settings", tables.configs(report)),
        ("Data and split", tables.data(report)),
        ("Versions", tables.versions(report)),
    ):
        yield f"## {title}\n"
        yield from _table(table)
    yield "## Commands\n"
    yield from (f"    {one_line(' '.join(command.split()))}" for command in tables.commands(report))


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    yield "| " + " | ".join(_escape(cell) for cell in table.header) + " |"
    yield "|" + " --- |" * len(table.header)
    yield from ("| " + " | ".join(_escape(cell) for cell in row) + " |" for row in table.rows)
    yield ""


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", one_line(" ".join(text.split())))
