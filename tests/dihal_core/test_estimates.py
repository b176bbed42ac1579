from dihal_core.estimates import stage_costs
from dihal_core.profiles import load_study


def test_whole_windows_enter_the_bytes_of_the_dump():
    costs = stage_costs(load_study("quickstart"))
    pool, whole = 2000 * 4 * 576 * 2 * 31, 640 * 128 * 576 * 2 * 29
    assert costs["activations"]["bytes"] == pool + whole


def test_weights_from_the_hub_are_in_the_download():
    assert stage_costs(load_study("paper-qwen3-8b"))["gates"]["download"] > 2 * 8e9 + 3.4e9
    assert stage_costs(load_study("quickstart"))["gates"]["download"] == 0
