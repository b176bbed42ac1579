"""The ridge map fitted on all windows: the normal equations themselves, in chunks, in the frame of the others."""

import numpy as np
import pytest
import torch

from dihal_core.bridges.arms import load_arms, make_arm, predict_all, save_arms
from dihal_core.bridges.causality import largest_leak
from dihal_core.bridges.fitting import fit_condition, fit_frame
from dihal_core.bridges.linear import lagged
from dihal_core.bridges.standardise import state_mask
from dihal_core.bridges.wide_ridge import WideRidgeArm, fit_wide_ridge
from dihal_core.errors import NumericsError
from dihal_core.evaluation.flops import counted_flops

D, T, N = 12, 20, 90
"""More windows than two chunks."""


@pytest.fixture(scope="module")
def data():
    """Embeddings, states that are a noisy linear map of the last two of them, and lengths."""
    generator = torch.Generator().manual_seed(0)
    embeddings = 3 * torch.randn(N, T, D, generator=generator) + 1
    maps = torch.randn(2, D, D, generator=generator)
    states = embeddings @ maps[0] + 5 * torch.randn(N, T, D, generator=generator)
    states[:, 1:] += embeddings[:, :-1] @ maps[1]
    embeddings[:, 0], states[:, 0] = embeddings[0, 0], states[0, 0]
    return embeddings, states, torch.randint(5, T + 1, (N,), generator=generator)


@pytest.fixture(scope="module")
def frame(data, bridge_settings):
    """A frame whose own ridge saw the first 10 windows."""
    embeddings, states, lengths = data
    few = np.arange(10)
    condition, factor = fit_condition(embeddings.__getitem__, lengths, few, bridge_settings, "state 0")
    made, _ = fit_frame(
        condition, factor, embeddings.__getitem__, states.__getitem__, lengths, few, bridge_settings, "layer 1"
    )
    return made


@pytest.fixture(scope="module")
def bridge_settings():
    """Only what the ridge reads matters."""
    from dihal_core.config import MlpBridgeSettings

    return MlpBridgeSettings(width=16, context_width=16, context_heads=2)


def fit(data, frame, windows, penalty=1e-3):
    embeddings, states, lengths = data
    return fit_wide_ridge(
        frame, embeddings.__getitem__, states.__getitem__, lengths, windows, penalty, "layer 1"
    )  # fmt: skip


def test_it_is_the_least_squares_solution_over_all_counted_states(data, frame):
    embeddings, states, lengths = data
    arm, rows = fit(data, frame, np.arange(N))
    mask = state_mask(lengths, T)
    features = lagged(frame.condition(embeddings), 3)[mask].double()
    target = frame.target(states)[mask].double()
    centred = features - features.mean(0)
    gram = centred.T @ centred
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, centred.T @ (target - target.mean(0)))
    assert rows == int(mask.sum())
    assert torch.allclose(arm.map.weight_FD.double(), weight, atol=1e-5)
    bias = target.mean(0) - features.mean(0) @ weight
    assert torch.allclose(arm.map.bias_D.double(), bias, atol=1e-5)


def test_on_the_windows_of_the_frame_it_is_the_ridge_of_the_frame(data, frame):
    arm, _ = fit(data, frame, np.arange(10))
    ridge = make_arm("ridge", None, frame, 0)
    assert torch.allclose(arm.predict(data[0]), ridge.predict(data[0]), atol=1e-3)


def test_more_windows_predict_unseen_ones_better_than_few(data, frame):
    embeddings, states, _ = data
    arm, _ = fit(data, frame, np.arange(70))
    ridge = make_arm("ridge", None, frame, 0)

    def error(found):
        return float((found.predict(embeddings[70:]) - states[70:])[:, 1:].square().mean())

    assert error(arm) < 0.9 * error(ridge)


def test_the_order_of_windows_changes_no_more_than_rounding(data, frame):
    forward, _ = fit(data, frame, np.arange(N))
    backward, _ = fit(data, frame, np.arange(N)[::-1].copy())
    assert torch.allclose(forward.map.weight_FD, backward.map.weight_FD, atol=1e-6)


def test_it_keeps_the_constant_of_position_0_and_looks_at_no_later_token(data, frame):
    arm, _ = fit(data, frame, np.arange(N))
    assert torch.equal(arm.predict(data[0])[:, 0], frame.sink_D.expand(N, D))
    assert largest_leak(arm.predict, data[0][:4], 7) == 0.0


def test_alone_or_among_arms_it_predicts_the_same_bits_at_the_cost_of_one_map(data, frame):
    arm, _ = fit(data, frame, np.arange(N))
    ridge = make_arm("ridge", None, frame, 0)
    together = predict_all({"ridge": ridge, "ridge-all": arm}, data[0])
    assert torch.equal(together["ridge-all"], arm.predict(data[0]))
    costs = [counted_flops(lambda one=one: one.predict(data[0][:1])) for one in (arm, ridge)]
    assert costs[0] == costs[1] > 0


def test_it_survives_its_file(data, frame, bridge_settings, tmp_path):
    arm, _ = fit(data, frame, np.arange(N))
    save_arms(tmp_path, {"ridge": make_arm("ridge", None, frame, 0), "ridge-all": arm}, bridge_settings, 1)
    again = load_arms(tmp_path)["ridge-all"]
    assert isinstance(again, WideRidgeArm)
    assert torch.equal(again.predict(data[0]), arm.predict(data[0]))


def test_no_windows_are_no_map(data, frame):
    with pytest.raises(NumericsError, match="layer 1: no training windows to fit the ridge map on; raise"):
        fit(data, frame, np.arange(0))
