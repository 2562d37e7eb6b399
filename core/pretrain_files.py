"""The files of a pre-training: the weights, the checkpoint beside them, and what tells one from another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.archs import Arch
from core.cli import write
from core.errors import InputError, counted, few
from core.files import read_metadata
from core.framing import EARLIER, Framing, recorded_framing
from core.kept_apart import write_apart
from core.pretrain_data import PretrainConfig
from core.pretrain_study import Study
from core.pretraining import Pretraining
from core.unlabelled import Unlabelled
from core.weights import Weights

_KEY = "pretraining"  # under which a file's metadata have the facts


def describe(config: PretrainConfig, arch: Arch, images: Unlabelled, weights: Weights, study: Study) -> dict[str, str]:
    """What tells one pre-training from another, for the metadata of its files.

    Args:
        config: What is run.
        arch: What sees them.
        images: Those that are learned from.
        weights: Those that it begins with.
        study: By whose labels it is watched.
    """
    facts: dict[str, Any] = {**config.to_dict(), "images": images.fingerprint, "first weights": weights.hash}
    facts["framing"] = arch.framing
    facts["labelled"] = study.manifest.fingerprint_of(study.split.train)
    facts["kept apart from"] = study.manifest.fingerprint_of(study.sealed_rows)
    return {_KEY: json.dumps(facts)}


def checkpoint_file(out: Path) -> Path:
    """Where the state of an unfinished pre-training lies."""
    return out.with_name(f"{out.name}.checkpoint")


def begun_framing(file: Path) -> Framing | None:
    """What of a photo a pre-training sees that a file is of; None where it is of none, or is not there."""
    if not file.exists():
        return None
    return recorded_framing(facts) if (facts := _read_facts(file)) else None


def _read_facts(file: Path) -> dict[str, Any]:
    """What `describe` gave; empty where a file is of nobody's making."""
    try:
        facts = json.loads(read_metadata(file).get(_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def refuse_differences(file: Path, facts: Mapping[str, str]) -> None:
    """Makes sure that a file is of the same pre-training.

    Raises:
        InputError: It is of another, or of none.
    """
    there, now = _read_facts(file), json.loads(facts[_KEY])
    if not there:
        raise InputError(
            f"`--out` must be a new file, but {file} is there and is damaged or something else. Name another file, or "
            "remove that one."
        )
    there = {"framing": EARLIER, **there}
    if differing := [name for name in {**there, **now} if there.get(name) != now.get(name)]:
        raise InputError(
            f"`--out` must be a new file, or one of the same images and settings, but in {file} these differ: "
            f"{few(differing)}. Name another file, or remove that one."
        )


def write_weights(
    out: Path,
    training: Pretraining,
    *,
    images: Unlabelled,
    weights: Weights,
    study: Study,
    facts: Mapping[str, str],
) -> None:
    """Writes what has been learned in the form of all other first weights.

    Args:
        out: Where.
        training: At its end.
        images: Those that it has learned from.
        weights: Those that it began with.
        study: Whose sealed images it has been kept apart from, and perhaps others.
        facts: As `describe` gave them.
    """
    config = training.config
    origin = (
        f"{config.method} for {counted(config.descent.epochs, 'epoch')} at {training.arch.image_size} pixels on "
        f"{counted(len(images), 'image')} without labels (fingerprint {images.fingerprint[:8]}), from {weights.origin}"
    )
    learned = Weights(
        state=training.body(),
        origin=origin,
        arch=training.arch.timm_name,
        tag=training.arch.weight_tag,
        license=weights.license,
        apart=write_apart(study.apart_from(images), earlier=weights.apart),
        image_size=str(training.arch.image_size),
    )
    learned.save(out, {**facts, "history": json.dumps(training.history)})
    write(f"{out}: {origin}")
