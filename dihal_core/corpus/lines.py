"""Reader of Dolma-format lines that keeps what is readable and counts what is not.

One JSON object per line (`id`, `text`, `source` strings; anything else optional), gzip or plain, judged
by content and not by name. Only `\\n` ends a line. Nothing here raises because of the data.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import IO, Any

from dihal_core.corpus.documents import Document

BLOCK_BYTES = 1 << 20
MAX_INFLATED_BYTES = 8 << 20
"""Most bytes one step of decompression gives: a small file that inflates a millionfold fills no memory."""
SALVAGE_BYTES = 256
MAX_LINE_BYTES = 64 << 20
"""A longer line is skipped to its end and counted; no text of that size is one document."""

NOT_DAMAGE = frozenset({"blank_line", "empty_text"})
"""Counted, but no sign of a damaged file: genuine Dolma shards have up to 12 % of empty texts."""


@dataclasses.dataclass
class ReadReport:
    """What happened to one file."""

    name: str
    lines: int = 0
    accepted: int = 0
    bytes_read: int = 0
    """Stored (compressed) bytes."""
    rejects: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, int] = dataclasses.field(default_factory=dict)
    """Offset, in decompressed bytes, of the first line of every reason."""
    file_damage: str | None = None
    """What is wrong with the file as a whole; its readable part was kept."""
    sha256: str = ""
    """Of the bytes that were read."""

    @property
    def damaged(self) -> int:
        """Return the lines that a healthy file would not have, plus one for a damaged file."""
        return sum(n for reason, n in self.rejects.items() if reason not in NOT_DAMAGE) + (self.file_damage is not None)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {**dataclasses.asdict(self), "rejects": dict(self.rejects)}


def read_documents(handle: IO[bytes], report: ReadReport, limit_bytes: int | None = None) -> Iterator[Document]:
    """Yield the readable documents of one file.

    Parameters
    ----------
    handle
        The stored bytes.
    report
        Filled while reading; complete when the iterator is exhausted.
    limit_bytes
        Stop after so many stored bytes; the line that this cuts is dropped without being counted.
    """
    for offset, line in _lines(_plain_blocks(handle, report, limit_bytes), report):
        report.lines += 1
        found = parse_line(line)
        if isinstance(found, Document):
            report.accepted += 1
            yield found
        else:
            report.rejects[found] += 1
            report.examples.setdefault(found, offset)


def parse_line(line: bytes) -> Document | str:
    """Return the document of one line, or the reason why there is none."""
    if not line.strip():
        return "blank_line"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "bad_utf8"
    try:
        value = json.loads(text)
    except RecursionError:
        return "nested_too_deep"
    except ValueError:
        return "bad_json"
    if not isinstance(value, dict):
        return "not_an_object"
    for field in ("id", "text", "source"):
        if field not in value:
            return f"missing_{field}"
        if not isinstance(value[field], str):
            return f"{field}_not_a_string"
    if not value["text"].strip():
        return "empty_text"
    try:
        "".join((value["id"], value["text"], value["source"])).encode("utf-8")
    except UnicodeEncodeError:
        return "lone_surrogate"
    optional = {name: value[name] for name in ("added", "created") if isinstance(value.get(name), str)}
    return Document(value["id"], value["text"], value["source"], **optional)


def _stored_blocks(handle: IO[bytes], report: ReadReport, limit_bytes: int | None) -> Iterator[bytes]:
    digest = hashlib.sha256()
    while limit_bytes is None or report.bytes_read < limit_bytes:
        wanted = BLOCK_BYTES if limit_bytes is None else min(BLOCK_BYTES, limit_bytes - report.bytes_read)
        block = handle.read(wanted)
        if not block:
            break
        digest.update(block)
        report.bytes_read += len(block)
        report.sha256 = digest.hexdigest()
        yield block


def _plain_blocks(handle: IO[bytes], report: ReadReport, limit_bytes: int | None) -> Iterator[tuple[bytes, bool]]:
    """Yield (decompressed block, False); at a true end of the file also (b"", True)."""
    blocks = _stored_blocks(handle, report, limit_bytes)
    first = next(blocks, b"")
    kind = _kind(first)
    if kind not in ("gzip", "plain"):
        report.file_damage = kind
        return
    blocks = itertools.chain([first], blocks)
    complete = True
    if kind == "plain":
        for block in blocks:
            yield block, False
    else:
        complete = yield from _inflate(blocks, report)
    cut = limit_bytes is not None and report.bytes_read >= limit_bytes
    if complete:
        yield b"", not cut
    elif not cut and report.file_damage is None:
        report.file_damage = "truncated_gzip"


def _inflate(blocks: Iterable[bytes], report: ReadReport) -> Generator[tuple[bytes, bool], None, bool]:
    """Yield the content of all concatenated gzip members; return whether the last one ended."""
    inflate, inside = zlib.decompressobj(31), False
    for block in blocks:
        while block:
            inside, before = True, inflate.copy()
            try:
                plain = inflate.decompress(block, MAX_INFLATED_BYTES)
            except zlib.error:
                report.file_damage = "corrupt_gzip"
                yield _salvage(before, block), False
                return False
            yield plain, False
            block = inflate.unconsumed_tail
            if inflate.eof:
                block = inflate.unused_data.lstrip(b"\0")  # zero padding between or behind members is allowed
                inflate, inside = zlib.decompressobj(31), False
    return not inside


def _salvage(inflate: Any, block: bytes) -> bytes:
    """Return what decompresses before the damage: zlib discards the whole step in which it meets an error."""
    found = bytearray()
    with contextlib.suppress(zlib.error):
        for start in range(0, len(block), SALVAGE_BYTES):
            found += inflate.decompress(block[start : start + SALVAGE_BYTES])
    return bytes(found)


def _kind(head: bytes) -> str:
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty_file"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstandard_is_not_read"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html_instead_of_a_shard"
    if start.startswith(b"version https://git-lfs"):
        return "git_lfs_pointer"
    return "plain"


def _lines(blocks: Iterator[tuple[bytes, bool]], report: ReadReport) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line without its end). The last line counts only where the file truly ends."""
    pending, offset, skipping, first = bytearray(), 0, False, True
    for block, at_end in blocks:
        if first and block:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        pending += block
        start = 0
        while (stop := pending.find(b"\n", start)) >= 0:
            if skipping:
                skipping = False
            else:
                yield offset + start, bytes(pending[start:stop]).removesuffix(b"\r")
            start = stop + 1
        del pending[:start]
        offset += start
        if len(pending) > MAX_LINE_BYTES:
            if not skipping:
                report.lines += 1
                report.rejects["line_too_long"] += 1
                report.examples.setdefault("line_too_long", offset)
            skipping = True
            offset += len(pending)
            pending.clear()
        if at_end and pending and not skipping:
            yield offset, bytes(pending)
