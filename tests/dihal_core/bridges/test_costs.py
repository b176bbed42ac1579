import pytest

from dihal_core.bridges.causality import random_arm
from dihal_core.bridges.costs import (
    BridgeCosts,
    bridge_costs,
    describe_latent,
    evaluation_costs,
    replace_costs,
    suffix_training,
    sweep_costs,
)
from dihal_core.bridges.vae_sizes import SD_VAE, vae_flops
from dihal_core.config import MlpBridgeSettings, UnetBridgeSettings
from dihal_core.planning import stage_costs
from dihal_core.profiles import load_study
from dihal_core.training.budget import Ledger

D, T = 96, 40
SHARED = {"context_width": 64, "context_blocks": 2, "context_heads": 4, "width": 64}
UNET = {
    **SHARED, "latent_channels": 4, "latent_side": 4, "block_channels": (16, 32), "layers_per_block": 1,
    "attention_heads": 2, "norm_groups": 4, "cross_attention_width": 16, "positions_per_sequence": 2,
}  # fmt: skip
PAPER = "paper-qwen3-8b"


@pytest.mark.parametrize(
    "settings", [MlpBridgeSettings(**SHARED), UnetBridgeSettings(**UNET), UnetBridgeSettings(**UNET, vae="random")]
)
def test_the_plan_of_a_window_is_what_the_ledger_will_hold(settings):
    ledger = Ledger.of(random_arm(settings, D, seed=0), T, 0)
    ledger.add_step(tokens=2 if settings.kind == "unet" else T, positions=T)
    held = ledger.flops - T * ledger.ridge_flops
    attention = T * 3 * 4 * T * settings.context_width * settings.context_blocks
    assert BridgeCosts.of(settings, D, T).training(T) + attention == pytest.approx(held, rel=0.06)


def test_the_autoencoder_of_the_paper_profiles_is_in_every_stage_that_runs_the_bridge():
    with_vae, without = load_study(PAPER), load_study(PAPER, overrides={"bridge.vae": None})
    encode, decode = vae_flops(SD_VAE, 4, 8)
    assert bridge_costs(with_vae).frozen == encode + decode == pytest.approx(55.7e9, rel=0.01)
    assert bridge_costs(without).frozen == 0
    costs, fewer = stage_costs(with_vae), stage_costs(without)
    for stage in ("gates", "sweep", "replace", "evaluate", "cost", "ablate"):
        assert costs[stage]["flops"] > fewer[stage]["flops"], stage


def test_every_sampler_step_of_the_evaluation_denoises_every_position():
    one, both = (load_study(PAPER, overrides={"evaluation.sampling_steps": steps}) for steps in ([1], [1, 4]))
    tokens, costs = 5120 * 512, bridge_costs(one)
    more = evaluation_costs(both, tokens, 2) - evaluation_costs(one, tokens, 2)
    assert more == pytest.approx(tokens * (costs.token + 4 * (costs.state + costs.frozen)), rel=1e-9)
    assert stage_costs(both)["evaluate"]["flops"] > tokens * 5 * costs.state


def test_looks_at_validation_are_planned_and_can_be_bounded():
    looks = [replace_costs(load_study(PAPER, overrides={"replace.look_windows": n}), 1e9) for n in (None, 128, 64)]
    assert looks[0] > looks[1] > looks[2]
    count = 38  # 297,000 windows x 4 epochs / 64 a step, one look every 500 steps
    few = bridge_costs(load_study(PAPER)).predicting(64 * 512 * count)
    assert looks[1] - looks[2] == pytest.approx(few, rel=0.05)  # and a little for the regressor and the blocks below


def test_only_drawn_positions_are_trained_on_but_all_are_measured():
    few, more = (load_study(PAPER, overrides={"bridge.positions_per_sequence": n}) for n in (8, 16))
    per_state = 3 * bridge_costs(few).state + 2 * bridge_costs(few).frozen
    assert bridge_costs(more).training(512) - bridge_costs(few).training(512) == pytest.approx(8 * per_state)
    validation = 15_000 * 512
    assert sweep_costs(few, 0.0, (2,)) > bridge_costs(few).predicting(validation)


def test_losses_through_the_upper_blocks_cost_nothing_without_a_weight():
    assert suffix_training(load_study("quickstart"), 1e6, 8, 0.1) == 0.0
    assert suffix_training(load_study(PAPER), 1e6, 64, 0.1) > 1e6 * 4 / 64 * 2 * 2 * 8e9


def test_a_latent_that_cannot_hold_the_state_is_named_with_the_settings_that_can():
    (line,) = describe_latent(load_study(PAPER))
    assert "256 numbers for a state of 4096, and nothing is added to it (bridge.base=none)" in line
    assert "4 x 32 x 32 = 4096 numbers: --set bridge.vae=null bridge.latent_side=null" in line
    assert describe_latent(load_study(PAPER, overrides={"bridge.vae": None, "bridge.latent_side": None})) == []
    assert describe_latent(load_study("quickstart")) == []
