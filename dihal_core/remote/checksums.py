"""Does an object hold the bytes of a local file? Answered from its ETag where that is a checksum."""

import hashlib
from pathlib import Path

PART_BYTES = 50 * 2**20
"""Bytes of one part of a multipart upload."""
MAX_PARTS = 9_000
"""Object stores allow 10,000 parts."""
SINGLE_PARTS = 2
"""Below this many parts an object goes up in one piece (the rule of s3fs)."""


def part_bytes(size: int) -> int:
    """Return the part size for an object of `size` bytes: 50 MiB, more where that makes too many parts."""
    return max(PART_BYTES, -(-size // MAX_PARTS))


def expected_etag(path: Path) -> str:
    """Return the ETag S3 gives a file: its MD5, or the MD5 of its parts' MD5s and their number."""
    size = path.stat().st_size
    part = part_bytes(size)
    if size < min(5 * 2**30, SINGLE_PARTS * part):
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    parts = []
    with open(path, "rb") as handle:
        while block := handle.read(part):
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
