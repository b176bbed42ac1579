"""What became of one file that was read: counts, rejects by reason with their offsets, damage."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

NOT_DAMAGE = frozenset({"blank_line", "empty_text"})
"""Counted, but no sign of damage: genuine Dolma shards have up to 12 % of empty texts."""
OFFSETS_KEPT = 20
"""Rejected lines of one reason whose place is kept (their number is exact)."""


@dataclasses.dataclass
class ReadReport:
    """What happened to one file. Offsets are bytes of the decompressed text, or what `place` says."""

    name: str
    lines: int = 0
    accepted: int = 0
    bytes_read: int = 0
    """Stored (compressed) bytes."""
    bytes_plain: int = 0
    """Bytes of text they gave."""
    rejects: Counter[str] = dataclasses.field(default_factory=Counter)
    offsets: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """Where the first rejected lines of every reason begin."""
    file_damage: str | None = None
    """What is wrong with the file as a whole; its readable part was kept."""
    damage_offset: int | None = None
    """How far the file could be read before the damage."""
    sha256: str = ""
    """Of the bytes that were read."""
    place: str = "byte"
    """What offsets count: `byte`, or `row` of a data set."""
    url: str | None = None
    """Where it was fetched from; None for local files, whose place is nobody's business."""
    cut: bool = False
    """Whether reading stopped at a limit before the file ended: the rest was not looked at."""

    @property
    def damaged(self) -> int:
        """Return the lines that a healthy file would not have (parse, encoding, schema)."""
        return sum(n for reason, n in self.rejects.items() if reason not in NOT_DAMAGE)

    def reject(self, reason: str, offset: int, keep: int = OFFSETS_KEPT) -> None:
        """Count one line that gives no document."""
        self.rejects[reason] += 1
        places = self.offsets.setdefault(reason, [])
        if len(places) < keep:
            places.append(offset)

    def damage(self, what: str) -> None:
        """Note the first damage of the file as a whole."""
        if self.file_damage is None:
            self.file_damage, self.damage_offset = what, self.bytes_plain

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {**dataclasses.asdict(self), "rejects": dict(self.rejects)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ReadReport":
        """Inverse of `to_json`."""
        return cls(**{**data, "rejects": Counter(data["rejects"])})


def share_damaged(reports: Iterable[ReadReport]) -> tuple[int, int, float]:
    """Return (damaged lines, all lines, their ratio): what `corpus.max_damaged_fraction` bounds."""
    reports = list(reports)
    damaged, lines = sum(report.damaged for report in reports), sum(report.lines for report in reports)
    return damaged, lines, damaged / lines if lines else 0.0


def worst_first(reports: Iterable[ReadReport]) -> list[ReadReport]:
    """Return the reports with something to say, the most damaged first."""
    found = [report for report in reports if report.damaged or report.file_damage]
    return sorted(found, key=lambda report: (-(report.damaged + (report.file_damage is not None)), report.name))


def spelled(report: ReadReport) -> str:
    """Return the rejects of one file in words, each reason with its first place."""
    parts = [
        f"{reason} {count} (first at {report.place} {report.offsets[reason][0]})"
        for reason, count in report.rejects.items()
    ]
    if report.file_damage:
        parts.insert(0, f"{report.file_damage} at byte {report.damage_offset}")
    return ", ".join(parts) or "nothing rejected"
