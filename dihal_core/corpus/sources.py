"""A source of documents: what the sampling plan draws from."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from dihal_core.corpus.documents import Document


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where text came from, to be found again: a distribution, an interpreter, a set of shards."""

    name: str
    version: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 by path or URL."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents of one kind with their share of the mixture."""

    name: str
    origin: str
    """Where the text comes from, for the mix table."""
    licence: str
    share: float
    """Relative share of the training windows; 0 for a source that is only evaluated on."""
    documents: Sequence[Document]
    rejects: Counter[str] = dataclasses.field(default_factory=Counter)
    """What its reader turned away, by reason."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """All sources of a study. `missing` says in sentences what was asked for and could not be had."""

    train: tuple[Source, ...]
    """Split into train and held-out by document group."""
    evaluation: Source | None
    """Wiki-like pages, disjoint from `train`; None if there are none."""
    origins: tuple[Origin, ...]
    missing: tuple[str, ...] = ()
    facts: dict[str, object] = dataclasses.field(default_factory=dict)
    """Further counts for corpus.json, e.g. the shards that were read."""
    published_evaluation: bool = False
    """Whether `evaluation` is a published split, already the part that was asked for, of which all may be used."""
