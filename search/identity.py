"""What a study is, as its `study.json` and `split.csv` say, and whether it is continued with the same."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna

from core.artifacts import TrialRecord
from core.cli import command_line
from core.durations import utc
from core.errors import InputError, counted, shorten
from core.framing import FRAMINGS, Framing, recorded_framing
from core.manifest import Manifest
from core.splits import Split, joined_groups
from core.versions import installed_versions

if TYPE_CHECKING:
    from search.setup import Setup

_PARTS = ("train", "val", "test")


def start_or_continue(setup: "Setup", study: optuna.Study, records: Sequence[TrialRecord]) -> None:
    """Writes what the study is, or checks that it is still the same. Only for the holder of the study's lock.

    Args:
        setup: What it is to be.
        study: The same in Optuna.
        records: Its finished trials, as they were read before the lock was taken.

    Raises:
        InputError: The study was started with something else, or its folder and Optuna's journal disagree.
    """
    if goes_on(setup, study, records):
        return
    folder, weights, studies = setup.folder, setup.weights, setup.settings.studies
    weights_file = studies.weights_file(weights.hash)
    if weights.state:
        # Of a folder at a URL this is a copy, which may hold what has been removed there.
        was_sent = folder.exists and folder.read_study().get("weights", {}).get("hash") == weights.hash
        was_saved = weights_file.is_file()
        if not was_saved:
            weights.save(weights_file)
        if not was_saved or not was_sent:
            studies.publish(weights_file)
    folder.write_study(describe_study(setup), split_rows(setup.manifest, setup.split))


def goes_on(setup: "Setup", study: optuna.Study | None, records: Sequence[TrialRecord]) -> bool:
    """Whether a study goes on, as what it was; false for one that is still to be written. Writes nothing.

    A study that never got to a trial, as its cache was full or a word was wrong, is free to become another, unless
    somebody is at work on it.

    Args:
        setup: What it is to be.
        study: The same in Optuna; None if that knows of none.
        records: Its finished trials, as they were read before; Optuna may know of more by now, not of fewer.

    Raises:
        InputError: The study was started with something else, or its folder and Optuna's journal disagree.
    """
    folder = setup.folder
    known = {trial.number for trial in study.get_trials(deepcopy=False)} if study is not None else set()
    if {record.number for record in records} - known or (known and not folder.exists):
        raise InputError(
            f"The folder of a study and Optuna's journal must hold the same trials, but those of {folder.name} differ. "
            "Restore what was removed, or start another study with --study NAME."
        )
    if bad := [record.folder for record in records if not set(setup.space.distributions) <= set(record.config)]:
        raise InputError(f"{bad[0]} must hold the config of a trial, but its config.json lacks parts. Restore it.")
    if not (folder.exists and (known or is_worked_on(setup))):
        return False
    refuse_other(setup)
    return True


def is_worked_on(setup: "Setup") -> bool:
    """Whether a worker of the study is alive, as far as that can be told without waiting."""
    leases = setup.leases()
    return any(
        not leases.is_gone(worker) and leases.silent_s(worker) < setup.settings.grace_s
        for worker in leases.read_workers().values()
    )


def refuse_other(setup: "Setup") -> None:
    """Checks that a study is the same as in its folder.

    Raises:
        InputError: It differs; the sentence says in what.
    """
    folder, rows = setup.folder, split_rows(setup.manifest, setup.split)
    if not folder.exists:
        raise InputError(
            f"The study {folder.name} must stay while it is searched, but its study.json is gone. Run it again."
        )
    before = folder.read_split()
    refuse_differences(folder.read_study(), describe_study(setup), name=folder.name, rows=(before, rows))
    # The order of every array of probabilities, and what each row's views and batches hang on.
    if before != rows:
        raise InputError(
            f"The images of {folder.name} must have the names and the order that its split.csv lists, but they "
            "differ. Put them where they lay, or start another study with --study NAME."
        )


def framing_of(study: Mapping[str, Any]) -> Framing:
    """What of a photo a study's networks see, as its `study.json` says.

    Raises:
        InputError: It says something else.
    """
    if (framing := recorded_framing(study["arch"])) is None:
        raise InputError(
            f"The framing of a study must be {' or '.join(FRAMINGS)}, but study.json of {study.get('name', 'it')} says "
            f"{shorten(repr(study['arch']['framing']))}. Restore it."
        )
    return framing


def full_name(study: Mapping[str, Any]) -> str:
    """The timm model of a study with the tag of its weights, as its `study.json` says."""
    name, tag = study["arch"]["timm_name"], study["arch"]["weight_tag"]
    return f"{name}.{tag}" if tag else str(name)


def describe_study(setup: "Setup") -> dict[str, Any]:
    """What `study.json` says."""
    manifest, split, settings = setup.manifest, setup.split, setup.settings
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {
        "name": setup.folder.name,
        "serves": setup.serves,
        "arch": dataclasses.asdict(setup.arch),
        "demo": manifest.demo,
        "data": {
            "root": manifest.where,
            **setup.data.to_dict(),
            "layout": manifest.layout,
            "fingerprint": manifest.fingerprint,
            "classes": list(manifest.classes),
            "images": len(manifest),
            "groups": len(set(manifest.groups)),
            "grouped": manifest.grouped,
        },
        "unlabelled": _describe_unlabelled(setup),
        "split": {"seed": split.seed} | {name: manifest.fingerprint_of(rows) for name, rows in parts.items()},
        "space": {"hash": setup.space.fingerprint(), "parameters": setup.space.describe()},
        "weights": {
            "hash": setup.weights.hash,
            "origin": setup.weights.origin,
            "license": setup.weights.license,
            "spec": settings.weights if setup.weights.state else "none",
        },
        "epochs": settings.epochs,
        "patience": settings.patience,
        "views": settings.views,
        "augment_seed": setup.fixed["augment_seed"],
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "versions": installed_versions(),
        "command": command_line("search.run"),
        "created": utc(),
    }


def _describe_unlabelled(setup: "Setup") -> dict[str, Any] | None:
    folder, images = setup.settings.unlabelled, setup.unlabelled
    if folder is None or images is None:
        return None
    return {"root": str(folder.absolute()), "fingerprint": images.fingerprint, "images": len(images)}


def split_rows(manifest: Manifest, split: Split) -> list[dict[str, str]]:
    """The rows of `split.csv`, in the manifest's order."""
    lesions = lesion_names(manifest)
    parts = {"train": split.train, "val": split.val, "test": split.test, "left out": split.left_out}
    part_of_row = {int(row): part for part, rows in parts.items() for row in rows}
    return [
        {
            "image": manifest.paths[row],
            "label": manifest.classes[manifest.labels[row]],
            "group": lesions[row],
            "split": part_of_row[row],
        }
        for row in range(len(manifest))
    ]


def lesion_names(manifest: Manifest) -> list[str]:
    """The lesion of each row; lesions that are joined as near-duplicates go by the first one's name."""
    joined_N = joined_groups(manifest)
    first: dict[int, str] = {}
    for group, name in sorted(zip(joined_N.tolist(), manifest.groups, strict=True)):
        first.setdefault(group, name)
    return [first[group] for group in joined_N.tolist()]


def refuse_differences(
    study: dict[str, Any],
    now: dict[str, Any],
    *,
    name: str,
    rows: tuple[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]],
) -> None:
    """Compares everything that makes trials comparable.

    Args:
        study: What the study was started with.
        now: What it is to be continued with.
        name: The study's name.
        rows: The rows of `split.csv`, as they were and as they would be now.

    Raises:
        InputError: Something differs; it says what, and how to start another study.
    """
    try:
        differing = _differences(study, now, rows)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"The study.json of {name} must be whole, but is damaged ({error}). Restore it.") from error
    if differing:
        was, now_is = full_name(study), full_name(now)
        # Without a tag an --arch stands for the default one, and it names the study if nothing else does.
        own = "" if was == now_is else f", --arch {was} --study {_serves(study) or name}"
        raise InputError(
            f"The study {name} must be continued with what it was started with, but these differ: "
            f"{'; '.join(differing)}. Give what it was started with{own}, or start another study with --study NAME."
        )


def _differences(
    study: dict[str, Any],
    now: dict[str, Any],
    rows: tuple[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]],
) -> list[str]:
    """What differs, each with what it was and what it is."""
    # Random weights are of no tag; what it tells of pixels is compared by itself.
    tagged = all(each["weights"]["spec"] != "none" for each in (study, now))
    facts = [_identity(each, of_it, tagged=tagged) for each, of_it in zip((study, now), rows, strict=True)]
    pairs = {what: (facts[0][what], facts[1][what]) for what in facts[0]}
    words = {what: f"{what} (was {was[1]}, now {is_[1]})" for what, (was, is_) in pairs.items() if was[0] != is_[0]}
    if "space" in words:
        words["space"] = f"space ({_other_ranges(study['space']['parameters'], now['space']['parameters'])})"
    if "split" in words and pairs["split"][0][1] == pairs["split"][1][1]:
        part_of = [{row["image"]: row["split"] for row in of_it} for of_it in rows]
        moved = sum(part_of[1].get(image, part) != part for image, part in part_of[0].items())
        words["split"] = f"split (still {pairs['split'][0][1]}, but {counted(moved, 'image')} in another part)"
        if not moved and "data" in words:  # other images, or others' labels: that has been said
            del words["split"]
    if "split" in words:  # which names the seeds
        words.pop("seed", None)
    return list(words.values())


def _other_ranges(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return ", ".join(
        f"{name} was {was.get(name, 'not searched')}, now {now.get(name, 'not searched')}" for name in names
    )


def _identity(study: dict[str, Any], rows: Sequence[Mapping[str, str]], *, tagged: bool) -> dict[str, tuple[Any, str]]:
    """What makes trials comparable: to compare, and in words."""
    data, split, weights = study["data"], study["split"], study["weights"]
    counts = Counter(row["split"] for row in rows)
    sizes = "/".join(f"{counts[part]:,}" for part in _PARTS)
    return {
        # A tag stands for weights and what they were trained on; which one is the default, timm's versions change.
        "architecture": (full_name(study) if tagged else study["arch"]["timm_name"], full_name(study)),
        "normalisation": _normalisation(study),
        "image size": (study["arch"]["image_size"], str(study["arch"]["image_size"])),
        "framing": (framing_of(study), framing_of(study)),
        "data": (data["fingerprint"], f"{counted(data['images'], 'image')} with fingerprint {data['fingerprint'][:8]}"),
        "split": (
            tuple(split[part] for part in _PARTS),
            f"seed {split['seed']} with {sizes} images to {'/'.join(_PARTS)}",
        ),
        # Where the parts are official it changes none of them, but still views, first weights and sampler.
        "seed": (split["seed"], str(split["seed"])),
        "space": (study["space"]["hash"], ""),
        "weights": (weights["hash"], f"{weights['origin']}, hash {weights['hash'][:8]}"),
        "epochs": (study["epochs"], str(study["epochs"])),
        "patience": (study["patience"], str(study["patience"])),
        "views": (_views(study), _views(study) or "one an epoch"),
        "unlabelled images": _unlabelled(study),
        # What finds trials for another study keeps no weights and doesn't vote.
        "purpose": (
            _serves(study),
            f"to find trials for {_serves(study)}" if _serves(study) else "to stand for itself",
        ),
    }


def _serves(study: Mapping[str, Any]) -> str:
    """The study that this one finds trials for; none if it is of before there were such."""
    return str(study.get("serves") or "")


def _normalisation(study: dict[str, Any]) -> tuple[Any, str]:
    """Mean and standard deviation of the channels, as JSON has them."""
    mean, std = list(study["arch"]["mean"]), list(study["arch"]["std"])
    return (mean, std), f"mean {_in_words(mean)} and std {_in_words(std)}"


def _in_words(numbers: Sequence[float]) -> str:
    return "/".join(f"{number:.4g}" for number in numbers)


def _unlabelled(study: dict[str, Any]) -> tuple[str, str]:
    """Which unlabelled images are learned from; studies of before there were such have none."""
    if not (images := study.get("unlabelled")):
        return "", "none"
    return images["fingerprint"], f"{counted(images['images'], 'image')} with fingerprint {images['fingerprint'][:8]}"


def _views(study: dict[str, Any]) -> str:
    """How many views of an image there are, if not as many as epochs; studies of before there were views had these."""
    views = study.get("views", study["epochs"])
    return "" if views == study["epochs"] else str(views)
