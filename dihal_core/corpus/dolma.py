"""Dolma v1.7 from https, a mirror or a local folder: a plan of shards, their prefixes, candidate documents.

4.5 TB cannot be read, and gzip cannot be entered in the middle. So every folder gives a few shards,
chosen by a seeded hash, and of each shard a prefix is read. Of the documents in a prefix the ones with
the smallest seeded hash are kept, as many as the quota may need: a choice that depends on no order of
shards or workers. Each shard is one committed unit; candidates wait in a spool that the finished store
does not keep.
"""

import dataclasses
import gzip
import http.client
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from typing import IO

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import Document, group_permille, seeded_rank
from dihal_core.corpus.dolma_plan import EVALUATION_FOLDER, Plan, Shard, local_folder, make_plan, root_label
from dihal_core.corpus.lines import ReadReport, read_documents
from dihal_core.corpus.shards import BASE_URL, LICENCE
from dihal_core.corpus.sources import Origin, Pool, Source
from dihal_core.errors import AssetError, NetworkError
from dihal_core.progress import Progress
from dihal_core.store import StageStore

SPOOL = "spool"
EVALUATION_PERMILLE = 20
"""Groups of the wiki folder in the band above the held-out ones are evaluation pages (ours)."""
CHARACTERS_PER_TOKEN = 6
"""On the high side, so that a document is expected to give fewer windows than it will."""
TIMEOUT_SECONDS = 60


def read_dolma(corpus: CorpusSettings, seed: int, store: StageStore, progress: Progress) -> Pool:
    """Fetch the prefixes of the plan (those not yet committed) and return the candidate documents.

    Raises
    ------
    ConfigError
        If `corpus.base_url` is a folder that is not there or holds no shard.
    AssetError
        If a shard of the list does not exist, nothing was readable, or too many lines are damaged.
    NetworkError
        If the host could not be reached; committed shards are kept.
    """
    root = corpus.base_url or BASE_URL
    plan = make_plan(corpus, seed)
    shards = plan.shards
    done = store.committed()
    for number, shard in enumerate(shards):
        progress(number, len(shards), "shards")
        if shard.unit not in done or not (store.path / SPOOL / f"{shard.unit}.gz").exists():
            _fetch(shard, root, corpus, seed, store, lambda part, n=number: progress(n + part, len(shards), "shards"))
    progress(len(shards), len(shards), "shards")
    payloads = store.committed()
    reports = [ReadReport(**payloads[shard.unit]) for shard in shards]
    _require_health(reports, corpus.max_damaged_fraction, root)
    return _pool(corpus, plan, reports, store)


# ---------------------------------------------------------------------------------- reading
def open_shard(root: str, path: str) -> IO[bytes]:
    """Open one shard for streaming.

    Raises
    ------
    AssetError
        If the host says that there is no such file.
    NetworkError
        If the host could not be reached or is in trouble.
    """
    folder = local_folder(root)
    if folder is not None:
        return open(folder / path, "rb")
    url = f"{root.rstrip('/')}/{path}"
    if not url.startswith(("http://", "https://")):
        import fsspec

        return fsspec.open(url, "rb").open()
    try:
        return urllib.request.urlopen(
            urllib.request.Request(url, headers={"User-Agent": "dihal"}), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):
            raise AssetError(
                f"{url} answers {error.code}; set corpus.base_url to a mirror or a local folder of Dolma v1.7"
            ) from error
        raise NetworkError(f"{url} answers {error.code}; try again later or set corpus.base_url to a mirror") from error
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(
            f"{url} could not be reached ({error}); check the network or set corpus.base_url to a local folder"
        ) from error


def _fetch(
    shard: Shard, root: str, corpus: CorpusSettings, seed: int, store: StageStore, part: Callable[[float], None]
) -> None:
    """Read one prefix, spool its candidates, commit."""
    report = ReadReport(shard.path)
    limit = corpus.shard_prefix_megabytes << 20
    keepers = [Keeper(budget, corpus, cap) for budget, cap in zip(shard.budget, _caps(corpus), strict=True)]
    try:
        with open_shard(root, shard.path) as handle:
            for number, found in enumerate(read_documents(handle, report, limit)):
                if number % 500 == 0:
                    part(min(report.bytes_read / limit, 1.0))
                document = dataclasses.replace(found, source=shard.folder)
                keepers[_side(document, corpus)].offer(seeded_rank(seed, "document", document.identity), document)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, AssetError | NetworkError):
            raise
        if local_folder(root) is None:
            raise NetworkError(
                f"reading {shard.path} broke off ({error}); finished shards are kept, run again"
            ) from error
        report.file_damage = "unreadable_file"
    rows = [{"id": d.id, "text": d.text, "added": d.added, "created": d.created} for k in keepers for d in k.kept()]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    store.write_bytes(f"{SPOOL}/{shard.unit}.gz", gzip.compress(lines, 1, mtime=0))
    store.commit(shard.unit, report.to_json())


def _caps(corpus: CorpusSettings) -> tuple[int, int, int]:
    few = min(4, corpus.max_windows_per_document)
    return corpus.max_windows_per_document, few, few


def _side(document: Document, corpus: CorpusSettings) -> int:
    """Return 0 for train, 1 for held-out, 2 for evaluation pages."""
    permille = group_permille(document.source, document.group)
    if permille < corpus.heldout_permille:
        return 1
    band = corpus.heldout_permille + EVALUATION_PERMILLE
    return 2 if document.source == EVALUATION_FOLDER and corpus.num_eval_wiki and permille < band else 0


class Keeper:
    """The documents with the smallest rank whose expected windows just cover a budget."""

    def __init__(self, budget: int, corpus: CorpusSettings, cap: int):
        self.budget, self.cap = budget, cap
        self.window_characters = (corpus.window_tokens - 1) * CHARACTERS_PER_TOKEN
        self._found: list[tuple[int, int, Document]] = []
        self._windows = 0

    def offer(self, rank: int, document: Document) -> None:
        """Consider one document; memory stays within about twice the budget."""
        if self.budget:
            expected = min(self.cap, max(1, len(document.text) // self.window_characters))
            self._found.append((rank, expected, document))
            self._windows += expected
            if self._windows > 2 * self.budget + 64:
                self._prune()

    def _prune(self) -> None:
        self._found.sort(key=lambda item: (item[0], item[2].id))
        total, count = 0, 0
        while count < len(self._found) and total < self.budget:
            total += self._found[count][1]
            count += 1
        del self._found[count:]
        self._windows = total

    def kept(self) -> list[Document]:
        """Return what is kept, in order of rank."""
        self._prune()
        return [document for _, _, document in self._found]


# ---------------------------------------------------------------------------------- what came of it
def _require_health(reports: Sequence[ReadReport], limit: float, root: str) -> None:
    lines, damaged = sum(report.lines for report in reports), sum(report.damaged for report in reports)
    reasons = sum((Counter(report.rejects) for report in reports), Counter())
    worst = max(reports, key=lambda report: report.damaged)
    where = f"worst is {worst.name} ({worst.file_damage or 'readable'}; {_spelled(worst.rejects, worst.examples)})"
    if not any(report.accepted for report in reports):
        raise AssetError(
            f"no document could be read from {len(reports)} shards of {root}; {where}; "
            "check corpus.base_url, or fetch the shards again"
        )
    if damaged > limit * max(lines, 1):
        raise AssetError(
            f"{damaged} of {lines} lines of {root} are damaged ({damaged / max(lines, 1):.1%}, at most {limit:.1%} allowed): "
            f"{_spelled(reasons, {})}; {where}; fetch the shards again or raise corpus.max_damaged_fraction"
        )


def _spelled(reasons: Counter[str] | dict[str, int], offsets: dict[str, int]) -> str:
    parts = (
        f"{name} {count}" + (f" from byte {offsets[name]}" if name in offsets else "")
        for name, count in reasons.items()
    )
    return ", ".join(parts) or "no rejected line"


def _pool(corpus: CorpusSettings, plan: Plan, reports: Sequence[ReadReport], store: StageStore) -> Pool:
    label = root_label(corpus.base_url or BASE_URL)
    missing = [*plan.missing]
    missing += [
        f"shard {r.name} is damaged ({r.file_damage}); its readable part was used" for r in reports if r.file_damage
    ]
    documents: dict[str, list[Document]] = {}
    rejects: dict[str, Counter[str]] = {}
    for shard, report in zip(plan.shards, reports, strict=True):
        documents.setdefault(shard.folder, []).extend(_spooled(shard, store))
        rejects.setdefault(shard.folder, Counter()).update(report.rejects)
    sources = []
    for name, found in documents.items():
        train = tuple(document for document in found if _side(document, corpus) < 2)
        sources.append(Source(name, f"Dolma v1.7, {label}", LICENCE, plan.shares[name], train, rejects[name]))
    pages = tuple(
        dataclasses.replace(d, source="eval_wiki")
        for d in documents.get(EVALUATION_FOLDER, ())
        if _side(d, corpus) == 2
    )
    evaluation = Source("eval_wiki", f"Dolma v1.7, {label}", LICENCE, 0.0, pages) if pages else None
    if corpus.num_eval_wiki and evaluation is None:
        missing.append("evaluation pages are left out: no page of Dolma's wiki folder fell into their band")
    origins = (Origin(f"Dolma ({label})", "v1.7", {report.name: report.sha256 for report in reports}),)
    return Pool(
        tuple(sources), evaluation, origins, tuple(missing), {"shards": [report.to_json() for report in reports]}
    )


def _spooled(shard: Shard, store: StageStore) -> list[Document]:
    lines = gzip.decompress((store.path / SPOOL / f"{shard.unit}.gz").read_bytes()).splitlines()
    rows = (json.loads(line) for line in lines)
    return [Document(row["id"], row["text"], shard.folder, row["added"], row["created"]) for row in rows]
