"""A dump that asks for more threads than cores is told so."""

import pytest

from dihal_core.cores import crowded, usable_cores
from dihal_core.profiles import load_study


@pytest.mark.parametrize("profile", ["quickstart", "smoke", "gemma", "thorough"])
def test_the_profiles_for_two_cores_ask_for_no_more_than_two_threads(profile):
    assert crowded(load_study(profile), cores=2) is None


def test_too_many_dump_processes_are_named_with_the_setting_to_lower():
    overrides = {"compute.dump_workers": 8, "activations.threads": 2, "compute.device": "cpu"}
    told = crowded(load_study("quickstart", overrides=overrides), cores=4)
    assert told is not None
    assert told.startswith("the dump asks for 8 processes x 2 threads each on 4 cores")
    assert crowded(load_study("quickstart", overrides=overrides), cores=16) is None
    assert crowded(load_study("quickstart", overrides={**overrides, "compute.device": "cuda"}), cores=4) is None


def test_a_process_may_use_at_least_one_core():
    assert usable_cores() >= 1
