"""Which shards of Dolma v1.7 a study reads, and how much it keeps of each. Needs no network."""

import dataclasses
import math
from pathlib import Path

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import seeded_rank
from dihal_core.corpus.quotas import largest_remainder
from dihal_core.corpus.shards import BASE_URL, FOLDERS, folder_quotas, folder_shares
from dihal_core.errors import ConfigError

EVALUATION_FOLDER = "wiki"
MARGIN = 2.0
"""Candidate windows kept per window of the quota."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to read a prefix of, and how many candidate windows to keep for train, heldout, evaluation."""

    folder: str
    path: str
    budget: tuple[int, int, int]

    @property
    def unit(self) -> str:
        """Return the name of its committed unit and spool file."""
        return "shard-" + self.path.replace("/", "-").removesuffix(".gz").removesuffix(".json")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is read, in which mixture, and what a mirror lacks."""

    shards: tuple[Shard, ...]
    shares: dict[str, float]
    """Share of the training windows, by folder."""
    missing: tuple[str, ...]


def make_plan(corpus: CorpusSettings, seed: int) -> Plan:
    """Choose the shards, without any network access.

    A local folder may hold some of the shards only: the plan chooses among those, shares the mixture out
    among the folders it finds, and says so.

    Raises
    ------
    ConfigError
        If `corpus.base_url` is a folder that is not there or holds no shard.
    """
    root = corpus.base_url or BASE_URL
    local = local_folder(root)
    present, missing = {}, []
    for name, folder in FOLDERS.items():
        known = folder.shards()
        found = known if local is None else tuple(path for shard in known if (path := _local_name(local, shard)))
        if found:
            present[name] = found
        if not found:
            missing.append(f"source {name} is left out: {root_label(root)} has none of its {len(known)} shards")
        elif len(found) < len(known):
            missing.append(f"source {name}: {root_label(root)} has {len(found)} of its {len(known)} shards")
    if not present:
        raise ConfigError(
            f"corpus.base_url={corpus.base_url!r} holds none of Dolma v1.7's shards; "
            "expected files such as <base_url>/wiki/wiki-0000.json.gz"
        )
    quotas = _quotas(corpus.num_sequences, tuple(present))
    shares = {name: quota / corpus.num_sequences for name, quota in quotas.items()}
    heldout = largest_remainder(corpus.num_heldout, shares)
    shards = []
    for name, paths in present.items():
        chosen = sorted(paths, key=lambda path: seeded_rank(seed, "shard", path.removesuffix(".gz")))
        chosen = chosen[: corpus.shards_per_source]
        pages = corpus.num_eval_wiki if name == EVALUATION_FOLDER else 0
        train, held, pages = (_budget(quota, len(chosen)) for quota in (quotas[name], heldout[name], pages))
        if train or held or pages:
            shards.extend(Shard(name, path, (train, held, pages)) for path in chosen)
    return Plan(tuple(shards), shares, tuple(missing))


def _quotas(total: int, present: tuple[str, ...]) -> dict[str, int]:
    if len(present) == len(FOLDERS):
        return folder_quotas(total)
    shares = folder_shares()
    return largest_remainder(total, {name: shares[name] for name in present})


def _budget(quota: int, shards: int) -> int:
    return math.ceil(MARGIN * quota / shards) + 8 if quota else 0


def local_folder(root: str) -> Path | None:
    """Return the folder that `root` names, or None for a URL.

    Raises
    ------
    ConfigError
        If it is no folder.
    """
    if "://" in root and not root.startswith("file://"):
        return None
    folder = Path(root.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"corpus.base_url={root!r} is no folder; give a folder of shards or an https URL")
    return folder


def root_label(root: str) -> str:
    """Name the root in results: a local path would make equal stores differ."""
    return root if "://" in root and not root.startswith("file://") else "the local mirror"


def _local_name(folder: Path, shard: str) -> str | None:
    return next((name for name in (shard, shard.removesuffix(".gz")) if (folder / name).is_file()), None)
