import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dihal_core.bridges.arms import make_arm
from dihal_core.config import UnetBridgeSettings
from dihal_core.training.budget import Ledger, forward_flops, newton_schulz_flops
from dihal_core.training.loop import train
from dihal_core.training.suffix import SuffixObjective


def test_newton_schulz_costs_the_same_for_a_matrix_and_its_transpose():
    assert newton_schulz_flops(8, 3, 5) == newton_schulz_flops(3, 8, 5) == 5 * (4 * 9 * 8 + 2 * 27)
    assert newton_schulz_flops(8, 3, 0) == 0


def test_forward_flops_count_every_matrix_product_torch_counts(make_arms, source):
    """Compare with torch's own counter, which sees the executed operators (attention as plain products)."""
    B, T, D = 2, 16, source.frame.width
    condition, base = torch.randn(2, B, T, D)
    for arm in make_arms("bridge", "regressor").values():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            arm.estimate(condition, base, 1, torch.arange(B), 0)
        assert forward_flops(arm, T) * B * T == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_ledger_adds_up(make_arms):
    arm = make_arms("bridge")["bridge"]
    ledger = Ledger.of(arm, positions=20, muon_iterations=3)
    ledger.add_step(tokens=60, positions=80)
    ledger.add_step(tokens=70, positions=80)
    assert ledger.to_json() == {
        "parameters": sum(p.numel() for p in arm.parameters()),
        "steps": 2,
        "tokens": 130,
        "flops": 160 * ledger.token_flops + 2 * ledger.step_flops,
    }
    assert Ledger.of(arm, 20, 0).step_flops == 0
    assert ledger.token_flops == 3 * forward_flops(arm, 20) + 2 * arm.frame.ridge.weight_FD.numel()


def counted(run):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


UNET = {
    "latent_channels": 4, "latent_side": 4, "block_channels": (16, 32), "layers_per_block": 1, "attention_heads": 2,
    "norm_groups": 4, "cross_attention_width": 16, "context_width": 16, "context_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("vae", [None, "random"])
@pytest.mark.parametrize("positions", [2, None])
def test_the_ledger_of_a_unet_holds_what_torch_counts_in_a_real_step(source, training, vae, positions):
    """Few positions are denoised, and the frozen autoencoder runs at those alone."""
    settings = UnetBridgeSettings(**UNET, vae=vae, positions_per_sequence=positions)
    arm = make_arm("bridge", settings, source.frame, seed=0)
    four = np.arange(4)
    one_step = training.model_copy(update={"epochs": 1.0})
    around = counted(lambda: source.load(four))  # backbone and ridge base
    found = {}
    spent = counted(lambda: found.update(train({"bridge": arm}, source, four, one_step, 0, "layer 2")))
    ledger = found["bridge"].ledger
    states = 8 if positions else int(source.mask(four).sum())
    assert (ledger.steps, ledger.tokens) == (1, states)
    ridge = source.windows.tokens_NT[four].size * ledger.ridge_flops
    assert ledger.flops - ridge == pytest.approx(spent - around, rel=0.03)


def test_the_pass_for_the_losses_through_the_upper_blocks_is_counted_at_its_own_windows(source, training):
    settings = UnetBridgeSettings(**UNET, positions_per_sequence=2)
    suffix, four = SuffixObjective(source, 2, 0.0, 1.0, windows=3), np.arange(4)
    one_step, ledgers = training.model_copy(update={"epochs": 1.0}), []
    for through in (None, suffix):
        arm = make_arm("bridge", settings, source.frame, seed=0)
        runs = train({"bridge": arm}, source, four, one_step, 0, "layer 2", suffix=through)
        ledgers.append(runs["bridge"].ledger)
    plain, further = ledgers
    again = 3 * 20 * (plain.token_flops - plain.ridge_flops) + 3 * 2 * plain.state_flops
    assert further.flops == plain.flops + again
    assert further.tokens == plain.tokens
