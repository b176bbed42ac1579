"""Runs the stages of one study as Prefect tasks, in order, each unit a task run of its own."""

import functools
import logging
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect.futures import PrefectFuture

from dihal_core.config import StudySettings
from dihal_core.errors import ArtifactError, DihalError, NetworkError, ResourceError
from dihal_core.explain import explain
from dihal_core.files import full_disk
from dihal_core.housekeeping import hold_home
from dihal_core.journal import RunJournal
from dihal_core.remote.link import read_manifest
from dihal_core.requests import StageRequest, find, snapshot_code
from dihal_core.stages import STAGES, check_stages
from dihal_core.store import StageRecord, discard_store, store_lock
from dihal_core.study import Records, request_for, study_name, units_of
from tasks.cancellation import end_if_stopped, heeds_server
from tasks.capacity import units_at_once
from tasks.dump_help import DumpHelp
from tasks.links import links
from tasks.memory import PeakMemory
from tasks.progress import ProgressArtifact, artifact_key
from tasks.remote_stops import stops_workers
from tasks.slots import task_tags
from tasks.stages import TASKS
from tasks.stopping import stops_tasks

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def told_in_journal(step: Callable[P, R]) -> Callable[P, R]:
    """Close the journal of a `StudyRun` whose `step` fails, so that `dihal status` says failed and why."""

    @functools.wraps(step)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        study: StudyRun = arguments[0]  # type: ignore[assignment]
        try:
            try:
                return step(*arguments, **options)
            except OSError as error:
                told = full_disk(error, study.home, study.ledger["study"])
                if told is not None and not isinstance(error, DihalError):
                    raise told from error
                raise
        except Exception as error:
            journal = study.journal
            if journal is not None and journal.content["state"] == "running":
                journal.close("failed", str(error) or type(error).__name__)
            raise

    return wrapped


class StudyRun:
    """State of one study while its flow runs: records by stage, failures, and what each stage took."""

    def __init__(
        self,
        settings: StudySettings,
        home: Path,
        force: tuple[str, ...] = (),
        journal: RunJournal | None = None,
        variant: str = "",
    ):
        check_stages(force)
        snapshot_code()
        self.settings, self.home, self.force = settings, home, force
        self.in_use = hold_home(home)  # `dihal gc` removes nothing meanwhile
        self.journal, self.variant = journal, variant
        self.records: Records = {}
        self.failed: dict[str | int, str] = {}
        self.futures: dict[str, list[PrefectFuture[Any]]] = {}
        self.reasons: list[tuple[str, str]] = []
        self.ledger: dict[str, Any] = {"study": study_name(settings), "stages": {}}
        self.started = time.monotonic()
        self._memory, self._help = PeakMemory(), DumpHelp(settings)
        self._results: list[Any] = []  # kept alive: Prefect draws edges by object id, and freed ids come back

    @told_in_journal
    @stops_tasks
    @stops_workers
    @heeds_server
    def run(self, stage: str, tolerate_failures: bool = False) -> None:
        """Run all units of `stage` and keep their records; a failed unit stops the study unless tolerated."""
        started = time.monotonic()
        units = units_of(stage, self.settings, self.records)
        workers = units_at_once(stage, self.settings)
        pending: list[str | int | None] = list(units) if units is not None else [None]
        flying: dict[str | int | None, tuple[StageRequest, StageRecord | None, PrefectFuture[Any]]] = {}
        done: dict[str | int | None, StageRecord] = {}
        total, cached = len(pending), 0
        log.info("stage %s: %s", stage, f"{total} {STAGES[stage].unit}s" if units is not None else "one run")
        self.futures[stage] = []
        if self.journal is not None:
            self.journal.expect(self.named(stage), total)
        artifact = ProgressArtifact(artifact_key(self.ledger["study"], self.named(stage), "progress"), self.links())
        landed: queue.SimpleQueue[str | int | None] = queue.SimpleQueue()
        while pending or flying:
            while pending and len(flying) < workers:
                unit = pending.pop(0)
                flying[unit] = self._submit(stage, unit)
                # Told, not asked: every look at a future's state is a request to the server.
                flying[unit][2].add_done_callback(lambda _, unit=unit: landed.put(unit))
            unit = landed.get()
            request, made, future = flying.pop(unit)
            cached += made is not None
            record = self._finish(request, made, future, tolerate_failures)
            if record is not None:
                done[unit] = record
            self._show(
                stage, len(done) + len(self.failed if tolerate_failures else ()), total, started, cached, artifact
            )
        self._help.wait()
        self.records[stage] = {u: r for u, r in done.items() if u is not None} if units is not None else done[None]
        self.ledger["stages"][self.named(stage)] = {
            "wall_seconds": round(time.monotonic() - started, 2),
            "units": total,
            "cached": cached,
        }
        if tolerate_failures and not done:
            raise ArtifactError(f"every unit of stage {stage!r} failed; first: {next(iter(self.failed.values()))}")

    def _submit(
        self, stage: str, unit: str | int | None
    ) -> tuple[StageRequest, StageRecord | None, PrefectFuture[Any]]:
        request = request_for(stage, self.settings, self.home, self.records, unit, self.failed)
        status = find(request)
        if stage in self.force and status.state in ("intact", "damaged", "unpublished"):
            with store_lock(self.home, stage, request.key):
                discard_store(self.home, stage, request.key)
            self.reasons.append((request.label, "will run: forced"))
            made = None
        else:
            self.reasons.append((request.label, explain(request, status)))
            made = status.record
        upstream = [
            future for name in (*STAGES[stage].inputs, *STAGES[stage].after) for future in self.futures.get(name, [])
        ]
        if self.journal is not None:
            self.journal.note(self.named(stage), request.label, stage, request.key)
        options: dict[str, Any] = {"task_run_name": f"{request.label} · {self.variant}"} if self.variant else {}
        if made is None:  # a cached task needs no GPU and waits for none
            options["tags"] = task_tags(self.settings, stage)
        future = (
            TASKS[stage]
            .with_options(refresh_cache=made is None, **options)
            .submit(request.to_json(), show=not self.variant, wait_for=upstream)
        )
        self.futures[stage].append(future)
        if made is None:
            self._help.offer(request)
        return request, made, future

    def _finish(
        self, request: StageRequest, made: StageRecord | None, future: PrefectFuture[Any], tolerate: bool
    ) -> StageRecord | None:
        try:
            result = future.result(raise_on_failure=True)
            self._results.append(result)
            return made if made is not None else StageRecord.from_json(result)
        except Exception as error:
            end_if_stopped(error)
            if not tolerate or request.unit is None or isinstance(error, ResourceError | NetworkError):
                if self.journal is not None:
                    self.journal.close("failed", f"{request.label}: {error}")
                raise
            text = str(error) if isinstance(error, DihalError) else f"{type(error).__name__}: {error}"
            log.warning("%s failed and is left out: %s", request.label, text)
            self.failed[request.unit] = text
            self.futures[request.stage].remove(future)
            return None

    def named(self, stage: str) -> str:
        """Return the name of a stage in ledger and journal: it tells the variant, if this is one."""
        return f"{stage} [{self.variant}]" if self.variant else stage

    def _show(
        self, stage: str, finished: int, total: int, started: float, cached: int, artifact: ProgressArtifact
    ) -> None:
        elapsed = time.monotonic() - started
        fresh = finished - cached
        if total == 1 or (fresh == 0 and finished < total):
            return
        eta = f", ETA {elapsed / fresh * (total - finished):.0f} s" if fresh > 0 and finished < total else ""
        log.info("stage %s: %d/%d done, %d cached%s", self.named(stage), finished, total, cached, eta)
        rate = f", {60 * fresh / elapsed:.3g} {STAGES[stage].unit}s/min" if fresh > 0 and elapsed > 0 else ""
        text = f"{self.named(stage)}: {finished}/{total} {STAGES[stage].unit}s, {cached} cached{rate}{eta}"
        artifact.show(100.0 * finished / total, text)

    def record(self, stage: str) -> StageRecord:
        """Return the record of a stage that is one single run."""
        value = self.records[stage]
        if not isinstance(value, StageRecord):
            raise ArtifactError(f"stage {stage!r} has one record per {STAGES[stage].unit}; name the unit")
        return value

    @property
    def sweeps(self) -> bool:
        """Whether any candidate trains a bridge for the comparison with the score."""
        return self.settings.sweep_layers != "none"

    @property
    def folder(self) -> Path:
        """Folder of the study: results, journal, settings."""
        return self.home / "studies" / self.ledger["study"]

    def links(self, record: StageRecord | None = None) -> str:
        """Return the foot of an artifact: store, study, settings."""
        return links(self.folder, self.journal.path if self.journal is not None else None, record)

    def _store_bytes(self) -> int:
        records = [
            record
            for value in self.records.values()
            for record in ([value] if isinstance(value, StageRecord) else value.values())
        ]
        return sum(read_manifest(record)["bytes"] for record in records)

    def settle(self) -> None:
        """Complete the ledger."""
        self.ledger["wall_seconds"] = round(time.monotonic() - self.started, 2)
        self.ledger["peak_memory_bytes"] = self._memory.bytes()
        self.ledger["store_bytes"] = self._store_bytes()
        self.ledger["reasons"] = dict(self.reasons)
