"""Which shards of Dolma v1.7 a study reads, and how much it keeps of each. Needs no network."""

from pathlib import Path

from dihal_core.config import CorpusSettings
from dihal_core.corpus.opening import is_local, local_path
from dihal_core.corpus.plans import Plan, choose, root_label
from dihal_core.corpus.quotas import largest_remainder
from dihal_core.corpus.shards import BASE_URL, FOLDERS, LICENCE, folder_quotas, folder_shares
from dihal_core.errors import ConfigError

EVALUATION_FOLDER = "wiki"


def make_plan(corpus: CorpusSettings, seed: int) -> Plan:
    """Choose the shards, without any network access.

    A local folder may hold some of the shards only: the plan chooses among those, shares the mixture out
    among the folders it finds, and says so. An address is taken to hold all of them.

    Raises
    ------
    ConfigError
        If `corpus.base_url` is a folder that is not there or holds no shard.
    """
    root = corpus.base_url or BASE_URL
    local = _local_folder(root) if is_local(root) else None
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
            f"corpus.base_url={corpus.base_url!r} holds none of Dolma v1.7's shards; expected files such as "
            "<base_url>/wiki/wiki-0000.json.gz (set corpus.kind=folder for shards of other names)"
        )
    quotas = _quotas(corpus.num_sequences, tuple(present))
    pages = EVALUATION_FOLDER if corpus.evaluation == "wiki_pages" and corpus.num_eval_wiki else None
    return choose(f"Dolma v1.7, {root_label(root)}", LICENCE, present, quotas, corpus, seed, missing, pages)


def _quotas(total: int, present: tuple[str, ...]) -> dict[str, int]:
    if len(present) == len(FOLDERS):
        return folder_quotas(total)
    shares = folder_shares()
    return largest_remainder(total, {name: shares[name] for name in present})


def _local_folder(root: str) -> Path:
    folder = local_path(root)
    if not folder.is_dir():
        raise ConfigError(f"corpus.base_url={root!r} is no folder; give a folder of shards or an https URL")
    return folder


def _local_name(folder: Path, shard: str) -> str | None:
    """Return the name under which a mirror holds a shard: as published, unpacked, or packed again with zstd."""
    plain = shard.removesuffix(".gz")
    return next((name for name in (shard, plain, f"{plain}.zst") if (folder / name).is_file()), None)
