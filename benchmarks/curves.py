"""Records full learning curves of random trials: python -m benchmarks.curves --data D --out curves.json.

What `benchmarks.pruning` replays pruners on. The trials are drawn at random from the search space of the architecture,
run to their last epoch without pruning, and written one by one; the same command continues where it was stopped. A list
of trials is a function of the seed, so that the same list can be recorded at several image sizes.
"""

import argparse
import platform
import sys
import time
from typing import Any

from benchmarks.reporting import json_file
from core.cli import Parser, natural_int, positive_int, run, write
from core.dataspec import add_data_arguments, read_data_arguments
from core.errors import InputError
from core.framing import EARLIER, FRAMINGS


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(prog="python -m benchmarks.curves", description=__doc__)
    add_data_arguments(parser, help="folder of labelled images, CSV or npz file; repeated, they are merged")
    parser.add_argument("--out", type=json_file, required=True, help="JSON file to write, and to continue")
    parser.add_argument("--arch", default="mobilenet", help="default: mobilenet")
    parser.add_argument("--trials", type=positive_int, default=60, help="default: 60")
    parser.add_argument("--first", type=natural_int, default=0, help="number of the first trial (default: 0)")
    parser.add_argument("--epochs", type=positive_int, default=10, help="default: 10")
    parser.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="default: the backbone's own")
    parser.add_argument("--framing", choices=FRAMINGS, default="whole", help="as of search.run (default: whole)")
    parser.add_argument("--train-images", type=positive_int, help="random training images (default: all)")
    parser.add_argument("--seed", type=natural_int, default=0, help="of the list of trials too (default: 0)")
    parser.add_argument("--weights", default="auto", help="default: auto")
    parser.add_argument("--device", default="auto", help="default: auto")
    return parser


def main(args: argparse.Namespace) -> int:
    """Runs the trials that are missing."""
    from benchmarks.setup import activations_in, open_task, open_trainer
    from core.cache import cache_folder
    from core.device import describe_device, resolve_device
    from core.files import read_json, write_json
    from core.seeds import derive_seed
    from core.trainer import EpochResult, NonFiniteLossError
    from core.versions import installed_versions
    from search.space import build_space

    device = resolve_device(args.device)
    task = open_task(
        read_data_arguments(args, args.data),
        args.arch,
        image_size=args.image_size,
        framing=args.framing,
        weights=args.weights,
        train_images=args.train_images,
        seed=args.seed,
    )
    activations = activations_in(cache_folder("activations"), device, gigabytes=60)
    trainer = open_trainer(task, device, activations=activations)
    space = build_space(
        task.arch.timm_name,
        trainer.model.max_unfreeze_depth,
        parameters=trainer.model.body_size,
        pretrained=bool(task.weights.state),
    )
    fixed, train_images = task.fixed(args.epochs), len(task.split.train)
    provenance = {
        "command": "python -m benchmarks.curves " + " ".join(sys.argv[1:]),
        "data": f"{task.manifest.layout}, fingerprint {task.manifest.fingerprint}",
        "framing": task.arch.framing,
        "train_images": train_images,
        "val_images": len(task.split.val),
        "space": space.describe(),
        "fixed": fixed,
        "weights": f"{task.weights.origin}, hash {task.weights.hash}",
        "machine": f"{describe_device(device)}, {platform.machine()}",
        "versions": installed_versions(),
    }
    content: dict[str, Any] = {"provenance": provenance, "trials": []}
    if args.out.is_file():
        content = read_json(args.out)
        known = {"framing": EARLIER, **content["provenance"]}
        if any(known[name] != provenance[name] for name in ("fixed", "framing", "train_images")):
            raise InputError(
                f"`--out` must be a new file or one of the same settings, but got {args.out}. Choose another."
            )
    done = {trial["number"] for trial in content["trials"]}
    for number in range(args.first, args.first + args.trials):
        if number in done:
            continue
        params = draw(space.distributions, seed=derive_seed(args.seed, number) % 2**32)
        config = task.config(args.epochs, **params, trial=number)
        epochs: list[EpochResult] = []
        start, reason = time.perf_counter(), ""
        try:
            trainer.train(config, epochs.append)
        except NonFiniteLossError as error:
            reason = str(error)
        content["trials"].append(
            {
                "number": number,
                "params": params,
                "recall": [epoch.val.recall for epoch in epochs],
                "recall_argmax": [epoch.val.recall_argmax for epoch in epochs],
                "train_recall": [epoch.train.recall for epoch in epochs],
                "elapsed_s": [epoch.elapsed_s for epoch in epochs],
                "reason": reason,
            }
        )
        write_json(args.out, content)
        best = max((epoch.val.recall for epoch in epochs), default=0.0)
        write(f"trial {number}: best recall {best:.3f} in {time.perf_counter() - start:.0f} s; {params}")
    trainer.data.source.close()
    return 0


def draw(distributions: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """One point of a space, at random."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask(distributions).params


if __name__ == "__main__":
    sys.exit(run(main, build_parser()))
