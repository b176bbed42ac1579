"""Reader of Dolma-format lines that keeps what is readable and counts what is not.

One JSON object per line (`id`, `text`, `source` strings; anything else optional), gzip, Zstandard or
plain, judged by content and not by name. Only `\\n` ends a line. Nothing here raises because of the
data: lines that orjson turns away are given to the standard library, which says what is wrong with
them (or reads them: it accepts integers of any usual size and NaN).
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import IO, Any

import orjson

from dihal_core.corpus.documents import Document
from dihal_core.corpus.reports import OFFSETS_KEPT, ReadReport
from dihal_core.corpus.unpack import Block, kind_of, unpack

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""A longer line is skipped to its end and counted; no text of that size is one document."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_documents(
    handle: IO[bytes], report: ReadReport, limit_bytes: int | None = None, offsets_kept: int = OFFSETS_KEPT
) -> Iterator[Document]:
    """Yield the readable documents of one file.

    Parameters
    ----------
    handle
        The stored bytes.
    report
        Filled while reading; complete when the iterator is exhausted.
    limit_bytes
        Stop after so many stored bytes; the line that this cuts is dropped without being counted.
    offsets_kept
        Rejected lines of one reason whose place is kept.
    """
    stored = _stored_blocks(handle, report, limit_bytes)
    first = next(stored, b"")
    blocks = unpack(kind_of(first), itertools.chain([first], stored), report)
    for offset, line in _lines(blocks, report, offsets_kept):
        report.lines += 1
        found = parse_line(line)
        if isinstance(found, str):
            report.reject(found, offset, offsets_kept)
        else:
            report.accepted += 1
            yield found


def parse_line(line: bytes) -> Document | str:
    """Return the document of one line, or the reason why there is none."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_slowly(line.removeprefix(_BYTE_ORDER_MARK))
    return _document(value)


def _parse_slowly(line: bytes) -> Document | str:
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
    found = _document(value)
    if isinstance(found, Document):
        try:
            "".join((found.id, found.text, found.source, found.added, found.created)).encode("utf-8")
        except UnicodeEncodeError:
            return "lone_surrogate"
    return found


def _document(value: Any) -> Document | str:
    if not isinstance(value, dict):
        return "not_an_object"
    for field in ("id", "text", "source"):
        if field not in value:
            return f"missing_{field}"
        if not isinstance(value[field], str):
            return f"{field}_not_a_string"
    text = value["text"]
    if not text or text.isspace():
        return "empty_text"
    added, created = value.get("added"), value.get("created")
    return Document(
        value["id"],
        text,
        value["source"],
        added if isinstance(added, str) else "",
        created if isinstance(created, str) else "",
    )


def _stored_blocks(handle: IO[bytes], report: ReadReport, limit_bytes: int | None) -> Iterator[bytes]:
    digest = hashlib.sha256()
    while True:
        room = BLOCK_BYTES if limit_bytes is None else min(BLOCK_BYTES, limit_bytes - report.bytes_read)
        if room <= 0:
            report.cut = True
            return
        pieces, size = [], 0
        while size < room and (piece := handle.read(room - size)):  # network streams give less than asked for
            pieces.append(piece)
            size += len(piece)
        if not size:
            return
        block = b"".join(pieces)
        digest.update(block)
        report.bytes_read += size
        report.sha256 = digest.hexdigest()
        yield block


def _lines(blocks: Iterator[Block], report: ReadReport, offsets_kept: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line without its end). The last line counts only where the file truly ends."""
    held: list[bytes] = []
    size, offset, skipping = 0, 0, False
    for block, flow in blocks:
        *whole, rest = block.split(b"\n")
        for part in whole:
            size += len(part)
            if not skipping and size <= MAX_LINE_BYTES:
                yield offset, b"".join((*held, part)) if held else part
            elif not skipping:
                _too_long(report, offset, offsets_kept)
            offset += size + 1
            held, size, skipping = [], 0, False
        size += len(rest)
        if size > MAX_LINE_BYTES and not skipping:
            _too_long(report, offset, offsets_kept)
            held, skipping = [], True
        elif rest and not skipping:
            held.append(rest)
        if flow == "end" and size and not skipping:
            yield offset, b"".join(held)
        elif flow == "break":  # the line that the damage tore apart goes with it
            offset += size
            held, size, skipping = [], 0, False


def _too_long(report: ReadReport, offset: int, offsets_kept: int) -> None:
    report.lines += 1
    report.reject("line_too_long", offset, offsets_kept)
