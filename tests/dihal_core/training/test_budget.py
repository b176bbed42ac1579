import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dihal_core.training.budget import Ledger, forward_flops, newton_schulz_flops


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
