"""Tunes backbones, each in a study of its own: python -m search.run --arch mobilenet --trials 50."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli import Parser, natural_int, positive_int, run, seconds, write
from core.dataspec import add_data_arguments, read_data_arguments
from core.framing import FRAMINGS
from search.place import add_storage_argument
from search.resources import add_resource_arguments, read_resource_arguments, refuse_unknown

# torch, timm and optuna take seconds to import and --help must not: they come after the parsing.
if TYPE_CHECKING:
    from search.setup import Settings

KEEP = RETRAIN = 5


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m search.run", description=__doc__)
    parser.add_argument(
        "--arch",
        action="append",
        default=[],
        help="mobilenet, efficientnet_b3, or any timm model name; repeated, their studies run one after the other",
    )
    parser.add_argument(
        "--list-archs",
        nargs="?",
        const="*",
        metavar="PATTERN",
        help="only show what --arch takes, by a pattern such as '*efficientnet*' (default: all)",
    )
    parser.add_argument(
        "--trials", type=positive_int, help="finished trials that each study is to hold, restarts counted in"
    )
    add_data_arguments(
        parser,
        help="folder of labelled images, CSV or npz file; repeated, they are merged (default: data/, else demo images)",
    )
    parser.add_argument(
        "--unlabelled",
        type=Path,
        metavar="FOLDER",
        help="images that trials learn from without labels; those of validation and test lesions are left out",
    )
    parser.add_argument(
        "--studies", default="studies", metavar="PLACE", help="where results go: a folder, or a URL (default: studies)"
    )
    add_storage_argument(parser)
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the arch)")
    parser.add_argument("--epochs", type=positive_int, default=10, help="epochs of a trial (default: 10)")
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PIXELS", help="default: what the backbone's weights want"
    )
    parser.add_argument(
        "--framing",
        choices=FRAMINGS,
        help="what of a photo is seen: whole, squeezed into a square, or its centre (default: whole, or as it began)",
    )
    parser.add_argument(
        "--search-size",
        type=positive_int,
        metavar="PIXELS",
        help="search on images of this size, then train the best trials again at --image-size",
    )
    parser.add_argument(
        "--retrain",
        type=positive_int,
        metavar="K",
        help=f"with --search-size: best trials that are trained again (default: {RETRAIN})",
    )
    parser.add_argument("--weights", default="auto", help="auto, none, or a file (default: auto)")
    parser.add_argument(
        "--seed", type=natural_int, default=0, help="of split, first weights, order and sampler (default: 0)"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="stop after this long; the same command continues"
    )
    parser.add_argument(
        "--patience",
        type=natural_int,
        default=4,
        help="end a trial after so many epochs without gain; 0 never (default: 4)",
    )
    parser.add_argument(
        "--tune",
        metavar="FIELDS",
        help="search more than a study does by itself: of l1, mixup, cutmix, drop_path, layer_decay, ema, schedule",
    )
    parser.add_argument("--sampler", default="tpe", help="tpe, gp or random (default: tpe)")
    parser.add_argument(
        "--pruner", default="percentile", help="percentile, median, hyperband or none (default: percentile)"
    )
    add_resource_arguments(parser)
    parser.add_argument(
        "--views",
        type=positive_int,
        help="views of an image, shown in turn; fewer save computing (default: epochs)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        help="processes that run trials, each with its share of cores and memory, or a card of its own (default: 1)",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="where workers run: loky (here), dask, or another that joblib knows (default: loky)",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="with --backend dask: its scheduler, such as tcp://HOST:8786"
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        metavar="SECONDS",
        default=60,
        help="a worker elsewhere that shows no sign of life for so long loses its trial (default: 60)",
    )
    parser.add_argument(
        "--keep", type=positive_int, default=KEEP, help=f"best trials whose weights stay (default: {KEEP})"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Prepares the studies, runs their trials, shows what they gave; or lists architectures."""
    if args.list_archs is not None:
        from core.catalogue import list_archs

        for line in list_archs(args.list_archs):
            write(line)
        return 0
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    settings = read_settings(args)

    from search.setup import prepare
    from search.several import run_studies
    from search.worker import Goal

    setups = [prepare(each) for each in settings]
    goal = Goal(n_trials=args.trials, keep=args.keep)
    return run_studies(setups, goal, retrain=args.retrain or RETRAIN, deadline=deadline)


def read_settings(args: argparse.Namespace) -> "list[Settings]":
    """Checks what needs no data, so that a wrong word is refused at once; one for each architecture."""
    from core.errors import InputError, few
    from core.mirror import open_studies
    from search.samplers import PRUNERS, SAMPLERS
    from search.setup import Settings
    from search.several import refuse_mixtures
    from search.space import read_tuned

    if missing := [f"--{name}" for name in ("arch", "trials") if not getattr(args, name)]:
        raise InputError(
            f"`{', '.join(missing)}` must be given, but got none. `python -m search.run --help` tells what there is."
        )
    refuse_mixtures(args.arch, study=args.study, weights=args.weights)

    tune = () if args.tune is None else read_tuned(args.tune)
    if args.unlabelled is not None and (wrong := {"mixup", "cutmix", "drop_path"}.intersection(tune)):
        raise InputError(
            f"`--tune` must name none of mixup, cutmix and drop_path with --unlabelled, as no pseudo-label is of a mix "
            f"or of half a network, but got {few(sorted(wrong))}. Search one or the other."
        )
    refuse_unknown("sampler", args.sampler, SAMPLERS)
    refuse_unknown("pruner", args.pruner, PRUNERS)
    resources = read_resource_arguments(args)
    if args.retrain is not None and args.search_size is None:
        raise InputError(
            f"`--retrain` must come with --search-size, but got --retrain {args.retrain} alone. Leave it out, or say "
            "at which size to search."
        )
    if (args.backend == "dask") != bool(args.scheduler):
        raise InputError(
            "`--scheduler` must be given with --backend dask and with no other, but got "
            f"--backend {args.backend or 'loky'} and --scheduler {args.scheduler or 'none'}. Give both, or neither."
        )
    if "://" in args.studies and not args.storage:
        raise InputError(
            f"`--studies` must be a folder unless --storage names a database, but got --studies {args.studies} alone. "
            "A journal needs a folder that all machines share; give both, or a folder."
        )
    if args.storage:
        from search.database import parse_url

        parse_url(args.storage)
    if args.backend is not None:
        from search.backends import refuse_backend

        refuse_backend(args.backend, args.scheduler or "")
    settings = Settings(
        arch=args.arch[0],
        data=read_data_arguments(args, args.data),
        studies=open_studies(args.studies),
        database=args.storage,
        study=args.study,
        epochs=args.epochs,
        image_size=args.image_size,
        search_size=args.search_size,
        framing=args.framing,
        weights=args.weights,
        seed=args.seed,
        sampler=args.sampler,
        pruner=args.pruner,
        device=resources.device,
        source=resources.source,
        patience=args.patience,
        memory=resources.memory,
        disk=resources.disk,
        views=args.views or args.epochs,
        workers=args.workers,
        backend=args.backend or "loky",
        scheduler=args.scheduler or "",
        grace_s=args.grace,
        unlabelled=args.unlabelled,
        tune=tune,
    )
    return [dataclasses.replace(settings, arch=arch) for arch in args.arch]


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
