"""The report as one HTML page that needs nothing but a browser: no network, no scripts, pictures within.

Everything that comes from data, studies or the command line passes through `escape`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import PurePosixPath

from core.errors import counted
from core.plots import plot_confusion, plot_curves, plot_slices
from ensemble import steps, tables
from ensemble.card import card
from ensemble.evaluation import Scores
from ensemble.findings import Finding
from ensemble.pictures import plot_reliability, plot_watched
from ensemble.pieces import SCALE, bar, bars, photograph, picture, table_html, track
from ensemble.style import CSS
from ensemble.tables import Report, percent, span

_FOOTER = "Research software, not a medical device: it must not decide on anybody's treatment."


# Pictures of what no split changes, by what they show: they are drawn once for all pages of an ensemble.
Drawn = dict[str, str]


def render_page(report: Report, drawn: Drawn | None = None) -> str:
    """The whole page.

    Args:
        report: What it tells.
        drawn: Pictures of an earlier page of the same members and studies; what is missing is added.
    """
    drawn = {} if drawn is None else drawn
    title = f"{'DEMO · ' if report.spec.demo else ''}Ensemble report"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head><body>'
        f"{''.join(_header(report))}<main>{''.join(_sections(report, drawn))}</main>"
        f"<footer>{_FOOTER}</footer></body></html>\n"
    )


def _header(report: Report) -> Iterator[str]:
    if report.spec.demo:
        yield '<div class="stamp"><b>DEMO</b> Procedural images; these figures say nothing about real lesions.</div>'
    part = "sealed test split" if report.test else f"{report.fit_name} only, test split left sealed"
    numbers = Counter(member.arch.name for member in report.spec.members)
    of_each = ", ".join(f"{number} {name}" for name, number in numbers.items())
    members = f"{counted(numbers.total(), 'member')}: {of_each}"
    yield f"<header><h1>Ensemble report: {part}</h1>"
    yield f'<p class="soft">{escape(members)} · built {escape(report.spec.created)}</p></header>'


def _sections(report: Report, drawn: Drawn) -> Iterator[str]:
    figures = (
        _result,
        _ladder,
        _classifiers,
        _fitted,
        _classes,
        _watched,
        _flags,
        _confusions,
        _reliability,
        _mistakes,
    )
    learned, found = partial(_curves, drawn=drawn), partial(_findings, drawn=drawn)
    for section in (*figures, learned, found, _card, _members, _data, _reproduce):
        if text := "".join(section(report)):
            yield f"<section>{text}</section>"


def _result(report: Report) -> Iterator[str]:
    scores = report.judged.blend
    value = f'<div class="figure">{scores.recall * 100:.1f}<small>%</small></div>'
    yield f'<div class="result"><div><div class="label">Macro recall on {report.judged_name}</div>{value}</div>'
    yield f'<div>{track(scores.recall, scores.interval)}<div class="scale">{SCALE}</div>'
    yield f'<p class="soft">95% interval {span(scores.interval)} · n = {report.sample}</p></div></div>'
    yield f"<p>{tables.headline(report)} {escape(tables.few_lesions(report))}</p>"
    warn = " warn" if report.test is None or report.opening > 1 else ""
    yield f'<p class="notice{warn}">{tables.caution(report)}</p>'
    tiles = (
        ("Accuracy (micro recall)", percent(scores.accuracy)),
        ("Macro recall of the plain argmax", percent(scores.recall_argmax)),
        ("Calibration error (ECE)", f"{scores.ece:.3f}"),
        ("Negative log likelihood", f"{scores.nll:.3f} nats"),
    )
    yield f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)}</dl>'


def _ladder(report: Report) -> Iterator[str]:
    yield f"<h2>What each step gains</h2><p>{escape(steps.ladder_note(report))}</p>"
    rows = [bar(rung.name, steps.gain(rung), rung.recall, rung.interval, None) for rung in report.judged.ladder]
    yield bars(rows, report, chance=False, optimistic=False)
    yield table_html(steps.ladder(report), "numbers")
    yield f"<p>{escape(steps.over_single(report))}</p>"


def _classifiers(report: Report) -> Iterator[str]:
    yield "<h2>Ensemble and members</h2>"
    yield "<p>Each classifier's macro recall, on the same images. Where intervals overlap, a difference may be luck."
    optimistic = bool(report.test) and not report.is_confirmed
    yield " Validation figures are optimistic, because the trials were chosen by them.</p>" if optimistic else "</p>"
    validation = report.validation
    pairs = zip((report.judged.blend, *report.judged.members), (validation.blend, *validation.members), strict=True)
    archs = ["soft vote of all", *(member.arch.name for member in report.spec.members)]
    chance = 1 / len(report.spec.classes)
    rows = [
        bar(scores.name, arch, scores.recall, scores.interval, optimistic.recall if report.test else None, chance)
        for (scores, optimistic), arch in zip(pairs, archs, strict=True)
    ]
    yield bars(rows, report, chance=True)
    yield table_html(tables.classifiers(report), "numbers lead")
    yield f'<p class="soft">{escape(steps.rule(report))}</p>'
    if report.spec.left_out:
        items = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in report.spec.left_out)
        yield f'<h3>Left out</h3><ul class="plain">{items}</ul>'


def _fitted(report: Report) -> Iterator[str]:
    if report.spec.fitted:
        yield f"<h2>Fitted to {report.fit_name}</h2><p>{escape(steps.fitted_note(report))}</p>"
        yield table_html(steps.fitted(report), "numbers")
        if steps.ways(report).rows:
            yield f"<p>{escape(steps.ways_note())}</p>{table_html(steps.ways(report), 'numbers')}"


def _classes(report: Report) -> Iterator[str]:
    yield "<h2>Each class against the rest</h2>"
    yield "<p>Of the images that truly show a class, the share recognised by the ensemble.</p>"
    pairs = zip(report.judged.blend.per_class, report.validation.blend.per_class, strict=True)
    unit = "lesion" if report.spec.data["grouped"] else "image"
    rows = [
        bar(row.name, counted(row.lesions, unit), row.recall, row.interval, optimistic.recall if report.test else None)
        for row, optimistic in pairs
    ]
    yield bars(rows, report, chance=False)
    yield table_html(tables.class_scores(report), "numbers")
    yield '<p class="soft">Precision: of the images that are taken for a class, the share that is of it, which is '
    yield "another one where the class is rarer or more frequent than here. Specificity: "
    yield "of all others, the share that is not taken for it. AUROC: how often an image of it ranks before another.</p>"
    if report.spec.data["grouped"]:
        yield '<p class="soft">Intervals: Wilson, with n = lesions: photographs of one lesion are not independent.</p>'
    else:
        yield '<p class="soft">Intervals: Wilson, with n = images. The data name no lesions: where several photographs '
        yield "show the same one, the intervals are too narrow and the recall may be too high.</p>"


def _flags(report: Report) -> Iterator[str]:
    if report.judged.flagged:
        yield f"<h2>Operating points</h2><p>{escape(steps.flags_note(report))}</p>"
        yield table_html(steps.flags(report), "numbers")


def _watched(report: Report) -> Iterator[str]:
    for watched in report.judged.watched:
        low, high = watched.auroc_interval
        yield f"<h2>Telling {escape(watched.name)} from the rest</h2>"
        yield f"<p>Area under the ROC curve {watched.auroc:.3f} (95% interval {low:.3f} to {high:.3f}, over lesions). "
        yield f"{percent(watched.prevalence)} of the images are of it, which is what taking all for it would have as "
        yield "precision (dashed). Dots are where choosing one class for each image lies"
        yield ", and where its flags do.</p>" if watched.flagged else ".</p>"
        alt = f"ROC and precision-recall curve of {watched.name}"
        yield f"<figure>{picture(plot_watched(watched), alt, narrow=plot_watched(watched, columns=1))}</figure>"


def _reliability(report: Report) -> Iterator[str]:
    yield f"<h2>How far probabilities can be believed</h2><p>{escape(steps.reliability_note(report))}</p>"
    image = picture(plot_reliability(report.judged.reliability), "Reliability diagram of the ensemble")
    yield f'<figure class="small">{image}</figure>'


def _mistakes(report: Report) -> Iterator[str]:
    if not report.mistakes:
        return
    yield "<h2>The mistakes that it is surest of</h2>"
    if not report.photos:
        yield "<p>Without pictures, as no image was opened.</p>"
        yield table_html(tables.mistakes(report), "")
        return
    yield "<p>One image of a lesion, as the models see it. Some will be labels that deserve a second look. These are "
    yield "images of your data: think of that before you pass this page on, or build with --mistakes 0.</p>"
    figures = []
    for mistake, photo in zip(report.mistakes, report.photos, strict=True):
        label = f"{mistake.truth}, taken for {mistake.chosen} ({mistake.probability:.0%})"
        figures.append(
            f"<figure>{photograph(photo, mistake.image)}<figcaption>{escape(label)}"
            f"<span>{escape(PurePosixPath(mistake.image).name)}</span></figcaption></figure>"
        )
    yield f'<div class="photos">{"".join(figures)}</div>'


def _card(report: Report) -> Iterator[str]:
    yield f"<h2>Intended use and limits</h2>{table_html(card(report), 'pairs')}"


def _confusions(report: Report) -> Iterator[str]:
    yield "<h2>Confusion matrices</h2><p>Counts, and shares of the true class, which are also the colour.</p>"
    if mistakes := tables.worst_confusions(report):
        items = "".join(f"<li>{escape(mistake)}</li>" for mistake in mistakes)
        yield f'<p>What the ensemble mistakes most:</p><ul class="plain">{items}</ul>'
    figures = (_confusion(scores, report.spec.classes) for scores in (report.judged.blend, *report.judged.members))
    yield f'<div class="matrices">{"".join(figures)}</div>'


def _confusion(scores: Scores, classes: Sequence[str]) -> str:
    image = picture(plot_confusion(scores.confusion_CC, classes), f"Confusion matrix of {scores.name}")
    return f"<figure><figcaption>{escape(scores.name)}</figcaption>{image}</figure>"


def _curves(report: Report, drawn: Drawn) -> Iterator[str]:
    yield "<h2>How the members learned</h2>"
    yield "<p>A growing gap between training and validation marks overfitting. The weights are those "
    yield "of the best epoch; training figures are of augmented images and of weights on their way;"
    if any(member.network_priors for member in report.spec.members):
        yield " here networks vote that were trained again over folds, as far as that epoch;"
    yield "  its validation figures stand at the top right of each panel.</p>"
    for member, history in zip(report.spec.members, report.histories, strict=True):
        alt = f"Loss, accuracy and macro recall of {member.name} over {len(history)} epochs"
        if alt not in drawn:
            drawn[alt] = picture(plot_curves(history), alt, narrow=plot_curves(history, columns=1))
        remark = ", ".join((member.arch.name, *tables.gap(history, member.best_epoch)))
        name = f"{escape(member.name)} <span>{escape(remark)}</span>"
        yield f"<figure><figcaption>{name}</figcaption>{drawn[alt]}</figure>"


def _findings(report: Report, drawn: Drawn) -> Iterator[str]:
    yield "<h2>What the searches found</h2>"
    yield "<p>Validation recall of each trial against each setting; the best trial is circled. "
    yield "The share at the top right says how much of the differences in recall a setting explains.</p>"
    for finding in report.findings:
        yield from _finding(finding, drawn)


def _finding(finding: Finding, drawn: Drawn) -> Iterator[str]:
    yield f"<h3>{escape(finding.study)}</h3><p>{tables.trial_counts(finding)}</p>"
    slices, importance = finding.summary.get("slices", {}), finding.summary.get("importance", {})
    if any(slices.values()):
        alt = f"Validation recall against each setting in {finding.study}"
        if alt not in drawn:
            wide, narrow = plot_slices(slices, importance), plot_slices(slices, importance, columns=2)
            drawn[alt] = picture(wide, alt, narrow=narrow)
        yield drawn[alt]
    yield table_html(tables.best_trials(finding), "numbers")


def _members(report: Report) -> Iterator[str]:
    yield f"<h2>The members' settings</h2>{table_html(tables.configs(report), 'numbers')}"


def _data(report: Report) -> Iterator[str]:
    yield f"<h2>Data and split</h2>{table_html(tables.data(report), 'pairs')}"


def _reproduce(report: Report) -> Iterator[str]:
    yield f"<h2>To reproduce</h2><pre>{escape(chr(10).join(tables.commands(report)))}</pre>"
    yield table_html(tables.versions(report), "")
