"""Peak memory of a study: of the flow's process and of the workers it started."""

import resource
from pathlib import Path

import psutil


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of another process (Linux), 0 where it is gone or unknown."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0


class PeakMemory:
    """Sums peaks over this process and those it started since; a bound, as peaks need not coincide.

    Processes that were there before (a Prefect server, say) do not count, nor do workers of a cluster
    with an address.
    """

    def __init__(self) -> None:
        self.before = {child.pid for child in psutil.Process().children(recursive=True)}

    def bytes(self) -> int:
        """Return the sum in bytes."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        children = {child.pid for child in psutil.Process().children(recursive=True)} - self.before
        return own + sum(_peak_bytes(pid) for pid in children)
