"""Blends the best trials of a studies folder, and reports on the sealed test split.

    python -m ensemble.build studies/

Everything that can be refused is refused before anything is written. Then `ensemble.json` and the members' weights take
their place as a whole, the opening of the test split is logged, and only then is it looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.errors import InputError, shorten

# torch, scikit-learn and matplotlib take seconds to import and --help must not: they are imported inside functions.
if TYPE_CHECKING:
    from ensemble.evaluation import Evaluation
    from ensemble.inference import ImageSet
    from ensemble.members import Selection
    from ensemble.parts import Part
    from ensemble.spec import EnsembleSpec
    from ensemble.tables import Report


def build(args: argparse.Namespace, command: str) -> int:
    """Builds the ensemble.

    Args:
        args: What `_parser` gives.
        command: The command line, for the record.
    """
    from core.device import resolve_device
    from core.mirror import open_studies
    from ensemble.choosing import fit_members, keep_voters
    from ensemble.describing import describe
    from ensemble.evaluation import evaluate, vote_out_of_fold
    from ensemble.folder import check_replaceable, write_ensemble
    from ensemble.inference import assemble
    from ensemble.members import choose_members, read_studies
    from ensemble.operating import check_classes, fit_points
    from ensemble.parts import read_validation
    from ensemble.report import rehearse, write_report

    _check_arguments(args)
    resolve_device(args.device)
    studies = open_studies(args.studies, with_models=True)
    found = read_studies(studies, args.study)
    classes = found[0].info["data"]["classes"]
    check_classes(args.min_sensitivity, classes)
    candidates = choose_members(found, top_k=_top_k(args), archs=args.archs)
    check_replaceable(studies.ensemble)
    val_part, val_probs_MNC = read_validation(candidates.members)
    fit, ways = fit_members(
        candidates.members, val_part, val_probs_MNC, vote=args.vote, top_k=_top_k(args), tau=args.tau
    )
    selection, voting = keep_voters(candidates, fit, args.vote)
    val_probs_MNC = val_probs_MNC[voting]
    points, flags = fit_points(args.min_sensitivity, fit.probs_NC, fit.truth, classes)
    spec = describe(selection, fit, ways, points, command)
    _announce(selection, spec)
    validation = evaluate(val_probs_MNC, spec, val_part, vote_out_of_fold(fit, flags))
    report = _prepare_report(spec, selection, validation)
    rehearse(report)
    with ExitStack() as stack:
        opened = None if args.no_test else _open_test(args, selection, spec, stack)
        weights = [member.trial.model_file for member in selection.members]
        ensemble = assemble(spec, weights, device=args.device)
        write_ensemble(studies.ensemble, spec, weights)
        studies.publish(studies.ensemble)
        if opened is not None:
            images, part = opened
            opening = studies.log_test_opening(spec.split["test"], command)
            cli.write(f"opening the test split, for the {_ordinal(opening)} time in this folder")
            test = evaluate(ensemble.member_probas(images), spec, part)
            report = dataclasses.replace(report, test=test, opening=opening)
    write_report(studies.ensemble, report)
    studies.publish(studies.ensemble)
    _conclude(studies.ensemble, report)
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    for name in ("data", "source"):
        if args.no_test and getattr(args, name):
            raise InputError(
                f"`--{name}` must not be given with --no-test, which opens no images. Leave one of them out."
            )


def _top_k(args: argparse.Namespace) -> int | None:
    """Trials an architecture; None for as many as pay."""
    if args.top_k is None:
        return None if args.vote in ("greedy", "auto") else 1
    return None if args.top_k == "auto" else int(args.top_k)


def _announce(selection: Selection, spec: EnsembleSpec) -> None:
    for member, described in zip(selection.members, spec.members, strict=True):
        low, high = member.trial.recall_interval
        recall = f"validation recall {member.trial.recall:.1%} ({low:.1%} to {high:.1%})"
        cli.write(f"member    {member.name}, {member.study.arch}, weight {described.weight:.2g}: {recall}")
    for name, reason in selection.left_out:
        cli.write(f"left out  {name}: {reason}")
    for step in spec.fitted["out_of_fold"]:
        low, high = step["macro_recall_interval"]
        recall = f"validation recall out of fold {step['macro_recall']:.1%} ({low:.1%} to {high:.1%})"
        cli.write(f"fitted    {step['step']}, {step['value']}: {recall}")


def _open_test(
    args: argparse.Namespace, selection: Selection, spec: EnsembleSpec, stack: ExitStack
) -> tuple[ImageSet, Part]:
    """Gets everything ready that the test split needs, so that nothing can be refused once it is open."""
    from core.device import resolve_device
    from ensemble.inference import ImageSet
    from ensemble.parts import find_test

    manifest, rows, part = find_test(selection.members[0].study, args.data)
    images = stack.enter_context(ImageSet.of_manifest(manifest, rows, kind=args.source or "auto"))
    for member in spec.members:
        images.source(member.arch.image_size, resolve_device(args.device))
    return images, part


def _prepare_report(spec: EnsembleSpec, selection: Selection, validation: Evaluation) -> Report:
    """Reads all that the report tells; only the test split's figures are still to come."""
    from ensemble.findings import read_finding, read_history
    from ensemble.tables import Report

    return Report(
        spec=spec,
        validation=validation,
        test=None,
        opening=0,
        histories=[read_history(member.trial) for member in selection.members],
        findings=[read_finding(study) for study in selection.studies],
    )


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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sensitivity(text: str) -> tuple[str, float]:
    """An argparse type: a class and the least share of it that must be flagged, such as mel=0.9."""
    name, _, value = text.rpartition("=")
    if not (name and re.fullmatch(r"0?\.\d{1,6}", value) and float(value) > 0):
        raise argparse.ArgumentTypeError(
            f"must be CLASS=SHARE with a share above 0 and below 1, but got {shorten(text)}"
        )
    return name, float(value)


def _positive_or_auto(text: str) -> int | str:
    """An argparse type: auto, or a whole number from 1."""
    return text if text == "auto" else cli.positive_int(text)


def _tau(text: str) -> float | None:
    """An argparse type: auto, which is None, or a number from 0 to 3."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-3](\.\d{1,6})?", text) or float(text) > 3:
        raise argparse.ArgumentTypeError(f"must be auto or a number from 0 to 3, but got {shorten(text)}")
    return float(text)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m ensemble.build",
        description="Blend the best trials of each architecture by soft voting, and report on the sealed test split.",
    )
    parser.add_argument("studies", help="folder that search.run wrote to, or its URL; the result goes to its ensemble/")
    parser.add_argument(
        "--vote",
        choices=("mean", "geometric", "weights", "greedy", "auto"),
        default="mean",
        help="mean of probabilities, or of their logarithms; fitted weights; greedy selection; auto tries all [mean]",
    )
    parser.add_argument(
        "--top-k",
        type=_positive_or_auto,
        metavar="K",
        help="trials an architecture that may vote; auto tries several numbers [1; auto for --vote greedy and auto]",
    )
    parser.add_argument(
        "--tau", type=_tau, metavar="T", help="share of its prior taken out of each member; auto is fitted [auto]"
    )
    parser.add_argument(
        "--min-sensitivity",
        type=_sensitivity,
        action="append",
        default=[],
        metavar="CLASS=SHARE",
        help="flag images so that this share of a class is found, as mel=0.9; repeat it for more classes",
    )
    parser.add_argument("--archs", type=_names, default=[], metavar="A,B", help="architectures that take part [all]")
    parser.add_argument(
        "--study", action="append", default=[], metavar="NAME", help="study that takes part; repeat it for more [all]"
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="PLACE",
        help="where the images are, if they have moved; as often and in the order as for the search",
    )
    parser.add_argument("--no-test", action="store_true", help="leave the test split sealed; report on validation only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--source", choices=("auto", "resident", "ffcv", "torch"), help="how images are read [auto]")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    command = shlex.join(["python", "-m", "ensemble.build", *(sys.argv[1:] if argv is None else argv)])
    return cli.run(lambda args: build(args, command), _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
