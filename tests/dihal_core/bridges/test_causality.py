import pytest
import torch
from torch import nn

from dihal_core.bridges.causality import LeakyControl, largest_leak, random_arm
from dihal_core.bridges.registry import BRIDGES
from dihal_core.errors import ConfigError

D, T = 24, 29
ARMS = ["bridge", "regressor", "ridge", "skip"]


@pytest.fixture
def embeddings():
    """Two windows; the second is right-padded with one repeated state, as pad tokens are."""
    x = torch.randn(2, T, D, generator=torch.Generator().manual_seed(0))
    x[1, 20:] = x[1, 20]
    return x


def test_every_bridge_kind_is_covered(every_bridge):
    assert every_bridge.kind in BRIDGES


@pytest.mark.parametrize("cut", [1, 11, T - 1])
def test_no_architecture_lets_a_bit_before_the_cut_change(every_bridge, embeddings, cut):
    arm = random_arm(every_bridge, D, seed=3)
    assert largest_leak(lambda x: arm.predict(x, steps=3, seed=5), embeddings, cut) == 0.0


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("cut", [1, 2, 11, T - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_bit_before_the_cut_changes(bridge_settings, embeddings, name, cut, dtype):
    arm = random_arm(bridge_settings, D, seed=3, name=name)
    assert largest_leak(lambda x: arm.predict(x, steps=3, seed=5), embeddings.to(dtype), cut) == 0.0


@pytest.mark.parametrize("name", ["bridge", "regressor"])
def test_random_arms_are_no_disguised_ridge(bridge_settings, embeddings, name):
    arm = random_arm(bridge_settings, D, seed=3, name=name)
    assert all(bool((parameter != 0).all()) for parameter in arm.parameters())
    ridge = random_arm(bridge_settings, D, seed=3, name="ridge")
    ridge.frame = arm.frame
    change = (arm.predict(embeddings) - ridge.predict(embeddings)).abs()[:, 1:].mean()
    assert float(change) > 0.1


def test_the_past_reaches_the_present(every_bridge, embeddings):
    arm = random_arm(every_bridge, D, seed=3)
    changed = embeddings.clone()
    changed[:, 4] += 1
    difference = (arm.predict(changed) - arm.predict(embeddings)).abs().amax(dim=(0, 2))
    assert not difference[:4].any()
    assert bool((difference[4:] > 0).all())


def test_the_leaky_control_is_caught(embeddings):
    for cut in (1, 11, T - 1):
        assert largest_leak(LeakyControl(D), embeddings, cut) > 1e-3


class OneBack(nn.Module):
    """Leaks exactly one position: the hardest to see."""

    def forward(self, x):
        return torch.cat([x[:, 1:], x[:, -1:]], dim=1)


def test_a_leak_of_one_position_is_caught_and_nan_counts_as_a_leak(embeddings):
    assert largest_leak(OneBack(), embeddings, 7) > 0
    blown_up = lambda x: x.cumsum(1) / (x.abs().amax() < 50)  # noqa: E731
    assert largest_leak(blown_up, embeddings, 7) == float("inf")


@pytest.mark.parametrize("cut", [0, T])
def test_a_cut_without_two_sides_is_refused(embeddings, cut):
    with pytest.raises(ConfigError, match=f"cut {cut} is outside 1..{T - 1}"):
        largest_leak(LeakyControl(D), embeddings, cut)
