"""How core code tells the world how far it is, without knowing who listens.

A stage calls `progress(done, total, unit)`. The default prints through `logging`; a task installs
one that also feeds the run's progress artifact.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

Progress = Callable[[float, float, str], None]


class StopRequested(BaseException):
    """Raised by a listener to end the work at this report: what is finished is saved, then it goes on upwards.

    Not an `Exception`, so that nobody takes it for a failure of the work.
    """


def silent(done: float, total: float, unit: str) -> None:
    """Listen to nothing: for callers that show no progress."""


class LoggedProgress:
    """Log `label: done/total unit, rate, ETA`, at most once every `every_s` seconds and at the end.

    The rate is taken over this process's own work, so a resumed stage does not show a false one.
    """

    def __init__(self, label: str, every_s: float = 5.0, also: Callable[[float, str], None] | None = None):
        self.label, self.every_s, self.also = label, every_s, also
        self.started = time.monotonic()
        self.first_done: float | None = None
        self.last_shown = 0.0

    def __call__(self, done: float, total: float, unit: str) -> None:
        """Record that `done` of `total` units are finished."""
        now = time.monotonic()
        if self.first_done is None:
            self.first_done = done
        finished = done >= total
        if not finished and now - self.last_shown < self.every_s:
            return
        self.last_shown = now
        elapsed = max(now - self.started, 1e-9)
        rate = (done - self.first_done) / elapsed
        eta = f", ETA {(total - done) / rate:.0f} s" if rate > 0 and not finished else ""
        text = f"{self.label}: {done:g}/{total:g} {unit}{f', {rate:.3g} {unit}/s' if rate > 0 else ''}{eta}"
        log.info(text)
        if self.also is not None:
            self.also(100.0 * done / max(total, 1e-9), text)
