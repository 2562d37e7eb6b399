"""Blends the best trials of a studies folder, and reports on the sealed test split.

    python -m ensemble.build studies/

Everything that can be refused is refused before anything is written. Then `ensemble.json` and the members' weights take
their place as a whole, the opening of the test split is logged, and only then is it looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from core import cli
from core.errors import InputError
from ensemble.arguments import build_parser, check_list

# torch, scikit-learn and matplotlib take seconds to import and --help must not: they are imported inside functions.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ensemble.evaluation import Evaluation
    from ensemble.inference import ImageSet
    from ensemble.learning import Wanted
    from ensemble.members import Selection
    from ensemble.parts import Part
    from ensemble.spec import EnsembleSpec
    from ensemble.studies import Study
    from ensemble.tables import Report


def build(args: argparse.Namespace, command: str) -> int:
    """Builds the ensemble.

    Args:
        args: What `ensemble.arguments` parses.
        command: The command line, for the record.
    """
    from core.device import resolve_device
    from core.mirror import open_studies
    from ensemble.evaluation import evaluate
    from ensemble.folder import check_replaceable, write_ensemble
    from ensemble.inference import assemble, view_probas
    from ensemble.learning import learn
    from ensemble.members import choose_members
    from ensemble.operating import check_classes
    from ensemble.report import rehearse, write_report
    from ensemble.studies import read_studies

    _check_arguments(args)
    resolve_device(args.device)
    studies = open_studies(args.studies, with_models=True)
    found, wanted = read_studies(studies, args.study), _wanted(args)
    classes = found[0].info["data"]["classes"]
    check_classes(wanted.min_sensitivity, classes)
    listed = _listed(args, found[0])
    candidates = choose_members(
        found,
        top_k=wanted.exactly,
        at_most=wanted.at_most,
        archs=args.archs,
        fit_to=wanted.fit_to,
        of_folds=args.members == "folds",
    )
    check_replaceable(studies.ensemble, studies.names_in(studies.ensemble))
    selection, spec, validation = learn(candidates, wanted, command, partial(_see_validation, args))
    _announce(selection, spec)
    _hint(args, selection, spec, validation)
    report = _prepare_report(spec, selection, validation, args.mistakes)
    drawn = rehearse(report)
    with ExitStack() as stack:
        opened = None if args.no_test else _open_part("test", args, selection, spec, stack)
        weights = [member.files for member in selection.members]
        ensemble = assemble(spec, weights, device=args.device)
        write_ensemble(studies.ensemble, spec, weights)
        studies.publish(studies.ensemble)
        if opened is not None:
            images, part = opened
            opening = studies.log_test_opening(spec.split["test"], part.hashes, command)
            cli.write(f"opening the test split, for the {_ordinal(opening)} time in this folder")
            views_VMNC = view_probas(ensemble, images)
            test = evaluate(views_VMNC.mean(axis=0), spec, part, plain_MNC=views_VMNC[0])
            report = _with_test(report, test, opening, args.mistakes, images)
    write_report(studies.ensemble, report, listed, drawn)
    studies.publish(studies.ensemble)
    _conclude(studies.ensemble, report)
    return 0


def _wanted(args: argparse.Namespace) -> Wanted:
    """What the arguments leave open."""
    from ensemble.decision import VIEWS
    from ensemble.learning import TopK, Wanted

    views = VIEWS if args.views == "auto" else (int(args.views),)
    # What weighs trials by itself may look at all of them.
    top_k: TopK = args.top_k or ("tied" if args.vote in ("mean", "geometric") else "auto")
    return Wanted(args.vote, top_k, args.fit_to, args.tau, views, args.min_sensitivity)


def _listed(args: argparse.Namespace, study: Study) -> list[str] | None:
    """The images that the challenge's file must have rows of, empty for those of the test split; None without one."""
    from ensemble.isic import challenge_places, check_listed, read_list
    from ensemble.parts import read_part

    if args.format != "isic":
        return None
    challenge_places(study.info["data"]["classes"])
    if not args.list:
        return []
    listed = read_list(args.list)
    check_listed(listed, [PurePosixPath(image).stem for image in read_part(study, "test").images])
    return listed


def _see_validation(args: argparse.Namespace, selection: Selection, spec: EnsembleSpec) -> npt.NDArray[np.float64]:
    """Shows the validation images, and no others, to the members."""
    from ensemble.inference import assemble, view_probas

    with ExitStack() as stack:
        images, _ = _open_part("val", args, selection, spec, stack)
        ensemble = assemble(spec, [member.files for member in selection.members], device=args.device)
        return view_probas(ensemble, images)


def _check_arguments(args: argparse.Namespace) -> None:
    check_list(args)
    if args.no_test and args.format == "isic":
        raise InputError(
            "`--format isic` must not be given with --no-test, as it is of the test split. Leave one of them out."
        )
    if args.members == "folds" and args.fit_to != "confirmed":
        raise InputError(
            "`--members folds` must be given with --fit-to confirmed, as its networks have seen validation. Add that "
            "or leave it out."
        )
    if args.views == "auto" and args.fit_to == "confirmed":
        raise InputError(
            "`--views` must be a number with --fit-to confirmed, as out of fold one view was seen, but got --views "
            "auto. Give 1, 4 or 8."
        )
    if args.fit_to == "confirmed" and "://" in args.studies:
        raise InputError(
            f"`--fit-to confirmed` must be asked of a folder, as search.confirm is, but got {args.studies}. Copy it "
            "into one."
        )
    if args.min_sensitivity and args.fit_to == "confirmed" and (args.members == "folds" or args.views != "1"):
        raise InputError(
            "`--min-sensitivity` must not be given with --fit-to confirmed and --members folds or several --views: its "
            "threshold would be that of single networks which see one view. Leave one of them out."
        )
    for name in ("data", "source"):
        if args.no_test and (args.views == "1" or args.fit_to == "confirmed") and getattr(args, name):
            raise InputError(
                f"`--{name}` must not be given with --no-test, which opens no images. Leave one of them out."
            )


def _announce(selection: Selection, spec: EnsembleSpec) -> None:
    for member, described in zip(selection.members, spec.members, strict=True):
        low, high = member.recall_interval
        where = "validation recall" if member.confirmed is None else "recall out of fold"
        recall = f"{where} {member.recall:.1%} ({low:.1%} to {high:.1%})"
        cli.write(f"member    {member.name}, {member.study.arch}, weight {described.weight:.2g}: {recall}")
    for name, reason in selection.left_out:
        cli.write(f"left out  {name}: {reason}")
    for step in spec.fitted["out_of_fold"]:
        low, high = step["macro_recall_interval"]
        recall = f"recall out of fold {step['macro_recall']:.1%} ({low:.1%} to {high:.1%})"
        cli.write(f"fitted    {step['step']}, {step['value']}: {recall}")


def _hint(args: argparse.Namespace, selection: Selection, spec: EnsembleSpec, validation: Evaluation) -> None:
    """Tells of what would be better than what was asked for."""
    from ensemble.evaluation import best_singles

    best, over = selection.members[best_singles(spec)[-1]], validation.over_single
    if over.gain is not None and over.gain_interval is not None and over.gain_interval.high < 0:
        low, high = over.gain_interval
        points = f"{-100 * over.gain:.1f} points ({-100 * high:.1f} to {-100 * low:.1f})"
        cli.write(
            f"hint      the vote is {points} worse than {best.name} alone: --archs {best.study.arch} leaves out others"
        )
    folders = {member.study.folder.confirmed for member in selection.members}
    if args.fit_to == "validation" and all(folder.has_trials for folder in folders):
        cli.write("hint      trials have been confirmed: --fit-to confirmed fits all this to several times the lesions")


def _open_part(
    name: str, args: argparse.Namespace, selection: Selection, spec: EnsembleSpec, stack: ExitStack
) -> tuple[ImageSet, Part]:
    """Gets everything ready that a part needs, so that nothing can be refused once its images are looked at."""
    from ensemble.inference import ImageSet
    from ensemble.isic import check_unique
    from ensemble.parts import find_part

    manifest, rows, part = find_part(selection.members[0].study, name, args.data)
    if args.format == "isic":
        check_unique([PurePosixPath(image).stem for image in part.images])
    images = stack.enter_context(ImageSet.of_manifest(manifest, rows, kind=args.source or "auto"))
    images.open((member.arch.frame for member in spec.members), args.device)
    return images, part


def _prepare_report(spec: EnsembleSpec, selection: Selection, validation: Evaluation, mistakes: int) -> Report:
    """Reads all that the report tells; only the test split's figures are still to come."""
    from ensemble.findings import read_finding, read_history
    from ensemble.mistakes import surest_mistakes
    from ensemble.tables import Report

    return Report(
        spec=spec,
        validation=validation,
        test=None,
        opening=0,
        histories=[read_history(member.trial) for member in selection.members],
        findings=[read_finding(study) for study in selection.studies],
        mistakes=surest_mistakes(validation, spec.classes, mistakes),
    )


def _with_test(report: Report, test: Evaluation, opening: int, shown: int, images: ImageSet) -> Report:
    """The report with the test split's figures, and the mistakes that were made there."""
    from ensemble.mistakes import picture_mistakes, surest_mistakes

    mistakes = surest_mistakes(test, report.spec.classes, shown)
    photos = picture_mistakes(mistakes, images)
    return dataclasses.replace(report, test=test, opening=opening, mistakes=mistakes, photos=photos)


def _conclude(folder: Path, report: Report) -> None:
    from ensemble.tables import percent, span

    scores = report.judged.blend
    figures = f"{percent(scores.recall)} (95% interval {span(scores.interval)}; {report.sample})"
    cli.write(f"macro recall on {report.judged_name}: {figures}")
    for flagged in report.judged.flagged:
        found, spared = percent(flagged.sensitivity), percent(flagged.specificity)
        at = f"{flagged.class_name} from p = {flagged.threshold:.3f}"
        cli.write(f"flagged for {at}: sensitivity {found}, specificity {spared}")
    cli.write(f"report: {folder / 'report.html'}")
    cli.write(f"next: python -m ensemble.predict {shlex.quote(str(folder))} IMAGES --out predictions.csv")


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    command = cli.command_line("ensemble.build", argv)
    return cli.run(lambda args: build(args, command), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
