"""From the stored bytes of a shard to its text: gzip, Zstandard or plain, judged by content and not by name.

Files may be concatenated from several gzip members or Zstandard frames. Behind a damaged one the reader
looks for the beginning of the next, so one bad block does not cost the rest of a file. Nothing here
raises because of the data, and no step gives more than a few megabytes, however far its input inflates.
"""

import sys
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Literal

from dihal_core.corpus.reports import ReadReport

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_INFLATED_BYTES = 8 << 20
"""Most bytes one step of decompression gives: a small file that inflates a millionfold fills no memory."""
SALVAGE_BYTES = 256
ZSTD_INPUT_BYTES = 64 << 10
ZSTD_STEP_BYTES = 4 << 10
"""A decoder gives up the step in which it meets damage, so steps are small."""
MAX_RESTARTS = 16
"""Damaged members after which the rest of a file is given up: noise is full of false beginnings."""

Flow = Literal["more", "break", "end"]
Block = tuple[bytes, Flow]
"""`more`: text follows; `break`: text was lost here; `end`: the file truly ends."""


class _Damaged(Exception):
    """A member cannot be read further; `rest` is what may hold the next one."""

    def __init__(self, rest: bytes):
        super().__init__()
        self.rest = rest


class _GzipMember:
    magic, name = b"\x1f\x8b\x08", "gzip"

    def __init__(self):
        self._inflate = zlib.decompressobj(31)

    @property
    def ended(self) -> bool:
        return self._inflate.eof

    @property
    def rest(self) -> bytes:
        return self._inflate.unused_data

    def feed(self, block: bytes) -> Iterator[bytes]:
        while block and not self._inflate.eof:
            before = self._inflate.copy()
            try:
                plain = self._inflate.decompress(block, MAX_INFLATED_BYTES)
            except zlib.error:
                readable, start = self._salvage(before, block)
                yield readable
                raise _Damaged(block[max(start, 1) :]) from None
            block = self._inflate.unconsumed_tail
            yield plain

    @staticmethod
    def _salvage(inflate: Any, block: bytes) -> tuple[bytes, int]:
        """Return what decompresses before the damage: zlib discards the whole step in which it meets an error."""
        found = bytearray()
        for start in range(0, len(block), SALVAGE_BYTES):
            try:
                found += inflate.decompress(block[start : start + SALVAGE_BYTES])
            except zlib.error:
                return bytes(found), start
        return bytes(found), len(block)


class _ZstdFrame:
    magic, name = b"\x28\xb5\x2f\xfd", "zstd"

    def __init__(self):
        self._decoder = zstd.ZstdDecompressor()
        self.rest = b""

    @property
    def ended(self) -> bool:
        return self._decoder.eof

    def feed(self, block: bytes) -> Iterator[bytes]:
        for start in range(0, len(block), ZSTD_INPUT_BYTES):
            piece, found, size = block[start : start + ZSTD_INPUT_BYTES], [], 0
            while True:
                try:
                    plain = self._decoder.decompress(piece, ZSTD_STEP_BYTES)
                except zstd.ZstdError:
                    yield b"".join(found)
                    raise _Damaged(block[max(start, 1) :]) from None
                piece = b""
                found.append(plain)
                size += len(plain)
                if self._decoder.eof or self._decoder.needs_input:
                    break
                if size >= MAX_INFLATED_BYTES:
                    yield b"".join(found)
                    found, size = [], 0
            yield b"".join(found)
            if self._decoder.eof:
                self.rest = self._decoder.unused_data + block[start + ZSTD_INPUT_BYTES :]
                return


MEMBERS = {member.name: member for member in (_GzipMember, _ZstdFrame)}


def kind_of(head: bytes) -> str:
    """Return `gzip`, `zstd` or `plain`, or what is wrong with a file that begins with `head`."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty_file"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(_ZstdFrame.magic) or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html_instead_of_a_shard"
    if start.startswith(b"version https://git-lfs"):
        return "git_lfs_pointer"
    return "plain"


def unpack(kind: str, blocks: Iterable[bytes], report: ReadReport) -> Iterator[Block]:
    """Yield the text of stored `blocks`.

    Parameters
    ----------
    kind
        What `kind_of` said of the first block.
    blocks
        Stored bytes in order.
    report
        Gets `bytes_plain`, and `file_damage` with its offset. Where `report.cut` says that the blocks stop before
        the file does, ending in the middle of a member is no damage.
    """
    if kind == "plain":
        complete = True
        for block in blocks:
            report.bytes_plain += len(block)
            yield block, "more"
    elif kind in MEMBERS:
        complete = yield from _members(kind, blocks, report)
    else:
        report.damage(kind)
        return
    if report.cut:
        return
    if complete:
        yield b"", "end"
    else:
        report.damage(f"truncated_{kind}")


def _members(kind: str, blocks: Iterable[bytes], report: ReadReport) -> Generator[Block, None, bool]:
    """Yield the content of all members or frames; return whether the last one ended."""
    codec = MEMBERS[kind]
    member, restarts, looking, tail = None, 0, False, b""
    for block in blocks:
        while block:
            if looking:
                block = tail + block
                start = block.find(codec.magic)
                if start < 0:
                    tail = block[1 - len(codec.magic) :]
                    break
                block, looking, tail = block[start:], False, b""
            if member is None:
                block = block.lstrip(b"\0")  # zero padding between or behind members is allowed
                if not block:
                    break
                member = codec()
            try:
                for plain in member.feed(block):
                    report.bytes_plain += len(plain)
                    yield plain, "more"
                block = member.rest if member.ended else b""
                member = None if member.ended else member
            except _Damaged as damaged:
                report.damage(f"corrupt_{kind}")
                restarts += 1
                yield b"", "break"
                if restarts > MAX_RESTARTS:
                    return False
                member, block, looking = None, damaged.rest, True
    return member is None and not looking
