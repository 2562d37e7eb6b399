"""Writes what an ensemble's folder tells people and programs: report.html, report.md, metrics.json, predictions.csv."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from core.files import write_csv, write_json, written_aside
from ensemble.decision import choose
from ensemble.evaluation import Evaluation
from ensemble.isic import challenge_rows
from ensemble.markdown import render_markdown
from ensemble.operating import flag_name
from ensemble.page import Drawn, render_page
from ensemble.predictions import probability_columns
from ensemble.spec import EnsembleSpec
from ensemble.tables import Report

FORMAT = 1  # of metrics.json


def rehearse(report: Report) -> Drawn:
    """Writes the report into memory only, so that what cannot be told is found out before anything is at stake.

    Returns:
        The pictures that the test split changes nothing of, for `write_report`.
    """
    drawn: Drawn = {}
    render_markdown(report)
    render_page(report, drawn)
    return drawn


def write_report(folder: Path, report: Report, listed: Sequence[str] | None = None, drawn: Drawn | None = None) -> None:
    """Writes all files; the page comes last.

    Args:
        folder: Where they go.
        report: What they tell.
        listed: See `ensemble.isic.challenge_rows`; None writes no file for the challenge.
        drawn: What `rehearse` has drawn of the same members and studies.
    """
    if listed is not None:
        _write_challenge(folder, report.judged, report.spec, listed)
    write_json(folder / "metrics.json", metrics(report))
    write_csv(folder / "predictions.csv", _predictions(report.judged, report.spec))
    for name, text in (("report.md", render_markdown(report)), ("report.html", render_page(report, drawn))):
        with written_aside(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def _write_challenge(folder: Path, evaluation: Evaluation, spec: EnsembleSpec, listed: Sequence[str]) -> None:
    names = [PurePosixPath(image).stem for image in evaluation.part.images]
    write_csv(folder / "predictions-isic.csv", challenge_rows(names, evaluation.probs_NC, spec.classes, listed))


def metrics(report: Report) -> dict[str, Any]:
    """The report's figures, as fractions; ``test`` is null where the test split was left sealed.

    ``decision`` and ``fitted`` are those of `ensemble.json`, which the page's table of what was fitted is made of.
    """
    test = None
    if report.test is not None:
        test = {"fingerprint": report.spec.split["test"], "opening": report.opening, **report.test.to_dict()}
    return {
        "format": FORMAT,
        "demo": report.spec.demo,
        "classes": list(report.spec.classes),
        "test": test,
        "fit_to": report.spec.fitted.get("fit_to", "validation"),
        "decision": report.spec.rule.to_dict(),
        "fitted": report.spec.fitted,
        "validation": {"optimistic": True, **report.validation.to_dict()},
        "surest_mistakes": [mistake.to_dict() for mistake in report.mistakes],
    }


def _predictions(evaluation: Evaluation, spec: EnsembleSpec) -> list[dict[str, Any]]:
    part, probs_NC, classes = evaluation.part, evaluation.probs_NC, spec.classes
    columns = zip(part.images, part.groups, part.labels, choose(probs_NC), probs_NC.tolist(), strict=True)
    rows = [
        {"image": image, "lesion": group, "true_class": classes[truth], "predicted": classes[predicted]}
        | probability_columns(spec, probs_C)
        for image, group, truth, predicted, probs_C in columns
    ]
    for point, flags_N in zip(spec.operating_points, evaluation.flags, strict=True):
        # Where thresholds were fitted to these images, the flags are those of the other folds' thresholds.
        for row, flag in zip(rows, flags_N.tolist(), strict=True):
            row[flag_name(point)] = int(flag)
    return rows
