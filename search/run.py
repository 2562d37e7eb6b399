"""Tunes one backbone: python -m search.run --arch mobilenet --trials 50."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli import positive_int, run, stopping_cleanly, write

# torch, timm and optuna take seconds to import and --help must not: they come after the parsing.
if TYPE_CHECKING:
    import optuna

    from core.trainer import Trainer
    from search.setup import Settings, Setup

EXIT_FAILED = 1
KEEP = 5


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m search.run", description=__doc__)
    parser.add_argument("--arch", required=True, help="mobilenet, efficientnet_b3, or any timm model name")
    parser.add_argument(
        "--trials",
        type=positive_int,
        required=True,
        help="finished trials that the study is to hold, restarts counted in",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of labelled images (default: data/, else built-in demo images)"
    )
    parser.add_argument("--studies", type=Path, default=Path("studies"), help="where results go (default: studies)")
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the arch)")
    parser.add_argument("--epochs", type=positive_int, default=10, help="epochs of a trial (default: 10)")
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PIXELS", help="default: what the backbone's weights want"
    )
    parser.add_argument("--weights", default="auto", help="auto, none, or a file (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="of split, first weights, order and sampler (default: 0)")
    parser.add_argument(
        "--timeout", type=positive_int, metavar="SECONDS", help="stop after this long; the same command continues"
    )
    parser.add_argument(
        "--patience", type=int, default=4, help="end a trial after so many epochs without gain; 0 never (default: 4)"
    )
    parser.add_argument("--sampler", default="tpe", help="tpe, gp or random (default: tpe)")
    parser.add_argument("--pruner", default="median", help="median, percentile, hyperband or none (default: median)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--source", default="auto", help="where pixels come from: auto, resident, ffcv or torch (default: auto)"
    )
    parser.add_argument(
        "--keep", type=positive_int, default=KEEP, help=f"best trials whose weights stay (default: {KEEP})"
    )
    return parser


def main(args: argparse.Namespace) -> int:
    """Prepares the study, runs its trials, shows what they gave."""
    settings = read_settings(args)

    from search.setup import prepare, start_or_continue
    from search.storage import only_runner, open_storage, open_study

    setup = prepare(settings)
    storage = open_storage(settings.studies)
    with only_runner(setup.folder):
        study = open_study(storage, setup.folder.name)
        start_or_continue(setup, study)
        return run_study(setup, study, args)


def read_settings(args: argparse.Namespace) -> "Settings":
    """Checks what needs no data, so that a wrong word is refused at once."""
    from core.artifacts import StudiesFolder
    from core.device import resolve_device
    from core.errors import InputError
    from search.samplers import PRUNERS, SAMPLERS
    from search.setup import Settings

    for name, choices in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if (value := getattr(args, name)) not in choices:
            raise InputError(f"`--{name}` must be one of {', '.join(choices)}, but got --{name}={value}. Choose one.")
    return Settings(
        arch=args.arch,
        data=args.data,
        studies=StudiesFolder(args.studies),
        study=args.study,
        epochs=args.epochs,
        image_size=args.image_size,
        weights=args.weights,
        seed=args.seed,
        sampler=args.sampler,
        pruner=args.pruner,
        device=resolve_device(args.device),
        source=args.source,
        patience=args.patience,
    )


def run_study(setup: "Setup", study: "optuna.Study", args: argparse.Namespace) -> int:
    """Runs the trials that are missing."""
    from optuna.artifacts import FileSystemArtifactStore

    from search.console import Console
    from search.loop import SearchFailedError, count_finished, run_trials
    from search.objective import Objective
    from search.samplers import settle
    from search.summary import rank, summarise

    names = list(setup.space.distributions)
    finished = count_finished(study)
    if finished >= args.trials:
        write(f"{setup.folder.name} holds {finished} finished trials, so --trials {args.trials} asks for no more.")
        show_end(setup, names, args)
        return 0
    trainer = setup.open_trainer()
    show_plan(setup, trainer, args.trials - finished, finished)
    ranked = rank(setup.folder.read_trials())
    setup.settings.studies.artifacts.mkdir(exist_ok=True)

    def ask() -> "optuna.Trial":
        number = len(study.get_trials(deepcopy=False))
        settings = setup.settings
        settle(
            study,
            sampler=settings.sampler,
            pruner=settings.pruner,
            epochs=settings.epochs,
            seed=setup.sampler_seed(number),
        )
        if number == 0:
            study.enqueue_trial(setup.space.known_good, skip_if_exists=True)
        return study.ask(fixed_distributions=setup.space.distributions)

    console = Console(
        n_trials=args.trials,
        finished=finished,
        epochs=args.epochs,
        train_images=len(setup.split.train),
        names=names,
        timeout_s=args.timeout,
        best=ranked[0].recall if ranked else None,
    )
    objective = Objective(
        folder=setup.folder,
        artifact_store=FileSystemArtifactStore(str(setup.settings.studies.artifacts)),
        trainer=trainer,
        groups=tuple(setup.manifest.groups[row] for row in setup.split.val),
        fixed=setup.fixed,
        keep=args.keep,
        watcher=console,
    )
    try:
        with stopping_cleanly(), console, trainer.data.source:
            stopped = run_trials(study, objective, n_trials=args.trials, ask=ask)
    except SearchFailedError as error:
        write(f"\nThe search stopped: {error}. Every finished trial is kept; mend the cause and run the same command.")
        return EXIT_FAILED
    finally:
        setup.folder.write_summary(summarise(study, setup.folder.read_trials(), names))
    if stopped:
        write(f"\nThe search stopped because {stopped}. The same command continues it.")
    show_end(setup, names, args)
    return 0


def show_plan(setup: "Setup", trainer: "Trainer", n_trials: int, finished: int) -> None:
    """Says what will be done and how long it takes, measured on a few batches."""
    import dataclasses

    from core.device import describe_device
    from core.durations import in_words

    manifest = setup.manifest
    train, val, test = (f"{len(rows):,}" for rows in (setup.split.train, setup.split.val, setup.split.test))
    write(
        f"Study {setup.folder.name}: {n_trials} trials to go, {finished} finished, of {setup.arch.timm_name} at "
        f"{setup.arch.image_size} pixels on {describe_device(trainer.device)}"
    )
    write(
        f"  data     {manifest.root} ({manifest.layout}), {len(manifest):,} images of {len(manifest.classes)} classes"
    )
    write(f"           {train} to train, {val} to validate, {test} sealed for the test")
    write(f"  weights  {setup.weights.origin}")
    for name, words in setup.space.describe().items():
        write(f"  {name:<16} {words}")
    shallow = dataclasses.replace(setup.known_good, unfreeze_depth=0)
    deep = dataclasses.replace(setup.known_good, unfreeze_depth=trainer.model.max_unfreeze_depth)
    epochs = setup.settings.epochs
    longest_s = trainer.measure_epoch_s(deep) * epochs
    shortest_s = longest_s if not setup.weights.state else trainer.measure_epoch_s(shallow) * epochs
    write(
        f"A trial of {epochs} epochs takes {in_words(shortest_s)} (head alone) to {in_words(longest_s)} (everything "
        f"learns); the search at most about {in_words((shortest_s + longest_s) / 2 * n_trials)}, less what is pruned."
    )


def show_end(setup: "Setup", names: list[str], args: argparse.Namespace) -> None:
    """The best trials, and the two commands to type next."""
    from search.summary import table

    studies = args.studies
    if records := setup.folder.read_trials():
        write(f"\nBest trials of {setup.folder.name}, by macro recall on {len(setup.split.val):,} validation images:")
        write(table(records, names))
    write("\nNext:")
    write(f"  optuna-dashboard {studies}/journal.log --artifact-dir {studies}/artifacts --host 127.0.0.1")
    write(f"  python -m ensemble.build {studies}")


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
