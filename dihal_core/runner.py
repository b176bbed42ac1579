"""Makes the store a request asks for, once, and says what went wrong when it cannot."""

import importlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dihal_core.config import StudySettings
from dihal_core.contract import SettingsView, StageContext
from dihal_core.errors import ArtifactError, ResourceError
from dihal_core.files import full_disk
from dihal_core.inspection import inspect_folder, inspect_store
from dihal_core.memory import first_line, is_out_of_memory
from dihal_core.progress import Progress, silent
from dihal_core.provenance import code_closure
from dihal_core.remote.link import forget_partial, home_path, is_present, resumable, share
from dihal_core.requests import StageRequest, find, records_in
from dihal_core.stages import STAGES
from dihal_core.store import StageRecord, StageStore, discard_store, store_lock

log = logging.getLogger(__name__)


def _discard_damaged_inputs(home: Path, inputs: Mapping[str, Any]) -> None:
    """Free the names of input stores that do not match their digests, however large, so that a rerun remakes them."""
    for value in inputs.values():
        for record in records_in(value):
            status = inspect_store(home, record.stage, record.key, full=True)
            if status.state == "damaged":
                log.warning("%s/%s is damaged (%s); discarded", record.stage, record.key, status.reason)
                discard_store(home, record.stage, record.key)


def ensure(request: StageRequest, progress: Progress = silent) -> StageRecord:
    """Return the record of an intact store for `request`, making the store if need be.

    One process at a time makes a store; another one waits and then finds it made. A damaged store is
    discarded and made anew; a partial one is resumed by its builder.

    Raises
    ------
    ArtifactError
        If an input store is gone.
    ResourceError
        If the disk is full or not writable.
    """
    home = home_path(request.home)
    return share(home, _made(request, home, progress))


def _made(request: StageRequest, home: Path, progress: Progress) -> StageRecord:
    status = find(request)
    if status.record is not None:
        return status.record
    spec = STAGES[request.stage]
    with store_lock(home, request.stage, request.key):
        status = find(request)
        if status.state == "unpublished":
            status = inspect_folder(home, request.stage, request.key)
        if status.record is not None:
            return status.record
        if status.state == "damaged":
            log.warning("%s: store %s is damaged (%s); making it again", request.label, request.key, status.reason)
            discard_store(home, request.stage, request.key)
        settings = StudySettings.model_validate(request.settings)
        inputs: dict[str, StageRecord | dict[str | int, StageRecord]] = {}
        for name, value in request.inputs.items():
            if isinstance(value, dict):
                inputs[name] = StageRecord.from_json(value)
            else:
                records = [StageRecord.from_json(item) for item in value]
                inputs[name] = {record.unit: record for record in records if record.unit is not None}
        for value in inputs.values():
            for record in records_in(value):
                if not is_present(record):
                    raise ArtifactError(
                        f"{request.label} needs {record.uri}, which is gone; run the study again, "
                        f"it recomputes stage {record.stage!r}"
                    )
        module, _, function = spec.builder.partition(":")
        try:
            build: Callable[[StageContext], dict[str, Any]] = getattr(importlib.import_module(module), function)
            with resumable(home, request.stage, request.key, settings.compute.remote_sync_seconds):
                store = StageStore(home, request.stage, request.key)
                started = time.monotonic()
                counts = build(
                    StageContext(
                        SettingsView(settings, request.stage, (*spec.reads, *spec.unkeyed)),
                        request.unit,
                        inputs,
                        request.values,
                        store,
                        progress,
                    )
                )
            if code_closure(module) != request.document["code"]:
                shutil.rmtree(store.path)
                raise ArtifactError(
                    f"{request.label}: core code was edited while it ran, so its result belongs to no version of the "
                    "code and was discarded; run the same command again"
                )
            counts = {**counts, "seconds": round(time.monotonic() - started, 3)}
            return store.finalize(
                counts, {"request": request.document, "study_settings": request.settings}, request.unit
            )
        except ArtifactError:
            _discard_damaged_inputs(home, inputs)
            shutil.rmtree(home / request.stage / f"{request.key}.partial", ignore_errors=True)
            forget_partial(home, request.stage, request.key)
            raise
        except OSError as error:
            told = full_disk(error, home, request.label)
            if told is not None:
                raise told from error
            raise
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # a lost device, no memory: the next attempt loads the model afresh
            loading = sys.modules.get("dihal_core.backbones.loading")
            if loading is not None:
                loading.forget_backbones()
            if is_out_of_memory(error):
                raise ResourceError(
                    f"{request.label}: out of memory ({first_line(error)}); lower the batch sizes of the stage "
                    "(activations.batch_sequences, sweep.training.batch_sequences, evaluation.batch_sequences) or the number "
                    "of units side by side (compute.*_workers), or use a machine with more memory; finished units are kept"
                ) from error
            raise
