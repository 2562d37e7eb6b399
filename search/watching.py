"""Whether a worker should stop: what the watchers of trials have in common."""

import time

from core.artifacts import TrialRecord
from core.cli import stop_asked
from core.config import TrainConfig
from core.trainer import EpochResult
from search.crew import Crew
from search.objective import StoppedError


class Watching:
    """Watches the trials of one worker and shows nothing.

    Args:
        deadline: When the worker stops, by `time.monotonic`; None for never.
        crew: The worker, which ends with the one that started it; None for a worker on its own.
    """

    def __init__(self, deadline: float | None, crew: Crew | None = None) -> None:
        self._deadline, self._crew = deadline, crew

    def check(self) -> None:
        """Raises StoppedError where somebody asked for an end, time is up, or the search that it serves has ended."""
        if stop_asked():
            raise StoppedError("it was asked to")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise StoppedError("the --timeout is over")
        if self._crew is not None and self._crew.is_abandoned():
            raise StoppedError("the search that it serves has ended")

    def trial_starts(self, number: int, config: TrainConfig, epochs_done: int) -> None:
        """Nothing to show."""

    def step_done(self, images: int) -> None:
        """Stops the trial where the worker should stop."""
        self.check()

    def epoch_done(self, result: EpochResult) -> None:
        """Nothing to show."""

    def trial_done(self, number: int, state: str, record: TrialRecord | None, reason: str) -> None:
        """Nothing to show."""
