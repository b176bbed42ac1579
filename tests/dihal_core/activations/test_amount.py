"""The paper's way costs what it costs, and is behind a number that only someone who saw it can give."""

import pytest

from dihal_core.activations.amount import describe_amount, dump_bytes
from dihal_core.errors import ConfigError
from dihal_core.estimates import stage_costs
from dihal_core.planning import format_plan, preflight
from dihal_core.profiles import load_study
from dihal_core.units import human_bytes

LLAMA = {"corpus.window_tokens": 128, "activations.store_everything": True}


def test_every_layer_of_every_token_of_the_8b_model_is_ten_terabytes():
    everything = load_study("paper-llama-3.1-8b", overrides=LLAMA)
    sections = dump_bytes(everything)
    assert sections["full"] == 33 * 300_000 * 128 * 4096 * 2 == 10_380_902_400_000
    assert human_bytes(sections["full"], 4) == "10.38 TB"
    sampled = dump_bytes(load_study("paper-llama-3.1-8b", overrides={"corpus.window_tokens": 128}))
    assert sampled["full"] == 0
    assert sampled["geom"] == sections["geom"] <= 0.01 * sections["full"]
    assert stage_costs(everything)["activations"]["bytes"] == sum(sections.values())


def test_storing_everything_is_refused_until_its_bytes_are_confirmed(tmp_path):
    with pytest.raises(
        ConfigError, match=r"all 33 layers .* 300000 windows: 10\.38 TB \(10380902400000 bytes\)"
    ) as caught:
        preflight(load_study("paper-llama-3.1-8b", overrides=LLAMA), tmp_path)
    assert "compute.confirm_gigabytes=10463 to confirm" in str(caught.value)
    plan = format_plan(load_study("paper-llama-3.1-8b", overrides=LLAMA), [])
    assert "store_everything writes 10.46 TB (geom 81.1 GB, full 10.38 TB); refused until" in plan
    with pytest.raises(ConfigError, match="compute.confirm_gigabytes is 10000"):
        preflight(load_study("paper-llama-3.1-8b", overrides={**LLAMA, "compute.confirm_gigabytes": 10000}), tmp_path)


def test_an_amount_names_its_sum_and_the_sections_that_are_not_empty():
    assert describe_amount({"geom": 2000, "full": 0, "windows": 500}) == "2.5 kB (geom 2 kB, windows 500 B)"
