import numpy as np
import pytest
import torch

from dihal_core.bridges.processes import (
    batch_noise,
    bridge_state,
    position_noise,
    posterior_deviation,
    posterior_mean,
    sampler_times,
    training_times,
)
from dihal_core.errors import ConfigError


def test_the_process_starts_at_the_hidden_state_and_ends_at_the_ridge_prediction():
    h, m, noise = torch.randn(3, 2, 5, 7)
    zero, one = torch.zeros(2, 5, 1), torch.ones(2, 5, 1)
    assert torch.equal(bridge_state(h, m, zero, noise, 0.5), h)
    assert torch.equal(bridge_state(h, m, one, noise, 0.5), m)


def test_the_process_has_the_mean_and_variance_of_a_brownian_bridge():
    generator = torch.Generator().manual_seed(0)
    t, spread = 0.3, 0.5
    h, m = torch.full((1, 1, 200_000), 2.0), torch.full((1, 1, 200_000), -1.0)
    noise = torch.randn(h.shape, generator=generator)
    x = bridge_state(h, m, torch.full((1, 1, 1), t), noise, spread).double()
    assert float(x.mean()) == pytest.approx((1 - t) * 2.0 - t, abs=3e-3)
    assert float(x.var()) == pytest.approx(spread**2 * t * (1 - t), rel=2e-2)


@pytest.mark.parametrize(("t", "t_next"), [(1.0, 0.75), (0.75, 0.5), (0.5, 0.05)])
def test_a_sampler_step_from_the_true_state_has_the_marginal_of_the_process(t, t_next):
    spread = 0.7
    share = float(posterior_mean(torch.ones(1), torch.zeros(1), t, t_next))
    variance = share**2 * spread**2 * t * (1 - t) + posterior_deviation(t, t_next, spread) ** 2
    assert variance == pytest.approx(spread**2 * t_next * (1 - t_next), rel=1e-5)
    h, m = 2.0, -1.0
    mean = float(posterior_mean(torch.tensor((1 - t) * h + t * m), torch.tensor(h), t, t_next))
    assert mean == pytest.approx((1 - t_next) * h + t_next * m, rel=1e-5)


def test_noise_of_a_prefix_depends_on_no_later_position_and_on_no_other_window():
    long = position_noise(3, sequence=11, draw=0, positions=40, width=13)
    assert np.array_equal(position_noise(3, 11, 0, 17, 13), long[:17])
    assert np.array_equal(position_noise(3, 11, 0, 5, 13, start=17), long[17:22])
    both = batch_noise(3, torch.tensor([4, 11]), 0, 40, 13, torch.device("cpu"))
    assert np.array_equal(both[1].numpy(), long)


def test_noise_is_standard_normal_and_differs_between_seeds_windows_and_draws():
    noise = position_noise(0, 0, 0, 500, 200)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.mean(noise**4) == pytest.approx(3, abs=0.1)
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    for other in (
        position_noise(1, 0, 0, 500, 200),
        position_noise(0, 1, 0, 500, 200),
        position_noise(0, 0, 1, 500, 200),
    ):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02


def test_the_sampler_asks_first_at_one_and_refuses_zero_steps():
    assert sampler_times(1) == [1.0]
    assert sampler_times(4) == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ConfigError, match="steps 0"):
        sampler_times(0)


def test_training_times_are_one_with_the_endpoint_probability():
    t = training_times(torch.Generator().manual_seed(0), (1000, 100), 0.3)
    assert float((t == 1).float().mean()) == pytest.approx(0.3, abs=0.01)
    inside = t[t < 1]
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(inside.min()) >= 0
