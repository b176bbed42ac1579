"""Documents in Dolma's shape, and the hashes that split and order them.

Every decision about a document (split, selection, order) is a hash of the document and the seed, so
it depends on no file order, shard order or number of workers. `id` alone is never a key: in Dolma
v1.7 ids repeat even inside a source.
"""

import dataclasses
import hashlib
import re
from typing import Any

GROUPS_PER_MILLE = 1000
_SPACE = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text. `metadata["group"]` names what must not be torn apart by the split (play, debate, file)."""

    id: str
    text: str
    source: str
    added: str = ""
    created: str = ""
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def group(self) -> str:
        """Return the unit of splitting; a document without one is its own group."""
        return str(self.metadata.get("group") or self.id)

    @property
    def title(self) -> str | None:
        """Return the title, if the source has one."""
        return self.metadata.get("title")

    @property
    def identity(self) -> str:
        """Return the SHA-256 over (source, id, text): what documents.jsonl shows instead of the text."""
        return digest_of(self.source, self.id, self.text)


def digest_of(*parts: str | int) -> str:
    """Return the SHA-256 of `parts` as hex; parts cannot run into each other."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).hexdigest()


def seeded_rank(seed: int, *parts: str | int) -> int:
    """Return 64 bits that order things under `seed`, whatever order they were met in."""
    return int(digest_of(seed, *parts)[:16], 16)


def group_permille(source: str, group: str) -> int:
    """Return 0..999: groups below `corpus.heldout_permille` are held out. Independent of the seed.

    Ours: the paper does not say how it splits. Splitting windows or single scenes would leak names and
    style of one work into both sides.
    """
    return int(hashlib.sha256(f"{source}|{group}".encode("utf-8", "surrogatepass")).hexdigest(), 16) % GROUPS_PER_MILLE


def normalised(text: str) -> str:
    """Return `text` case-folded with white space collapsed: what exact duplicates are compared by."""
    return _SPACE.sub(" ", text).strip().casefold()
