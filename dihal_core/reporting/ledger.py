"""What each stage cost and where its results lie: seconds, tokens, bytes, keys and digests.

Seconds differ from run to run, so the ledger stays out of `study.json`.
"""

from collections.abc import Sequence
from typing import Any

from dihal_core.reporting.formatting import is_number
from dihal_core.reporting.results import Json, StudyResults
from dihal_core.reporting.tables import Column, Table
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord


def _sum(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if is_number(value)]
    return sum(numbers) if numbers else None


def _stage_order(records: Sequence[StageRecord]) -> list[str]:
    present = {record.stage for record in records}
    return [stage for stage in STAGES if stage in present] + sorted(present - set(STAGES))


def _trained(block: Json | None) -> Any:
    trainings = [block or {}, *((block or {}).get("seeds") or ())[1:]]  # the first seed is the block itself
    return _sum(
        [
            (arm or {}).get("tokens")
            for training in trainings
            for name, arm in (training.get("arms") or {}).items()
            if name in ("bridge", "regressor")
        ]
    )


def _tokens(results: StudyResults, record: StageRecord) -> Any:
    """Return the tokens a unit went through: its own count, else what its result says."""
    if is_number(record.counts.get("tokens")):
        return record.counts["tokens"]
    if record.stage == "corpus":
        return _sum([split.get("tokens") for split in ((results.corpus or {}).get("splits") or {}).values()])
    if record.stage == "activations":
        return (results.activations or {}).get("tokens")
    if record.stage == "sweep" and isinstance(record.unit, int):
        return _trained(results.sweeps.get(record.unit))
    return _trained(results.replace) if record.stage == "replace" else None


def ledger_rows(results: StudyResults) -> list[Json]:
    """Return one row per stage: units, seconds of work (summed over units), tokens, bytes, tokens per second."""
    rows = []
    for stage in _stage_order(results.records):
        records = [record for record in results.records if record.stage == stage]
        seconds = [value for record in records if is_number(value := record.counts.get("seconds"))]
        total, tokens = _sum(seconds), _sum([_tokens(results, record) for record in records])
        rows.append(
            {
                "stage": stage,
                "units": len(records),
                "seconds": total,
                "longest_seconds": max(seconds, default=None),
                "tokens": tokens,
                "tokens_per_second": tokens / total if tokens is not None and total else None,
                "bytes": _sum([results.manifest(record).get("bytes") for record in records]),
            }
        )
    return rows


def ledger_table(results: StudyResults) -> Table:
    """Return the ledger with a total."""
    columns = (
        Column("stage", "stage", "text"),
        Column("units", "units", "count"),
        Column("seconds", "work", "seconds", "summed over units; units run side by side"),
        Column("longest_seconds", "longest unit", "seconds"),
        Column("tokens", "tokens", "count"),
        Column("tokens_per_second", "tokens/s", "count"),
        Column("bytes", "stored", "bytes"),
    )
    rows = ledger_rows(results)
    total = {"stage": "total", **{k: _sum([row[k] for row in rows]) for k in ("units", "seconds", "bytes")}}
    marks = (*("" for _ in rows), "total")
    return Table("ledger", "What it cost", columns, (*rows, total), marks)


def store_table(results: StudyResults) -> Table:
    """Return every store with key, digest and size; locations are relative to the home folder."""
    columns = (
        Column("unit", "unit", "text"),
        Column("location", "store (relative to the home folder)", "text"),
        Column("digest", "digest (SHA-256)", "text"),
        Column("bytes", "bytes", "bytes"),
        Column("seconds", "seconds", "seconds"),
        Column("counts", "counts", "text"),
    )
    rows = []
    for stage in _stage_order(results.records):
        for record in (item for item in results.records if item.stage == stage):
            counts = {k: v for k, v in record.counts.items() if k != "seconds"}
            rows.append(
                {
                    "unit": stage if record.unit is None else f"{stage} {record.unit}",
                    "location": f"{record.stage}/{record.key}",
                    "digest": record.digest,
                    "bytes": results.manifest(record).get("bytes"),
                    "seconds": record.counts.get("seconds"),
                    "counts": ", ".join(
                        f"{k} {v}" for k, v in sorted(counts.items()) if is_number(v) or isinstance(v, str)
                    ),
                }
            )
    return Table("stores", "Stores", columns, tuple(rows))


def versions_of(results: StudyResults) -> dict[str, str]:
    """Return the library versions that went into the keys, over all stages, read from the manifests."""
    found: dict[str, set[str]] = {}
    for record in results.records:
        provenance = results.manifest(record).get("provenance") or {}
        for name, version in ((provenance.get("request") or {}).get("libraries") or {}).items():
            found.setdefault(name, set()).add(str(version))
        if provenance.get("python"):
            found.setdefault("python", set()).add(str(provenance["python"]))
    return {name: " and ".join(sorted(found[name])) for name in sorted(found)}


def code_of(results: StudyResults) -> dict[str, dict[str, str]]:
    """Return `{stage: {module: hash}}` of the code that made the results, read from the manifests."""
    code: dict[str, dict[str, str]] = {}
    for record in results.records:
        provenance = results.manifest(record).get("provenance") or {}
        code.setdefault(record.stage, {}).update((provenance.get("request") or {}).get("code") or {})
    return {stage: dict(sorted(code[stage].items())) for stage in _stage_order(results.records)}


def ledger_json(results: StudyResults) -> Json:
    """Return the ledger as data: stages, and each unit with all its counts."""
    units = [
        {
            "stage": record.stage,
            "unit": record.unit,
            "key": record.key,
            "bytes": results.manifest(record).get("bytes"),
            "counts": record.counts,
        }
        for record in results.records
    ]
    return {"stages": ledger_rows(results), "units": units}
