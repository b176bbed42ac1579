"""How many runs a worker for CPU runs starts at once; heavy imports stay out, a container's first step asks it too."""

import os
import re

from dihal_core.errors import ConfigError

RUNS_AT_ONCE = "DIHAL_RUNS_AT_ONCE"


def runs_at_once() -> int:
    """Return `$DIHAL_RUNS_AT_ONCE`, 1 unless given (ours): one study uses every core, so a second one waits for it.

    Raises
    ------
    ConfigError
        If it is no whole number from 1 to 9999.
    """
    given = os.environ.get(RUNS_AT_ONCE, "").strip() or "1"
    if not re.fullmatch(r"[1-9][0-9]{0,3}", given):
        raise ConfigError(
            f"{RUNS_AT_ONCE} {given!r} is not a whole number from 1 to 9999; it says how many runs the worker of queue `default` "
            "starts at once: give one, or leave it out for 1"
        )
    return int(given)
