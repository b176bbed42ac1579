"""Which engine computes the tasks: what is refused before anything is spent, and what no number depends on."""

import importlib
import pkgutil

import cloudpickle
import pytest
from prefect import Flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, model_serializer

import flows
from dihal_core.cores import usable_cores
from dihal_core.errors import ConfigError, ResourceError
from dihal_core.profiles import load_study
from dihal_core.requests import make_request
from dihal_core.stages import STAGES
from dihal_core.study import study_name
from flows.cli import main
from tasks import engines
from tasks.capacity import units_at_once
from tasks.runners import CLUSTERS, StudyTaskRunner
from tasks.workers import check_same_code

ELSEWHERE = {"compute.runner": "dask", "compute.runner_workers": 7, "compute.dump_workers": 3}


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_missing_extra_is_said_with_the_command_that_installs_it(runner, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(engines.ENGINES, runner, ("an_absent_module",))
    words = ["study", "--profile", "smoke", "--home", str(tmp_path), "--set", f"compute.runner={runner}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "an_absent_module cannot be imported" in said
    assert f"pip install -c constraints.txt 'dihal[{runner}]'" in said
    assert not list(tmp_path.iterdir())  # no server was started for it


def test_threads_need_no_extra():
    engines.require_engine(load_study("smoke").compute)
    assert set(engines.ENGINES) == set(CLUSTERS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compute.runner": "slurm"}, "compute.runner = 'slurm'"),
        ({"compute.runner": "dask", "compute.runner_workers": 0}, "compute.runner_workers = 0"),
        ({"compute.runner_address": "tcp://127.0.0.1:1"}, "names a cluster but compute.runner is threads"),
    ],
)
def test_settings_out_of_bounds_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_study("smoke", overrides=overrides)


def test_the_engine_changes_no_key_but_that_of_the_pages_and_no_study_name(tmp_path):
    here, there = load_study("smoke"), load_study("smoke", overrides=ELSEWHERE)
    changed = [n for n in STAGES if make_request(n, here, {}, tmp_path).key != make_request(n, there, {}, tmp_path).key]
    assert changed == ["report", "locate"]  # pages show every setting
    assert study_name(here) == study_name(there)


def test_units_side_by_side_use_no_more_cores_than_there_are():
    wide = load_study("smoke", overrides={"geometry.threads": 2, "compute.geometry_workers": 8})
    assert [units_at_once("geometry", wide, available) for available in (1, 2, 5, 64)] == [1, 1, 2, 8]
    assert units_at_once("score", wide, 64) == 1
    assert units_at_once("evaluate", load_study("smoke"), 64) == 1
    assert units_at_once("sweep", load_study("smoke")) == min(2, usable_cores())
    cluster = load_study("smoke", overrides={"compute.runner": "dask", "compute.runner_workers": 6})
    assert [units_at_once(stage, cluster, 4) for stage in ("geometry", "sweep", "evaluate", "assets")] == [4, 4, 4, 6]
    remote = load_study(
        "smoke",
        overrides={
            "compute.runner": "ray",
            "compute.runner_address": "ray://elsewhere:10001",
            "compute.runner_workers": 90,
        },
    )
    assert units_at_once("geometry", remote, 2) == 90


def test_a_layer_that_several_processes_train_takes_the_cores_of_all_of_them():
    shared = load_study("smoke", overrides={"sweep.training.processes": 2, "compute.sweep_workers": 4})
    assert [units_at_once("sweep", shared, available) for available in (1, 2, 4, 8, 64)] == [1, 1, 2, 4, 4]
    wide = load_study(
        "smoke", overrides={"sweep.training.processes": 2, "sweep.threads": 2, "compute.sweep_workers": 4}
    )
    assert units_at_once("sweep", wide, 8) == 2
    on_gpus = load_study("smoke", overrides={"sweep.training.processes": 2, "compute.device": "cuda"})
    assert units_at_once("sweep", on_gpus, 64) == 1  # its processes are one per GPU


def test_every_flow_can_be_sent_to_a_cluster():
    found = {}
    for module in pkgutil.iter_modules(flows.__path__):
        members = vars(importlib.import_module(f"flows.{module.name}")).values()
        found.update({member.name: member for member in members if isinstance(member, Flow)})
    assert {"dihal", "dihal-locate"} <= set(found)
    for name, flow in found.items():
        assert isinstance(flow.task_runner, StudyTaskRunner), name


def test_a_runner_travels_to_workers_and_is_threads_there():
    travelled = cloudpickle.loads(cloudpickle.dumps(StudyTaskRunner(4)))
    with travelled.duplicate() as started:
        assert started.max_workers == 4
    with pytest.raises(ConfigError, match="not started"):
        travelled.submit(None, {})


class Interrupted(BaseModel):
    """What Ctrl-C meets when it arrives while a context is serialised."""

    @model_serializer
    def stop(self) -> dict:
        raise KeyboardInterrupt


class Serialising(ThreadPoolTaskRunner):
    def submit(self, task, parameters, wait_for=None, dependencies=None):
        return parameters["context"].model_dump()


def test_an_interrupt_during_serialisation_is_an_interrupt(monkeypatch):
    monkeypatch.setitem(CLUSTERS, "dask", lambda compute: Serialising(max_workers=1))
    with StudyTaskRunner(1) as runner:
        runner.connect(load_study("smoke", overrides=ELSEWHERE).compute)
        with pytest.raises(KeyboardInterrupt):
            runner.submit(None, {"context": Interrupted()})


def test_a_cluster_that_does_not_answer_is_named():
    pytest.importorskip("prefect_dask")
    import dask

    compute = load_study(
        "smoke", overrides={"compute.runner": "dask", "compute.runner_address": "tcp://127.0.0.1:9"}
    ).compute
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        StudyTaskRunner(4) as runner,
        pytest.raises(ResourceError, match=r"no dask cluster at tcp://127\.0\.0\.1:9"),
    ):
        runner.connect(compute)


def test_a_worker_with_other_code_or_libraries_refuses(tmp_path):
    request = make_request("score", load_study("smoke"), {}, tmp_path)
    check_same_code(request)
    request.document["libraries"]["numpy"] = "1.0"
    with pytest.raises(ConfigError, match=r"this worker has numpy .*, the flow that asked has 1\.0"):
        check_same_code(request)
    request.document["code"]["dihal_core.geometry.score"] = "as it was last week"
    with pytest.raises(ConfigError, match=r"another version of dihal_core\.geometry\.score"):
        check_same_code(request)
