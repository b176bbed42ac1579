"""What reading the corpus costs, said before anything is fetched. Needs no network and imports no torch.

Sizes follow from the plan: shards times prefix. Times follow from the rates below, which are named
beside them; `python -m tests.benchmarks.bench_corpus` measures them on a machine.
"""

from collections import Counter

from dihal_core.config import StudySettings
from dihal_core.corpus.dolma_plan import make_plan
from dihal_core.corpus.folder_plan import make_folder_plan
from dihal_core.corpus.opening import is_local
from dihal_core.corpus.plans import MARGIN, Plan
from dihal_core.corpus.shards import BASE_URL
from dihal_core.units import human_bytes

DOWNLOAD_BYTES_PER_SECOND = 50e6
"""Assumed."""
TEXT_BYTES_PER_SECOND = 50e6
"""Floor of the reader: decompressed text per second and core."""
TEXT_PER_STORED_BYTE = 3.0
"""Assumed: gzip packs Dolma's lines about threefold."""
TOKENS_PER_SECOND = 250e3
"""Assumed: one core, byte-pair encoding with offsets."""
CHARACTERS_PER_TOKEN = 4.5


def corpus_plan(settings: StudySettings) -> Plan | None:
    """Return the sampling plan where it can be made without a network: Dolma anywhere, a local folder.

    Raises
    ------
    ConfigError
        If `corpus.base_url` names no folder, or one without shards.
    """
    corpus = settings.corpus
    if corpus.kind == "dolma":
        return make_plan(corpus, settings.seed)
    if corpus.kind == "folder" and is_local(corpus.base_url or ""):
        return make_folder_plan(corpus, settings.seed)
    return None


def _is_remote(settings: StudySettings) -> bool:
    corpus = settings.corpus
    return corpus.kind in ("dolma", "folder") and not is_local(corpus.base_url or BASE_URL)


def reading_cost(settings: StudySettings) -> dict[str, float]:
    """Return `{"download", "spool", "seconds"}`: bytes fetched, bytes of candidates kept meanwhile, CPU time."""
    corpus, plan = settings.corpus, corpus_plan(settings)
    windows = corpus.num_sequences + corpus.num_heldout + corpus.num_eval_wiki
    sampled = corpus.kind in ("dolma", "folder", "huggingface")
    read = len(plan.shards) * corpus.shard_prefix_megabytes * 2**20 if plan else 0
    text = windows * MARGIN * corpus.window_tokens * CHARACTERS_PER_TOKEN
    tokenise = windows * corpus.window_tokens / TOKENS_PER_SECOND
    unpack = read * TEXT_PER_STORED_BYTE / TEXT_BYTES_PER_SECOND / settings.compute.corpus_workers
    return {
        "download": read if _is_remote(settings) else 0,
        "spool": text / TEXT_PER_STORED_BYTE + windows * corpus.window_tokens * 4 if sampled else 0,
        "seconds": tokenise + unpack if sampled else 0,
    }


def describe_reading(settings: StudySettings) -> list[str]:
    """Return lines that say what the corpus stage will read, of which source and how long that takes."""
    corpus = settings.corpus
    if corpus.kind == "huggingface" or (corpus.kind == "folder" and _is_remote(settings)):
        return [f"corpus: what {corpus.kind} holds is only known once it is listed; at most the first "
                f"{corpus.shards_per_source} files by seeded hash of every source are read"]  # fmt: skip
    plan = corpus_plan(settings)
    if plan is None:
        return []
    cost, prefix = reading_cost(settings), corpus.shard_prefix_megabytes * 2**20
    shards = Counter(shard.folder for shard in plan.shards)
    train = {name: round(share * corpus.num_sequences) for name, share in plan.shares.items()}
    verb = "download" if _is_remote(settings) else "read from disk"
    lines = [
        f"corpus: {plan.label}: the first {human_bytes(prefix)} of {len(plan.shards)} shards, at most "
        f"{human_bytes(len(plan.shards) * prefix)} to {verb}",
        f"  {'source':<30} {'windows':>8} {'shards':>6} {'at most':>8}",
    ]
    lines += [f"  {name:<30} {train[name]:>8} {n:>6} {human_bytes(n * prefix):>8}" for name, n in shards.items()]
    fetch = cost["download"] / DOWNLOAD_BYTES_PER_SECOND
    lines.append(
        f"  about {fetch / 60:.1f} minutes of download at 50 MB/s, side by side with {cost['seconds'] / 60:.1f} minutes "
        f"of unpacking (50 MB/s of text per core, {settings.compute.corpus_workers} workers) and tokenising (250 K "
        f"tokens/s); {human_bytes(cost['spool'])} of candidates wait on disk meanwhile"
    )
    lines += [f"  {sentence}" for sentence in plan.missing]
    return lines
