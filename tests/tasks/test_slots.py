import itertools
import time

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client

from dihal_core.profiles import load_study
from tasks.slots import GPU_STAGES, ensure_limits, gpu_slots, slot_of, task_tags, visible_gpus

CUDA = {"compute.device": "cuda"}


def test_a_stage_on_the_cpu_takes_no_slot():
    settings = load_study("smoke")
    assert all(task_tags(settings, stage) == ["dihal"] for stage in GPU_STAGES)


def test_a_stage_on_a_gpu_takes_the_slot_of_that_gpu_and_the_others_take_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    settings = load_study("smoke", overrides=CUDA)
    assert task_tags(settings, "sweep") == ["dihal", "gpu", slot_of("3")]
    assert task_tags(settings, "score") == task_tags(settings, "geometry") == ["dihal"]
    assert gpu_slots(load_study("smoke", overrides={"geometry.backend": "torch-cuda"}), "geometry") == [slot_of("3")]


def test_dump_workers_and_spread_models_take_a_slot_per_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    workers = load_study("smoke", overrides={**CUDA, "compute.dump_workers": 2})
    assert gpu_slots(workers, "activations") == [slot_of("0"), slot_of("1")]
    assert gpu_slots(workers, "sweep") == [slot_of("0")]
    spread = load_study("smoke", overrides={**CUDA, "backbone.device_map": "auto"})
    assert gpu_slots(spread, "evaluate") == [slot_of(gpu) for gpu in "012"]


def test_a_cluster_elsewhere_occupies_no_gpu_of_this_machine(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    there = {**CUDA, "compute.runner": "dask", "compute.runner_address": "tcp://elsewhere:8786"}
    assert task_tags(load_study("smoke", overrides=there), "sweep") == ["dihal", "gpu"]
    assert task_tags(load_study("smoke", overrides=there), "score") == ["dihal"]


def test_no_visible_gpu_is_told_from_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_limits_are_made_once_and_an_operators_number_stays(prefect_server):
    ensure_limits(["a"])
    with get_client(sync_client=True) as client:
        assert client.read_concurrency_limit_by_tag(slot_of("a")).concurrency_limit == 1
        client.delete_concurrency_limit_by_tag(slot_of("a"))
        client.create_concurrency_limit(slot_of("a"), 4)
    ensure_limits(["a", "b"])
    with get_client(sync_client=True) as client:
        assert client.read_concurrency_limit_by_tag(slot_of("a")).concurrency_limit == 4
        assert client.read_concurrency_limit_by_tag(slot_of("b")).concurrency_limit == 1


@pytest.mark.slow
def test_two_tasks_of_one_gpu_never_overlap(prefect_server):
    ensure_limits(["one"])
    spans: list[tuple[float, float]] = []

    @task(tags=[slot_of("one")])
    def occupy():
        began = time.monotonic()
        time.sleep(1)
        spans.append((began, time.monotonic()))

    @flow
    def both():
        for future in [occupy.submit() for _ in range(3)]:
            future.result()

    both()
    ordered = sorted(spans)
    assert len(ordered) == 3
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ordered))
