"""Making units of a dump whose store another process makes: what a worker of a cluster does in a helper task."""

import logging
import time

from dihal_core.activations.dump import make_work
from dihal_core.activations.gate import POLL_SECONDS, STAGE, DumpGate
from dihal_core.activations.run import remaining_units
from dihal_core.activations.workers import take_part
from dihal_core.backbones.threads import resolve_device
from dihal_core.config import StudySettings
from dihal_core.errors import ResourceError
from dihal_core.remote.link import home_path
from dihal_core.requests import StageRequest, find
from dihal_core.store import StageRecord, StageStore

log = logging.getLogger(__name__)

OPEN_SECONDS = 300.0
"""How long a helper waits for the dump to begin, which may be waiting for a lock or a slot itself."""


def join_dump(request: StageRequest, patience_s: float = OPEN_SECONDS) -> float:
    """Make units of the dump of `request` until none is left; return computed positions per second.

    0.0 if there was nothing to do: the dump is finished, this process takes part in it already, or it did
    not begin within `patience_s`.

    Raises
    ------
    ResourceError
        If the process that makes the store is gone before all units are made.
    """
    gate = DumpGate(home_path(request.home), request.key)
    deadline = time.monotonic() + patience_s
    while not gate.is_open():
        if find(request).state == "intact":
            return 0.0
        if time.monotonic() > deadline:
            log.warning("%s did not begin within %.0f s; this helper leaves", request.label, patience_s)
            return 0.0
        time.sleep(POLL_SECONDS)
    with gate.enter() as may_help:
        return _help(request, gate) if may_help else 0.0


def _help(request: StageRequest, gate: DumpGate) -> float:
    settings = StudySettings.model_validate(request.settings)
    corpus = StageRecord.from_json(request.inputs["corpus"])
    records = [StageRecord.from_json(item) for item in request.inputs["assets"]]
    home = home_path(request.home)
    work = make_work(settings, corpus, {str(record.unit): record for record in records}, home, request.key)

    def stop_behind_closed_gate(_done: float, _total: float, _unit: str) -> None:
        if not gate.is_open():
            raise ResourceError("the process that makes this dump is gone; run the study again, it goes on")

    try:
        return take_part(work, resolve_device(settings.compute.device), stop_behind_closed_gate)
    except ResourceError:
        if remaining_units(work.plan, StageStore(home, STAGE, request.key, join=True).committed()):
            raise
        return 0.0  # it closed because all units are made
