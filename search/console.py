"""What a search shows while it runs: bars over trials and epochs, one row per epoch, one line per trial."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from core.artifacts import TrialRecord
from core.cli import build_bars, write
from core.config import TrainConfig
from core.trainer import EpochResult
from search.objective import COMPLETE
from search.summary import format_value
from search.watching import Watching

EPOCH_HEADER = "  epoch       lr   loss train/val  accuracy train/val  recall train/val  argmax  images/s"


class WithBars:
    """Shows progress bars while it is entered."""

    def __init__(self) -> None:
        self._bars = build_bars()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class Console(WithBars, Watching):
    """Watches and shows the trials that this process runs.

    Args:
        n_trials: Finished trials that the study is to hold.
        count_finished: Tells how many it holds; other processes may add to them.
        epochs: Epochs of a trial.
        train_images: Images of an epoch.
        names: Parameters that the study searches.
        deadline: When the search stops, by `time.monotonic`; None for never.
        best: The best recall so far; None without any.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        count_finished: Callable[[], int],
        epochs: int,
        train_images: int,
        names: list[str],
        deadline: float | None,
        best: float | None,
    ) -> None:
        WithBars.__init__(self)
        Watching.__init__(self, deadline)
        self._names, self._epochs, self._best, self._count_finished = names, epochs, best, count_finished
        self._trials_bar = self._bars.add_task("trials", total=n_trials, completed=count_finished())
        self._epochs_bar = self._bars.add_task("epochs", total=epochs)
        self._images_bar = self._bars.add_task("images", total=train_images)

    def trial_starts(self, number: int, config: TrainConfig, epochs_done: int) -> None:
        """Shows what the trial tries."""
        again = f", continued after epoch {epochs_done}" if epochs_done else ""
        write(f"\ntrial {number}{again}: {describe_params(config.to_dict(), self._names)}\n{EPOCH_HEADER}")
        self._bars.reset(self._epochs_bar, completed=epochs_done)
        self._bars.reset(self._images_bar)

    def step_done(self, images: int) -> None:
        """Moves the bar, and stops the trial where somebody asked for it or time is up."""
        self._bars.advance(self._images_bar, images)
        super().step_done(images)

    def epoch_done(self, result: EpochResult) -> None:
        """Shows the epoch's row: training and validation side by side, so that overfitting is visible."""
        train, val = result.train, result.val
        write(
            f"  {result.epoch + 1:>2}/{self._epochs:<2}  {result.lr:>7.1e}"
            f"  {train.loss:>7.3f} {val.loss:<7.3f}  {train.accuracy:>9.3f} {val.accuracy:<9.3f}"
            f"  {train.recall:>7.3f} {val.recall:<8.3f}  {val.recall_argmax:>6.3f}  {result.images_per_s:>8.1f}"
        )
        self._bars.advance(self._epochs_bar)
        self._bars.reset(self._images_bar)

    def trial_done(self, number: int, state: str, record: TrialRecord | None, reason: str) -> None:
        """Shows the trial's line."""
        write(describe_end(number, state, reason, None if record is None else EndOf.record(record), best=self._best))
        if record is not None and state == COMPLETE:
            self._best = max(record.recall, self._best or 0.0)
        self._bars.update(self._trials_bar, completed=self._count_finished())


class EndOf(NamedTuple):
    """What is shown of a finished trial's recall.

    Attributes:
        recall: What it is judged by.
        interval: Its 95 % interval.
        epoch: The epoch that it is of, counted from 0.
    """

    recall: float
    interval: tuple[float, float]
    epoch: int

    @classmethod
    def record(cls, record: TrialRecord) -> "EndOf":
        """Of a trial's folder."""
        return cls(record.recall, record.recall_interval, record.best_epoch)


def describe_params(params: Mapping[str, Any], names: Sequence[str]) -> str:
    """What a trial tries."""
    return "  ".join(f"{name}={format_value(params[name])}" for name in names)


def describe_end(number: int, state: str, reason: str, end: EndOf | None, *, best: float | None) -> str:
    """The line of a trial that is over.

    Args:
        number: Of the trial.
        state: How it ended, in a word.
        reason: Why, if it ended early.
        end: Its recall, if it has one.
        best: The best recall before it, if any.
    """
    line = f"trial {number} {state}"
    if end is not None:
        low, high = end.interval
        line += f": validation recall {end.recall:.3f} ({low:.3f} to {high:.3f}) in epoch {end.epoch + 1}"
        if state == COMPLETE and (best is None or end.recall > best):
            line += ", the best so far"
    return f"{line} ({reason})" if reason and reason != state else line
