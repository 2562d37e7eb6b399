"""Which of a study's trials are to be trained again over which folds, and which of these runs are missing.

Legend: N training and validation rows.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.artifacts import TrialRecord
from core.config import TrainConfig
from core.confirmed import ConfirmedRun
from core.errors import InputError
from core.folds import draw_folds
from core.seeds import CONFIRM, derive_seed
from search.choosing import Verdict, judge_search
from search.reopening import Reopened
from search.summary import rank

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for; see `python -m search.confirm --help`."""

    folds: int
    top: int
    seeds: int
    keep_models: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A trial that is to be confirmed.

    Attributes:
        record: What the search knows of it.
        config: What it ran.
        recalls: Its validation recall in each epoch, up to its best.
    """

    record: TrialRecord
    config: TrainConfig
    recalls: tuple[float, ...]

    @classmethod
    def of(cls, record: TrialRecord, study: Reopened) -> "Candidate":
        """Reads what is needed to train a trial again.

        Raises:
            InputError: Its files don't tell it, or are not of this study.
        """
        config = TrainConfig.from_dict(record.config)
        recalls = tuple(row.get("val_recall", np.nan) for row in record.history()[: record.best_epoch + 1])
        of_study = (config.arch, config.image_size) == (study.arch.timm_name, study.arch.image_size)
        whole = np.isfinite(recalls).all() and record.best_epoch + 1 == len(recalls) <= config.epochs
        if not of_study or not whole:
            raise InputError(
                f"{record.folder} must hold a config of its study and the recall of every epoch up to its best, but "
                "does not. Restore it, or remove the folder."
            )
        return cls(record=record, config=config, recalls=recalls)

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.record.number

    def config_of(self, seed: int) -> TrainConfig:
        """The config of its runs with one of the seeds, counted from 0: the first one is the trial's own."""
        if seed == 0:
            return self.config
        return dataclasses.replace(self.config, seed=derive_seed(self.config.seed, CONFIRM, seed))


class Task(NamedTuple):
    """One run of a candidate."""

    candidate: Candidate
    fold: int
    seed: int


class Plan:
    """What is to be done for one study. Reads, and writes nothing.

    Args:
        study: The study, with its data.
        wanted: What the user asked for.

    Raises:
        InputError: There is nothing to confirm, the folds can't be drawn, or others have been begun with.

    Attributes:
        ranked: All complete trials, the best first.
        verdict: What that ranking is worth.
        candidates: The trials that are to be confirmed.
        rows_N: Training and validation rows.
        labels_N: Their classes.
        groups_N: Their lesions.
        fold_of_N: In which fold each is held out.
        folder: Where all of it goes.
    """

    def __init__(self, study: Reopened, wanted: Wanted) -> None:
        self.study, self.wanted, self.folder = study, wanted, study.folder.confirmed
        self.ranked = rank(study.folder.read_trials())
        self.verdict = self._judge()
        self.candidates = [Candidate.of(record, study) for record in self.ranked[: wanted.top]]
        self.rows_N = study.split.unsealed
        self.labels_N, self.groups_N = study.manifest.labels[self.rows_N], self._groups_of(self.rows_N)
        self.fold_of_N = draw_folds(study.manifest, self.rows_N, folds=wanted.folds)
        self._refuse_other_folds()

    def _judge(self) -> Verdict:
        study, val = self.study, self.study.split.val
        labels, classes = study.manifest.labels[val], len(study.manifest.classes)
        verdict = judge_search(self.ranked, labels, self._groups_of(val), classes)
        if verdict is None:
            raise InputError(
                f"A study must have a complete, undamaged trial to be confirmed, but {study.folder.name} has none. Let "
                "its search go on, or name others with --study."
            )
        return verdict

    def _groups_of(self, rows: Rows) -> Sequence[str]:
        return [self.study.rows[row]["group"] for row in rows]

    def _refuse_other_folds(self) -> None:
        """Looks whether what is there was held out in the same folds."""
        before = self.folder.read_folds()
        if not before or before == self.fold_rows():
            return
        name, number, asked = self.study.folder.name, len({row["fold"] for row in before}), self.wanted.folds
        if number != asked:
            raise InputError(
                f"`--folds` must be {number}, as for what is confirmed of {name} already, but got --folds {asked}. "
                f"Give {number}, or move {self.folder.root} away."
            )
        raise InputError(
            f"{self.folder.root / 'folds.csv'} must list the folds of {name}, but lists others. Restore it, or move "
            f"{self.folder.root} away."
        )

    def fold_rows(self) -> list[dict[str, str]]:
        """The rows of `folds.csv`."""
        rows = [self.study.rows[row] for row in self.rows_N]
        return [
            {**{name: row[name] for name in ("image", "label", "group")}, "fold": str(fold)}
            for row, fold in zip(rows, self.fold_of_N, strict=True)
        ]

    def find_run(self, task: Task) -> ConfirmedRun | None:
        """A run that is there already, if it is of the same config."""
        candidate, fold, seed = task
        run = self.folder.read_run(candidate.number, fold, seed)
        if run is None or run.epochs != len(candidate.recalls):
            return None
        return run if TrainConfig.from_dict(run.config) == candidate.config_of(seed) else None

    def find_seed(self, candidate: Candidate, seed: int) -> list[ConfirmedRun]:
        """The runs of a seed, fold by fold; none unless all are there."""
        runs = [self.find_run(Task(candidate, fold, seed)) for fold in range(self.wanted.folds)]
        whole = [run for run in runs if run is not None]
        return whole if len(whole) == len(runs) else []

    def find_seeds(self, candidate: Candidate) -> list[list[ConfirmedRun]]:
        """The runs of all seeds that are whole, at least those asked for if they are; more may be there."""
        seeds: list[list[ConfirmedRun]] = []
        while runs := self.find_seed(candidate, len(seeds)):
            seeds.append(runs)
        return seeds

    def missing(self, candidate: Candidate) -> list[Task]:
        """The runs that are to be made, seed by seed."""
        wanted = self.wanted
        # A trial votes with the runs of all its seeds, or not with those of its folds.
        seeds = max(wanted.seeds, len(self.find_seeds(candidate))) if wanted.keep_models else wanted.seeds
        tasks = [Task(candidate, fold, seed) for seed in range(seeds) for fold in range(wanted.folds)]
        runs = [self.find_run(task) for task in tasks]
        return [
            task
            for task, run in zip(tasks, runs, strict=True)
            if run is None or (wanted.keep_models and not run.has_model)
        ]
