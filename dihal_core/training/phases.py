"""One percentage for a stage that does several things in a row, so that rate and ETA mean something."""

from dihal_core.progress import Progress


class Phases:
    """Splits 100 % over named phases and hands each a progress listener of its own.

    Examples
    --------
    >>> seen = []
    >>> phases = Phases(lambda done, total, unit: seen.append(done), {"fit": 1, "train": 3})
    >>> phases.of("train")(1, 2, "steps")
    >>> seen
    [62.5]
    """

    def __init__(self, progress: Progress, shares: dict[str, float]):
        self.progress = progress
        self.shares = shares

    def of(self, name: str) -> Progress:
        """Return the listener of phase `name`; phases before it count as done."""
        names = list(self.shares)
        before = sum(self.shares[earlier] for earlier in names[: names.index(name)])
        total = sum(self.shares.values())

        def report(done: float, of: float, _unit: str) -> None:
            self.progress(round(100 * (before + self.shares[name] * done / max(of, 1e-9)) / total, 2), 100, "%")

        return report
