"""Helpers are asked for where they can see whether the dump is open: where the home is one folder."""

from dihal_core.profiles import load_study
from dihal_core.requests import StageRequest
from tasks.dump_help import DumpHelp


def asked(stage: str, home: str) -> StageRequest:
    return StageRequest(stage, None, "k" * 24, {}, {}, {}, {}, home)


def settings(runner: str = "dask"):
    return load_study("smoke", overrides={"compute.runner": runner, "compute.dump_workers": 2})


def test_a_dump_into_an_object_store_asks_for_no_helpers_and_says_so(caplog):
    help_of_one = DumpHelp(settings())
    assert help_of_one.count == 1
    with caplog.at_level("INFO", "tasks"):
        help_of_one.offer(asked("activations", "s3://bucket/runs"))  # outside a flow: a submission would be refused
    assert "one worker makes this dump" in caplog.text
    help_of_one.wait()


def test_helpers_are_one_less_than_workers_on_a_cluster_and_none_on_threads():
    assert DumpHelp(settings("dask")).count == 1
    assert DumpHelp(settings("threads")).count == 0
