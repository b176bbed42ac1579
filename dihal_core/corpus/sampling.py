"""Carries a plan out: shards read side by side, each one a committed unit, its candidates in a spool.

4.5 TB cannot be read, and gzip cannot be entered in the middle. So every source gives a few shards,
chosen by a seeded hash, and of each shard a prefix is read. Of the documents in a prefix the ones with
the smallest seeded hash are kept, as many as the quota may need: a choice that depends on no order of
shards or workers. Threads read and unpack (both outside the interpreter lock for the most part) while
this thread tokenises what finished shards gave. The finished store keeps no spool.
"""

import dataclasses
import gzip
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from dihal_core.config import CorpusSettings
from dihal_core.corpus.candidates import Candidates, caps, side_of
from dihal_core.corpus.documents import Document
from dihal_core.corpus.plans import Plan, Shard
from dihal_core.corpus.prepared import Prepared
from dihal_core.corpus.reports import ReadReport, share_damaged, spelled, worst_first
from dihal_core.corpus.sources import Origin, Pool, Source
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.errors import ArtifactError, AssetError
from dihal_core.progress import Progress
from dihal_core.store import StageStore

SPOOL = "spool"
Reader = Callable[[Shard, ReadReport, Callable[[float], None]], Iterator[Document]]
"""Yields the documents of one shard; fills the report; calls back with the part that is read."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """What reading one shard gave."""

    report: ReadReport
    packed: bytes
    likely: tuple[tuple[list[Document], int], ...]
    """(documents, cap) by side: what the plan looks at first."""


class _Stopped(Exception):
    """Another shard failed, or the stage was interrupted."""


def sample(
    plan: Plan,
    read: Reader,
    corpus: CorpusSettings,
    seed: int,
    store: StageStore,
    encoder: WindowEncoder,
    progress: Progress,
    workers: int,
) -> Pool:
    """Read the shards of `plan` that are not committed yet and return all candidate documents.

    Parameters
    ----------
    read
        Yields the documents of one shard. Called from several threads.
    encoder
        Gets the windows that were made on the way.
    workers
        Shards read side by side; changes no number.

    Raises
    ------
    AssetError
        If a shard does not exist, nothing was readable, or too many lines are damaged.
    NetworkError
        If a host could not be reached; committed shards are kept.
    """
    done = store.committed()
    todo = [s for s in plan.shards if s.unit not in done or not (store.path / SPOOL / f"{s.unit}.gz").exists()]
    _read_all(plan, todo, read, corpus, seed, store, encoder, progress, workers)
    payloads = store.committed()
    reports = [ReadReport.from_json(payloads[shard.unit]) for shard in plan.shards]
    require_health(reports, corpus.max_damaged_fraction, plan.label)
    try:
        encoder.prepared = Prepared.load(store.path / SPOOL, [shard.unit for shard in plan.shards])
        return _pool(corpus, plan, reports, store)
    except (EOFError, OSError, ValueError, TypeError, KeyError, zlib.error) as error:
        raise ArtifactError(
            f"an interim file of the corpus under {store.path / SPOOL} is damaged ({type(error).__name__}: {error}); the "
            "interim files are discarded, run the same command again"
        ) from error


def _read_all(plan, todo, read, corpus, seed, store, encoder, progress, workers) -> None:
    stop, parts, total = threading.Event(), dict.fromkeys((s.unit for s in plan.shards), 1.0), len(plan.shards)
    parts.update((shard.unit, 0.0) for shard in todo)
    waiting, running = iter(todo), dict[Future[_Found], Shard]()

    def show() -> None:
        progress(sum(parts.values()), total, "shards")

    with ThreadPoolExecutor(workers, "shards") as pool:

        def refill() -> None:
            for shard in islice(waiting, workers - len(running)):
                part = _part_setter(parts, shard.unit)
                running[pool.submit(_read_one, shard, plan, read, corpus, seed, part, stop)] = shard

        try:
            show()
            refill()
            while running:
                ready, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                found = [(running.pop(future), future.result()) for future in ready]
                refill()  # readers go on while this thread tokenises
                for shard, result in found:
                    _keep(shard, result, store, encoder)
                    parts[shard.unit] = 1.0
                    show()
                show()
        finally:
            stop.set()


def _part_setter(parts: dict[str, float], unit: str) -> Callable[[float], None]:
    def set_part(value: float) -> None:
        parts[unit] = max(parts[unit], min(value, 0.99))

    return set_part


def _read_one(shard, plan, read, corpus, seed, part, stop) -> _Found:
    report = ReadReport(shard.path)
    candidates = Candidates(shard.budget, corpus, seed, plan.evaluation_folder)
    for found in read(shard, report, part):
        if stop.is_set():
            raise _Stopped
        candidates.offer(dataclasses.replace(found, source=shard.folder))
    rows = [{"id": d.id, "text": d.text, "added": d.added, "created": d.created} for d in candidates.kept()]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    likely = [keeper.likely() for keeper in candidates.keepers[:2]]  # pages are renamed first, see _pool
    return _Found(report, gzip.compress(lines, 1, mtime=0), tuple(zip(likely, caps(corpus), strict=False)))


def _keep(shard: Shard, found: _Found, store: StageStore, encoder: WindowEncoder) -> None:
    store.write_bytes(f"{SPOOL}/{shard.unit}.gz", found.packed)
    Prepared.write(store.path / SPOOL, shard.unit, encoder, found.likely)
    store.commit(shard.unit, found.report.to_json())


# ---------------------------------------------------------------------------------- what came of it
def require_health(reports: Sequence[ReadReport], limit: float, label: str) -> None:
    """Raise `AssetError` if nothing was read, or more than `limit` of the lines are damaged."""
    damaged, lines, share = share_damaged(reports)
    worst = worst_first(reports)
    where = "; ".join(f"{report.name}: {spelled(report)}" for report in worst[:3]) or "all of them are empty"
    if not any(report.accepted for report in reports):
        raise AssetError(
            f"no document could be read from {len(reports)} shards ({label}); {where}; check corpus.base_url, "
            "look at it with `dihal corpus inspect`, or fetch the shards again"
        )
    if damaged and share > limit:
        reasons = sum((report.rejects for report in reports), Counter())
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise AssetError(
            f"{damaged} of {lines} lines are damaged ({share:.1%}, at most {limit:.1%} allowed; {label}): {counts}; "
            f"worst: {where}; fetch the shards again or raise corpus.max_damaged_fraction"
        )


def _pool(corpus: CorpusSettings, plan: Plan, reports: Sequence[ReadReport], store: StageStore) -> Pool:
    missing = [*plan.missing]
    missing += [
        f"shard {r.name} is damaged ({r.file_damage} at byte {r.damage_offset}); "
        + ("its readable part was used" if r.accepted else "nothing of it could be read")
        for r in reports
        if r.file_damage
    ]
    documents: dict[str, list[Document]] = {}
    rejects: dict[str, Counter[str]] = {}
    for shard, report in zip(plan.shards, reports, strict=True):
        documents.setdefault(shard.folder, []).extend(_spooled(shard, store))
        rejects.setdefault(shard.folder, Counter()).update(report.rejects)
    sources = []
    for name, found in documents.items():
        train = tuple(d for d in found if side_of(d, corpus, plan.evaluation_folder) < 2)
        sources.append(Source(name, plan.label, plan.licence, plan.shares[name], train, rejects[name]))
    evaluation = None
    if plan.evaluation_folder is not None:
        pages = tuple(
            dataclasses.replace(d, source="eval_wiki")
            for d in documents.get(plan.evaluation_folder, ())
            if side_of(d, corpus, plan.evaluation_folder) == 2
        )
        if pages:
            evaluation = Source("eval_wiki", plan.label, plan.licence, 0.0, pages)
        else:
            missing.append(f"evaluation pages are left out: no page of {plan.evaluation_folder} fell into their band")
    origins = (Origin("shards", plan.label, {report.name: report.sha256 for report in reports}),)
    facts: dict[str, object] = {"shards": [report.to_json() for report in reports]}
    return Pool(tuple(sources), evaluation, origins, tuple(missing), facts)


def _spooled(shard: Shard, store: StageStore) -> list[Document]:
    lines = gzip.decompress((store.path / SPOOL / f"{shard.unit}.gz").read_bytes()).splitlines()
    rows = (json.loads(line) for line in lines)
    return [Document(row["id"], row["text"], shard.folder, row["added"], row["created"]) for row in rows]
