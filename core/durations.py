"""Times and durations as people say them."""

import time

_DAY = 86400  # seconds
_YEAR = 365.25 * _DAY


def in_words(seconds: float) -> str:
    """Rounds to what matters: ``8 s``, ``12 min``, ``3.5 h``, ``2.1 days``, ``4.0 years``, ``more than 100 years``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 1.5 * _DAY:
        return f"{seconds / 3600:.1f} h"
    if seconds < 100 * _DAY:
        return f"{seconds / _DAY:.1f} days"
    if seconds < 2 * _YEAR:
        return f"{12 * seconds / _YEAR:.0f} months"
    return f"{seconds / _YEAR:.1f} years" if seconds <= 100 * _YEAR else "more than 100 years"


def utc() -> str:
    """The time, to be written down for people: ``2026-11-26T09:30:00Z``. Nothing is decided by it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
