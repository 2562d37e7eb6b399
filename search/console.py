"""What a search shows while it runs: bars over trials and epochs, one row per epoch, one line per trial."""

import time
from types import TracebackType

from core.artifacts import TrialRecord
from core.cli import build_bars, stop_asked, write
from core.config import TrainConfig
from core.trainer import EpochResult
from search.objective import COMPLETE, StoppedError
from search.summary import format_value

EPOCH_HEADER = "  epoch       lr   loss train/val  accuracy train/val  recall train/val  argmax  images/s"


class Console:
    """Watches the trials of one search.

    Args:
        n_trials: Finished trials that the study is to hold.
        finished: How many it holds now.
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
        finished: int,
        epochs: int,
        train_images: int,
        names: list[str],
        deadline: float | None,
        best: float | None,
    ) -> None:
        self._names, self._epochs, self._best = names, epochs, best
        self._deadline = deadline
        self._bars = build_bars()
        self._trials_bar = self._bars.add_task("trials", total=n_trials, completed=finished)
        self._epochs_bar = self._bars.add_task("epochs", total=epochs)
        self._images_bar = self._bars.add_task("images", total=train_images)

    def __enter__(self) -> "Console":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def trial_starts(self, number: int, config: TrainConfig, epochs_done: int) -> None:
        """Shows what the trial tries."""
        values = "  ".join(f"{name}={format_value(getattr(config, name))}" for name in self._names)
        again = f", continued after epoch {epochs_done}" if epochs_done else ""
        write(f"\ntrial {number}{again}: {values}\n{EPOCH_HEADER}")
        self._bars.reset(self._epochs_bar, completed=epochs_done)
        self._bars.reset(self._images_bar)

    def step_done(self, images: int) -> None:
        """Moves the bar, and stops the trial where somebody asked for it or time is up."""
        self._bars.advance(self._images_bar, images)
        self.check()

    def check(self) -> None:
        """Raises StoppedError where somebody asked for an end or time is up."""
        if stop_asked():
            raise StoppedError("it was asked to")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise StoppedError("the --timeout is over")

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
        line = f"trial {number} {state}"
        if record is not None:
            low, high = record.recall_interval
            line += (
                f": validation recall {record.recall:.3f} ({low:.3f} to {high:.3f}) in epoch {record.best_epoch + 1}"
            )
            if state == COMPLETE and (self._best is None or record.recall > self._best):
                self._best = record.recall
                line += ", the best so far"
        if reason and reason != state:
            line += f" ({reason})"
        write(line)
        if state != "failed":
            self._bars.advance(self._trials_bar)
