"""What is in a file or folder of shards, read as the corpus stage reads it, without a model or a tokenizer."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

from dihal_core.corpus.lines import read_documents
from dihal_core.corpus.opening import (
    Listing,
    file_problem,
    find_shards,
    is_local,
    join,
    local_path,
    open_stream,
    reason_of,
    redacted,
)
from dihal_core.corpus.reports import ReadReport, share_damaged
from dihal_core.errors import ConfigError
from dihal_core.units import human_bytes

OFFSETS_SHOWN = 1000
"""Rejected lines of one reason and file whose place is listed (their number is exact)."""
IDS_COMPARED = 5_000_000
"""Documents of which repeated ids are counted; more would not fit in memory."""


@dataclasses.dataclass
class Inspection:
    """What was found under a path."""

    path: str
    max_damaged_fraction: float
    shards: list[ReadReport] = dataclasses.field(default_factory=list)
    ignored: tuple[str, ...] = ()
    """Files that neither look like shards nor call themselves so: not read."""
    ids: list[str] | None = None
    duplicate_ids: int = 0
    """Documents whose (source, id) came before. Kept: ids are not unique in Dolma v1.7 either."""
    sources: Counter[str] = dataclasses.field(default_factory=Counter)
    """Documents by their own `source` field."""

    @property
    def documents(self) -> int:
        """Return how many documents were accepted."""
        return sum(report.accepted for report in self.shards)

    @property
    def rejects(self) -> Counter[str]:
        """Return rejected lines by reason, over all files."""
        return sum((report.rejects for report in self.shards), Counter())

    @property
    def problem(self) -> str | None:
        """Return why the corpus stage would refuse these shards, or None."""
        damaged, lines, share = share_damaged(self.shards)
        if not self.documents:
            return "no document could be read"
        if damaged and share > self.max_damaged_fraction:
            return (
                f"{damaged} of {lines} lines are damaged ({share:.1%}, at most {self.max_damaged_fraction:.1%} allowed)"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; offsets are bytes of the decompressed text."""
        damaged, lines, share = share_damaged(self.shards)
        rejected = [
            {"path": report.name, "reason": reason, "count": count, "offsets": report.offsets[reason]}
            for report in self.shards
            for reason, count in sorted(report.rejects.items())
        ]
        damaged_shards = [
            {"path": r.name, "damage": r.file_damage, "offset": r.damage_offset, "documents": r.accepted}
            for r in self.shards
            if r.file_damage
        ]
        return {
            "path": self.path,
            "healthy": self.problem is None,
            "problem": self.problem,
            "files": len(self.shards),
            "documents": self.documents,
            "lines": lines,
            "damaged_lines": damaged,
            "damaged_fraction": share,
            "max_damaged_fraction": self.max_damaged_fraction,
            "bytes_read": sum(report.bytes_read for report in self.shards),
            "bytes_text": sum(report.bytes_plain for report in self.shards),
            "sources": dict(sorted(self.sources.items())),
            "duplicate_ids": self.duplicate_ids,
            "rejects": dict(sorted(self.rejects.items())),
            "rejected": rejected,
            "damaged_shards": damaged_shards,
            "ignored": list(self.ignored),
            "shards": [report.to_json() for report in self.shards],
            **({} if self.ids is None else {"ids": self.ids}),
        }


def inspect_path(
    path: str,
    with_ids: bool = False,
    max_damaged_fraction: float = 0.01,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Read every shard under `path` whole and say what is in it.

    Parameters
    ----------
    path
        File, folder or fsspec URL.
    with_ids
        Whether to collect the ids of accepted documents, in order of file and line.
    max_damaged_fraction
        As `corpus.max_damaged_fraction`.
    progress
        Called with (files read, files).

    Raises
    ------
    ConfigError
        If there is nothing at `path`.
    AssetError, NetworkError
        If an address cannot be read.
    """
    if not path.strip():
        raise ConfigError("an empty path was given; give a file, a folder of shards, or an fsspec URL")
    root, listing = _listing(path)
    found = Inspection(redacted(path), max_damaged_fraction, ignored=listing.ignored, ids=[] if with_ids else None)
    seen: set[int] = set()
    unreadable = dict(listing.unreadable)
    names = sorted([*(name for name, _ in listing.shards), *unreadable])
    for number, name in enumerate(names):
        progress(number, len(names))
        report = ReadReport(name)
        found.shards.append(report)
        if name in unreadable:
            report.damage(unreadable[name])
        else:
            _read(root, name, report, found, seen)
    progress(len(names), len(names))
    return found


def _listing(path: str) -> tuple[str, Listing]:
    """Return (root, what lies there); a single file is a root with one shard."""
    if is_local(path):
        place = local_path(path)
        if place.is_dir():
            return path, find_shards(path)
        problem = file_problem(place)
        if problem == "missing_file":
            raise ConfigError(f"{path!r} does not exist; give a file, a folder of shards, or an fsspec URL")
        root = str(place.parent)
        return root, Listing((), (), ((place.name, problem),)) if problem else Listing(((place.name, 0),))
    root, _, name = path.rstrip("/").rpartition("/")
    if "." in name and "://" in root and not path.endswith("/"):
        return root, Listing(((name, 0),))
    return path, find_shards(path)


def _read(root: str, name: str, report: ReadReport, found: Inspection, seen: set[int]) -> None:
    try:
        with open_stream(join(root, name)) as handle:
            for document in read_documents(handle, report, offsets_kept=OFFSETS_SHOWN):
                found.sources[document.source] += 1
                key = hash((document.source, document.id))
                if key in seen:
                    found.duplicate_ids += 1
                elif len(seen) < IDS_COMPARED:
                    seen.add(key)
                if found.ids is not None:
                    found.ids.append(document.id)
    except OSError as error:
        if not is_local(root):
            raise
        report.damage(reason_of(error))


def _verdict(found: Inspection, damaged: int) -> str:
    if found.problem:
        return f"refused: {found.problem}"
    if damaged:
        return (
            f"accepted: the corpus stage would take what is readable, but {damaged} of {len(found.shards)} files are "
            "damaged: fetch them again"
        )
    return "healthy: the corpus stage would take these shards"


def format_inspection(found: Inspection, shown: int = 5) -> str:
    """Return the inspection as text: one line per fact, the first `shown` offsets of every reason."""
    facts = found.to_json()
    lines = [
        f"{found.path}: {facts['documents']} documents in {facts['lines']} lines of {facts['files']} files "
        f"({human_bytes(facts['bytes_read'])} stored, {human_bytes(facts['bytes_text'])} of text)"
    ]
    if found.sources:
        lines.append("sources: " + ", ".join(f"{name} {count}" for name, count in found.sources.most_common(20)))
    if found.duplicate_ids:
        lines.append(f"documents whose source and id came before: {found.duplicate_ids} (kept: ids are no keys here)")
    for row in facts["rejected"]:
        places = ", ".join(str(offset) for offset in row["offsets"][:shown])
        more = ", ..." if row["count"] > shown else ""
        lines.append(f"rejected: {row['reason']} {row['count']} in {row['path']} at byte {places}{more}")
    for row in facts["damaged_shards"]:
        lines.append(
            f"damaged: {row['path']}: {row['damage']} at byte {row['offset']}; {row['documents']} documents of it were read"
        )
    for name in found.ignored:
        lines.append(f"not read: {name} does not look like a shard")
    lines.append(_verdict(found, len(facts["damaged_shards"])))
    if found.ids is not None:
        lines.append("ids:")
        lines.extend(name if name.isprintable() else ascii(name) for name in found.ids)
    return "\n".join(lines)
