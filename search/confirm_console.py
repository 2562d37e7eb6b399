"""What confirming shows while it runs: bars over runs, epochs and images, and a line for each run."""

from core.cli import write
from core.durations import in_words
from core.trainer import EpochResult
from search.console import WithBars
from search.watching import Watching


class ConfirmConsole(WithBars, Watching):
    """Watches and shows the runs, and stops them where somebody asks for it.

    Args:
        runs: That are to be made.
    """

    def __init__(self, runs: int) -> None:
        WithBars.__init__(self)
        Watching.__init__(self, deadline=None)
        self._runs_bar = self._bars.add_task("runs", total=runs)
        self._epochs_bar = self._bars.add_task("epochs")
        self._images_bar = self._bars.add_task("images")
        self._name = ""

    def run_starts(self, name: str, *, epochs: int, epochs_done: int, images: int) -> None:
        """A run begins, or continues after some epochs."""
        self._name = name
        if epochs_done:
            write(f"{name}: continued after epoch {epochs_done}")
        self._bars.reset(self._epochs_bar, total=epochs, completed=epochs_done)
        self._bars.reset(self._images_bar, total=images)

    def step_done(self, images: int) -> None:
        """Moves the bar, and stops the run where somebody asked for it."""
        self._bars.advance(self._images_bar, images)
        super().step_done(images)

    def epoch_done(self, result: EpochResult) -> None:
        """Moves the bar."""
        self._bars.advance(self._epochs_bar)
        self._bars.reset(self._images_bar)

    def run_done(self, recall: float, *, images: int, elapsed_s: float) -> None:
        """Shows what the run made of the rows that it had not seen."""
        write(f"{self._name}: recall {recall:.3f} on {images:,} images held out, {in_words(elapsed_s)}")
        self._bars.advance(self._runs_bar)

    def skip(self, runs: int) -> None:
        """Counts runs that will not be made."""
        self._bars.advance(self._runs_bar, runs)
