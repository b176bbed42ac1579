"""Threads counted where they compute: inside the builders of real units, on each runner, with all of them at once."""

import os
import sys

import cloudpickle
import pytest
import threadpoolctl
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from dihal_core.cores import usable_cores
from dihal_core.profiles import load_study
from dihal_core.requests import StageRequest
from dihal_core.runner import ensure
from dihal_core.study import pin_device, request_for, units_of
from tasks.capacity import units_at_once
from tasks.runners import StudyTaskRunner, choose_runner

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

MODULES = {"dask": "prefect_dask", "ray": "prefect_ray"}
BEFORE = ("assets", "corpus", "activations", "geometry", "score", "ridge")


@task(cache_policy=NO_CACHE, persist_result=False)
def probed(request: dict) -> list[dict[str, int]]:
    """Make the store of `request` and read, whenever its builder reports progress, what it computes with."""
    readings = []

    def listen(_done: float, _total: float, _unit: str) -> None:
        torch = sys.modules.get("torch")
        blas = [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
        threads = torch.get_num_threads() if torch is not None else 0  # a worker that measures layers needs no torch
        readings.append({"process": os.getpid(), "torch": threads, "blas": max(blas)})

    ensure(StageRequest.from_json(request), listen)
    return readings


@flow(task_runner=StudyTaskRunner(8))
def probe(overrides: dict, requests: list[dict]) -> list[list[dict[str, int]]]:
    choose_runner(load_study("smoke", overrides=overrides).compute)
    return [future.result() for future in [probed.submit(request) for request in requests]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Records of a smoke study made up to its ridge."""
    home, settings, records = tmp_path_factory.mktemp("prepared"), pin_device(load_study("smoke")), {}
    for stage in BEFORE:
        units = units_of(stage, settings, records)
        asked = [None] if units is None else units
        made = {unit: ensure(request_for(stage, settings, home, records, unit)) for unit in asked}
        records[stage] = made[None] if units is None else made
    return records


@pytest.mark.parametrize(("stage", "engine"), [("geometry", "blas"), ("sweep", "torch")])
@pytest.mark.parametrize("runner", ["threads", "dask", "ray"])
def test_all_units_in_flight_together_use_no_more_threads_than_there_are_cores(
    prepared, tmp_path, runner, stage, engine
):
    if runner in MODULES:
        pytest.importorskip(MODULES[runner])
    overrides = {"compute.runner": runner}
    settings = pin_device(load_study("smoke", overrides=overrides))
    at_once = units_at_once(stage, settings)
    units = list(units_of(stage, settings, prepared) or ())[-at_once:]
    assert len(units) == at_once == min(2, usable_cores())
    requests = [request_for(stage, settings, tmp_path, prepared, unit).to_json() for unit in units]
    found = probe(overrides, requests)
    assert all(readings for readings in found)
    assert sum(max(reading[engine] for reading in readings) for readings in found) <= usable_cores()
    pools = {reading["process"]: reading["blas"] for readings in found for reading in readings}
    assert sum(pools.values()) <= usable_cores()
    assert len(pools) == (1 if runner == "threads" else at_once)
