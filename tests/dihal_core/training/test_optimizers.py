import copy
import itertools

import pytest
import torch

from dihal_core.training.optimizers import Optimizers, rate_factor


def test_the_rate_warms_up_linearly_and_falls_to_zero():
    factors = [rate_factor(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[4] == pytest.approx(0.5, abs=0.01)
    assert max(factors) == pytest.approx(1, abs=0.03)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[-1] < 1e-3
    assert rate_factor(0, 5, 0) == 1.0


def gradients(module, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_reloaded_state_continues_with_the_same_bits(make_arms, training, kind):
    settings = training.model_copy(update={"optimizer": kind})
    arm = make_arms("bridge")["bridge"]
    straight = Optimizers(arm, settings)
    for step in range(3):
        gradients(arm, step)
        straight.step(0.9)
    twin = copy.deepcopy(arm)
    resumed = Optimizers(twin, settings)
    saved = {name: value.clone() for name, value in straight.state().items()}
    resumed.load(dict(reversed(saved.items())))
    for step in range(3, 6):
        for module, optimizers in ((arm, straight), (twin, resumed)):
            gradients(module, step)
            optimizers.step(0.5)
    for one, other in zip(arm.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_takes_the_matrices_and_adamw_the_rest(make_arms, training):
    arm = make_arms("bridge")["bridge"]
    optimizers = Optimizers(arm, training.model_copy(update={"optimizer": "muon"}))
    gradients(arm, 0)
    optimizers.step(1.0)
    kinds = {}
    for key in optimizers.state():
        name, _, state = key.partition("|")
        kinds.setdefault(name, set()).add(state)
    for name, parameter in arm.named_parameters():
        wanted = {"momentum_buffer"} if parameter.ndim == 2 else {"step", "exp_avg", "exp_avg_sq"}
        assert kinds[name] == wanted, name


def test_gradients_are_clipped_to_the_global_norm(make_arms, training):
    """With AdamW's first step of constant size the norm shows in the state only."""
    arm = make_arms("bridge")["bridge"]
    optimizers = Optimizers(arm, training.model_copy(update={"optimizer": "adamw", "gradient_clip": 0.5}))
    gradients(arm, 0)
    before = optimizers.step(1.0)
    assert before > 10
    first_moments = [value for key, value in optimizers.state().items() if key.endswith("|exp_avg")]
    norm = torch.stack([moment.square().sum() for moment in first_moments]).sum().sqrt()
    assert float(norm) == pytest.approx(0.1 * 0.5, rel=1e-3)
    assert all(parameter.grad is None for parameter in arm.parameters())
