"""A sampling plan over any folder or fsspec URL of shards in Dolma's format."""

from dihal_core.config import CorpusSettings
from dihal_core.corpus.opening import find_shards
from dihal_core.corpus.plans import Plan, choose, root_label
from dihal_core.corpus.quotas import largest_remainder
from dihal_core.errors import ConfigError

ROOT_SOURCE = "root"
"""Name of the source made of the shards that lie directly in the folder."""
LICENCE = "not stated by the shards"
NAMED = 5


def make_folder_plan(corpus: CorpusSettings, seed: int) -> Plan:
    """List the shards under `corpus.base_url` and choose among them. A local folder needs no network.

    Every sub-folder is a source (its path with dashes). Its quota is in proportion to its stored bytes,
    which stand for the text there is, or the same for all (`corpus.folder_mixture`): ours, as no mixture
    is published for shards of unknown origin.

    Raises
    ------
    ConfigError
        If `corpus.base_url` is no folder or holds no shard.
    AssetError, NetworkError
        If a remote folder cannot be listed.
    """
    root = corpus.base_url or ""
    listing = find_shards(root)
    present: dict[str, list[str]] = {}
    stored: dict[str, float] = {}
    for path, size in listing.shards:
        name = "-".join(path.split("/")[:-1]) or ROOT_SOURCE
        present.setdefault(name, []).append(path)
        stored[name] = stored.get(name, 0.0) + size
    if not present:
        raise ConfigError(
            f"corpus.base_url={corpus.base_url!r} holds no shard; expected files of JSON lines, plain or packed with "
            "gzip or zstd, such as web/part-0000.jsonl.gz (`dihal corpus inspect` shows what is there)"
        )
    even = corpus.folder_mixture == "equal" or not sum(stored.values())
    quotas = largest_remainder(corpus.num_sequences, dict.fromkeys(present, 1.0) if even else stored)
    missing = [f"{path} is left out: {reason}" for path, reason in listing.unreadable]
    if listing.ignored:
        shown = ", ".join(listing.ignored[:NAMED]) + (", ..." if len(listing.ignored) > NAMED else "")
        missing.append(f"{len(listing.ignored)} files that do not look like shards are left out: {shown}")
    return choose(f"shards of {root_label(root)}", LICENCE, present, quotas, corpus, seed, missing)
