"""What benchmarks.chaos looks for once the storm is over."""

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from core.cli import progress
from core.config import TrainConfig
from core.errors import InputError
from core.files import read_tensors

if TYPE_CHECKING:
    from core.artifacts import TrialRecord
    from search.setup import Setup

_TIMES = {"elapsed_s", "images_per_s"}


def find_losses(words: list[str], *, trials: int) -> list[str]:
    """Everything that is missing, torn or other than it would be undisturbed, in words.

    Args:
        words: Arguments of the search.
        trials: Finished trials that were asked for.
    """
    from core.mirror import open_studies
    from search.run import build_parser, read_settings
    from search.setup import prepare

    (settings,) = read_settings(build_parser().parse_args(words))
    setup = prepare(settings)
    place = setup.settings.studies.place
    records = open_studies(place, with_models=True).study(setup.folder.name).read_trials()
    losses = [*check_counts(setup, records, trials), *check_artifacts(records), *check_histories(setup, records)]
    command = [sys.executable, "-m", "ensemble.build", place, "--no-test"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    return losses + ([f"ensemble.build: {built.stderr[-300:]}"] if built.returncode else [])


def check_counts(setup: "Setup", records: "list[TrialRecord]", trials: int) -> Iterator[str]:
    """Optuna and the folders must hold the same trials, exactly as many as were asked for."""
    import optuna

    from search.storage import read_storage

    storage = read_storage(setup.settings.studies, setup.settings.database)
    study = optuna.load_study(storage=storage, study_name=setup.folder.name)
    told = sorted(trial.number for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED"))
    kept = [record.number for record in records]
    if told != kept:
        yield f"Optuna has the trials {told}, the folders have {kept}"
    if len(told) != trials:
        yield f"{len(told)} trials are finished, and {trials} were asked for"
    values = {trial.number: trial.value for trial in study.trials}
    yield from (
        f"trial {record.number} has two recalls" for record in records if values[record.number] != record.recall
    )


def check_artifacts(records: "list[TrialRecord]") -> Iterator[str]:
    """Every file must be readable."""
    for record in records:
        try:
            record.val_probs()
            record.history()
            if record.has_model:
                read_tensors(record.model_file)
        except InputError as error:
            yield str(error)
    if not any(record.has_model for record in records):
        yield "no trial kept its weights"


def check_histories(setup: "Setup", records: "list[TrialRecord]") -> Iterator[str]:
    """Every trial must have the history of an undisturbed run, to the last bit."""
    import torch

    from core.device import available_cores

    torch.set_num_threads(max(1, available_cores() // setup.settings.workers))
    interrupted = [record for record in records if record.generation > 1]
    if not interrupted:
        yield "no trial was interrupted, so nothing was tested"
    trainer = setup.open_trainer()
    with trainer.data.source, progress("repeating interrupted trials", len(interrupted)) as bar:
        for record in interrupted:
            undisturbed = trainer.train(TrainConfig.from_dict(record.config), lambda epoch: None).history
            if untimed(undisturbed) != untimed(record.history()):
                yield f"trial {record.number}, of {record.generation} owners, has another history undisturbed"
            bar.advance()


def untimed(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows without what differs from run to run; as text, since NaN, of a class without images, equals nothing."""
    return [{name: repr(float(value)) for name, value in row.items() if name not in _TIMES} for row in history]
