"""Stored or recomputed targets: the arithmetic, the choices of the shipped profiles, and what overrides them."""

import pytest

from dihal_core.config.targets import block_flops, break_even_layer, choose_targets, explain_targets, target_costs
from dihal_core.errors import ConfigError
from dihal_core.planning import format_plan, plan_study
from dihal_core.profiles import load_study
from dihal_core.reporting.protocol import protocol_table
from dihal_core.requests import make_request

LLAMA = load_study("paper-llama-3.1-8b")
ENDLESS = {"targets.disk_gigabytes": 1e9}


def test_the_break_even_of_an_8b_model_is_as_worked_out_by_hand():
    """8,192 bytes against 2 x 218M FLOPs a block at 395 TFLOP/s: layer 7.4 / (GB/s)."""
    flops = block_flops(LLAMA.backbone)
    assert flops == pytest.approx(2 * 218.1e6, rel=1e-3)
    assert break_even_layer(4096, flops, 1.0, 395.0) == pytest.approx(7.42, rel=1e-3)
    assert break_even_layer(4096, flops, 3.0, 395.0) == pytest.approx(2.47, rel=2e-3)
    assert break_even_layer(4096, flops, 0.5, 395.0) == pytest.approx(14.8, rel=3e-3)
    assert break_even_layer(4096, flops, 1.0, 790 * 0.3) == pytest.approx(4.45, rel=2e-3)


def test_a_block_of_a_small_model_has_the_parameters_it_has():
    """SmolLM2: 30 blocks of 3.54M parameters, head and embedding one matrix."""
    assert block_flops(load_study("quickstart").backbone) == pytest.approx(2 * 3_540_096, rel=1e-3)


@pytest.mark.parametrize(
    ("profile", "windows"),
    [("quickstart", 640), ("thorough", 640), ("gemma", 640), ("smoke", 32), ("paper-llama-3.1-8b", 0), ("paper-qwen3-8b", 0)],
)  # fmt: skip
def test_the_shipped_profiles_keep_their_choice(profile, windows):
    assert load_study(profile).activations.whole_sequences == windows


def test_bytes_and_passes_are_those_of_the_study():
    costs = target_costs(LLAMA)
    assert costs.stored_bytes == 31 * 150_000 * 512 * 4096 * 2
    assert costs.passes == 1.0
    assert target_costs(load_study("thorough")).passes == pytest.approx(3 * 280 * 8 / 576)
    assert target_costs(load_study("quickstart", overrides={"sweep.seeds": 3})).passes == 3.0


def test_a_faster_disk_turns_the_choice_once_and_never_back():
    chosen = []
    for rate in (0.01, 0.1, 0.3, 1, 3, 10, 100):
        rates = {"targets.read_gigabytes_per_second": rate, "targets.write_gigabytes_per_second": rate}
        chosen.append(load_study("paper-llama-3.1-8b", overrides={**ENDLESS, **rates}).activations.whole_sequences)
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (0, 150_000)


def test_more_passes_pay_for_the_writing():
    slow = {**ENDLESS, "targets.write_gigabytes_per_second": 0.5}
    once = load_study("paper-llama-3.1-8b", overrides=slow)
    often = load_study("paper-llama-3.1-8b", overrides={**slow, "sweep.training.epochs": 4})
    assert (once.activations.whole_sequences, often.activations.whole_sequences) == (0, 150_000)


def test_the_reason_names_both_figures_and_what_decided():
    assert explain_targets(LLAMA) == (
        "Sweep targets are recomputed: over 1 pass of 150,000 windows writing and reading take 7.2 h and 19,504 GB, "
        "recomputing 12 h at the assumed rates (one pass breaks even at layer 2.5), but targets.disk_gigabytes allows 50 GB."
    )
    assert explain_targets(load_study("quickstart")).startswith("Sweep targets are stored: over 1 pass of 640 windows")


@pytest.mark.parametrize(
    ("overrides", "windows", "told"),
    [
        ({"targets.source": "recomputed"}, 0, "as targets.source says"),
        ({"activations.whole_sequences": 0}, 0, "activations.whole_sequences=0 was set by hand; left out"),
        ({"activations.whole_sequences": 640}, 640, "stored: over 1 pass"),
        ({"sweep_layers": "none"}, 0, "no layer is swept"),
        ({"sweep.num_sequences": 1000}, 1000, "of 1,000 windows"),
        ({"sweep.num_sequences": 3000}, 0, "3,000 windows are more than the 2,000 that are dumped"),
        ({"targets.disk_gigabytes": 1}, 0, "but targets.disk_gigabytes allows 1 GB"),
        ({"targets.teraflops": 1000}, 0, "recomputed: over 1 pass"),
        ({"sweep_layers": "top:1", "targets.teraflops": 5}, 0, "recomputed: over 1 pass"),
        ({"targets.teraflops": 5}, 640, "stored: over 1 pass"),
    ],
)
def test_settings_turn_the_choice_and_the_reason_follows(overrides, windows, told):
    settings = load_study("quickstart", overrides=overrides)
    assert settings.activations.whole_sequences == windows
    assert told in explain_targets(settings)


def test_what_is_stored_anyway_needs_no_writing():
    settings = load_study("paper-llama-3.1-8b", overrides={"activations.store_everything": True})
    assert target_costs(settings).stored_bytes == 0
    assert settings.activations.whole_sequences == 150_000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"activations.whole_sequences": 12}, "must be 0 .* or equal sweep.num_sequences 640; leave it out"),
        ({"targets.source": "stored", "sweep.num_sequences": 3000}, "exceeds activations.num_sequences 2000; raise"),
        ({"activations.whole_sequences": 3000, "sweep.num_sequences": 3000}, "exceeds activations.num_sequences 2000"),
        ({"targets.source": "disk"}, "targets.source"),
        ({"targets.read_gigabytes_per_second": 0}, "targets.read_gigabytes_per_second = 0"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_the_way_out(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_study("quickstart", overrides=overrides)


def test_rates_that_do_not_turn_the_choice_change_no_key(tmp_path):
    from dihal_core.store import StageRecord

    corpus = StageRecord("corpus", key="k", uri="store", digest="d")
    keys = {
        make_request(
            "activations",
            load_study("quickstart", overrides={"targets.read_gigabytes_per_second": rate}),
            {"assets": corpus, "corpus": corpus},
            tmp_path,
        ).key
        for rate in (2.0, 3.0, 4.0)
    }
    assert len(keys) == 1


def test_settings_survive_their_own_json():
    settings = load_study("quickstart")
    again = type(settings).model_validate(settings.model_dump(mode="json"))
    assert again == settings
    assert explain_targets(again) == explain_targets(settings)
    assert choose_targets(again) == choose_targets(settings)


def test_plan_and_protocol_say_which_and_why(tmp_path):
    settings = load_study("quickstart")
    assert explain_targets(settings) in format_plan(settings, plan_study(settings, tmp_path))
    assert "Sweep targets" not in format_plan(settings, plan_study(settings, tmp_path, "locate"))
    rows = {row["item"]: row for row in protocol_table(settings.model_dump(mode="json")).rows}
    assert rows["sweep targets"]["study"].startswith("stored: over 1 pass")
