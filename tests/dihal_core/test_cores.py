import pytest

from dihal_core.cores import crowded, threads_asked
from dihal_core.profiles import load_study


@pytest.mark.parametrize("profile", ["quickstart", "smoke", "gemma", "thorough"])
def test_the_profiles_for_two_cores_ask_for_no_more_than_two_threads(profile):
    settings = load_study(profile)
    assert crowded(settings, cores=2) == []
    assert all(workers * threads <= 2 for workers, threads in threads_asked(settings).values())


def test_too_many_threads_are_named_with_the_setting_to_lower():
    settings = load_study("quickstart", overrides={"compute.sweep_workers": 8, "compute.device": "cpu"})
    (line,) = crowded(settings, cores=4)
    assert line.startswith("stage sweep: 8 units side by side x 1 threads each on 4 cores; lower compute.sweep_workers")


def test_on_a_gpu_only_the_geometry_counts():
    settings = load_study("paper-qwen3-8b", overrides={"compute.device": "cuda", "compute.sweep_workers": 64})
    assert set(threads_asked(settings)) == {"geometry"}
