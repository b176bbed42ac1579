"""Which shards of Dolma v1.7 a study reads, and how much it keeps of each. Needs no network."""

import dataclasses
import math
from pathlib import Path

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import seeded_rank
from dihal_core.corpus.shards import FOLDERS, folder_quotas
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


def plan_shards(corpus: CorpusSettings, seed: int, root: str) -> tuple[list[Shard], list[str]]:
    """Return the shards to read, without any network access, and what a local mirror lacks.

    A local folder may hold some of the shards only: the plan chooses among those, and says so.
    """
    train, heldout = folder_quotas(corpus.num_sequences), folder_quotas(corpus.num_heldout)
    local = local_folder(root)
    shards, missing = [], []
    for name, folder in FOLDERS.items():
        known = folder.shards()
        present = known if local is None else [found for shard in known if (found := _local_name(local, shard))]
        if not present:
            missing.append(f"source {name} is left out: {root_label(root)} has none of its {len(known)} shards")
            continue
        if len(present) < len(known):
            missing.append(f"source {name}: {root_label(root)} has {len(present)} of its {len(known)} shards")
        ranked = sorted(present, key=lambda path: seeded_rank(seed, "shard", path.removesuffix(".gz")))
        chosen = ranked[: corpus.shards_per_source]
        evaluation = corpus.num_eval_wiki if name == EVALUATION_FOLDER else 0
        budget = tuple(_budget(quota, len(chosen)) for quota in (train[name], heldout[name], evaluation))
        if any(budget):
            shards.extend(Shard(name, path, budget) for path in chosen)  # type: ignore[arg-type]
    if not shards:
        raise ConfigError(
            f"corpus.base_url={corpus.base_url!r} holds none of Dolma v1.7's shards; "
            "expected files such as <base_url>/wiki/wiki-0000.json.gz"
        )
    return shards, missing


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
