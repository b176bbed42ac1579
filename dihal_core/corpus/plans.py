"""What a sampling plan is: shards to read a prefix of, and how much to keep of each. Needs no network."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import digest_of, seeded_rank
from dihal_core.corpus.opening import is_local, redacted
from dihal_core.corpus.quotas import largest_remainder

_PACKING = re.compile(r"\.(gz|zst|zstd)$")
MARGIN = 2.0
"""Candidate windows kept per window of the quota."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to read a prefix of, and how many candidate windows to keep for train, heldout, evaluation."""

    folder: str
    """Name of the source it belongs to."""
    path: str
    budget: tuple[int, int, int]

    @property
    def unit(self) -> str:
        """Return the name of its committed unit and spool files."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path)[-60:]
        return f"shard-{readable}-{digest_of(self.path)[:10]}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is read, in which mixture, and what cannot be had."""

    label: str
    """What the shards are, for tables: `Dolma v1.7, https://...`."""
    licence: str
    shards: tuple[Shard, ...]
    shares: dict[str, float]
    """Share of the training windows, by source."""
    missing: tuple[str, ...]
    evaluation_folder: str | None = None
    """Source of which a band of groups is evaluated on; None where the evaluation set comes from elsewhere."""


def choose(
    label: str,
    licence: str,
    present: Mapping[str, Sequence[str]],
    quotas: Mapping[str, int],
    corpus: CorpusSettings,
    seed: int,
    missing: Sequence[str] = (),
    evaluation_folder: str | None = None,
) -> Plan:
    """Choose the shards of every source by seeded hash and share its quota out among them.

    Parameters
    ----------
    present
        Paths of the shards there are, by source.
    quotas
        Training windows wanted of each source.
    evaluation_folder
        Source that also gives `corpus.num_eval_wiki` windows of evaluation pages.
    """
    shares = {name: quota / corpus.num_sequences for name, quota in quotas.items()}
    heldout = largest_remainder(corpus.num_heldout, shares)
    shards = []
    for name, paths in present.items():
        chosen = sorted(paths, key=lambda path: seeded_rank(seed, "shard", _PACKING.sub("", path)))
        chosen = chosen[: corpus.shards_per_source]
        pages = corpus.num_eval_wiki if name == evaluation_folder else 0
        train, held, evaluated = (budget_of(wanted, len(chosen)) for wanted in (quotas[name], heldout[name], pages))
        budget = (train, held, evaluated)
        if any(budget):
            shards.extend(Shard(name, path, budget) for path in chosen)
    return Plan(label, licence, tuple(shards), shares, tuple(missing), evaluation_folder)


def budget_of(quota: int, shards: int) -> int:
    """Return how many candidate windows each of `shards` shards keeps for a quota."""
    return math.ceil(MARGIN * quota / shards) + 8 if quota else 0


def root_label(root: str) -> str:
    """Name the root in results: a local path would make equal stores differ, a password is nobody's business."""
    return "the local mirror" if is_local(root) else redacted(root)
