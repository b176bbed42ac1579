import numpy as np
import pytest
import torch

from dihal_core.bridges.fitting import CHUNK_WINDOWS, fit_condition, fit_frame
from dihal_core.bridges.standardise import state_mask
from dihal_core.errors import NumericsError

N, T, D = 3 * CHUNK_WINDOWS + 5, 14, 8


@pytest.fixture
def states():
    """Embeddings, and hidden states that are a linear map of two tokens plus noise, with a sink."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(N, T, D, generator=generator)
    embeddings[:, 0] = embeddings[0, 0]
    mixer = torch.randn(2, D, D, generator=generator)
    hidden = 30 * (embeddings @ mixer[0]) + 5
    hidden[:, 1:] += 30 * embeddings[:, :-1] @ mixer[1]
    hidden += torch.randn(hidden.shape, generator=generator)
    hidden[:, 0] = 5000.0
    lengths = torch.randint(6, T + 1, (N,), generator=generator)
    return embeddings, hidden, lengths


def fit(states, bridge_settings, windows=None):
    embeddings, hidden, lengths = states
    windows = np.arange(N) if windows is None else windows
    condition, factor = fit_condition(lambda i: embeddings[i], lengths, windows, bridge_settings, "embedding")
    return fit_frame(
        condition, factor, lambda i: embeddings[i], lambda i: hidden[i], lengths, windows, bridge_settings, "layer 5"
    )


def test_the_frame_explains_a_linear_layer_and_keeps_the_sink(states, bridge_settings):
    embeddings, hidden, lengths = states
    frame, facts = fit(states, bridge_settings)
    mask = state_mask(lengths, T)
    predicted = frame.finish(frame.ridge(frame.condition(embeddings)))
    assert torch.equal(predicted[:, 0], hidden[:, 0])
    truth = hidden[mask]
    unexplained = (predicted[mask] - truth).square().sum() / (truth - truth.mean(0)).square().sum()
    assert float(unexplained) < 0.01
    assert facts.rows == int(mask.sum())
    assert np.allclose(facts.mean_D, truth.mean(0), rtol=1e-4)
    assert facts.median_norm == pytest.approx(float(truth.norm(dim=-1).median()), rel=1e-5)


def test_sink_and_padding_do_not_enter_statistics_or_ridge(states, bridge_settings):
    embeddings, hidden, lengths = states
    frame, _ = fit(states, bridge_settings)
    padded_embeddings, padded_hidden = embeddings.clone(), hidden.clone()
    outside = ~state_mask(lengths, T)
    outside[:, 0] = False
    padded_embeddings[outside], padded_hidden[outside] = 77.0, -77.0
    padded_hidden[:, 0] = 123.0
    again, _ = fit((padded_embeddings, padded_hidden, lengths), bridge_settings)
    assert torch.equal(again.target.scale_D, frame.target.scale_D)
    assert torch.equal(again.condition.mean_D, frame.condition.mean_D)
    assert torch.equal(again.ridge.weight_FD, frame.ridge.weight_FD)


def test_windows_that_are_not_fitted_have_no_influence(states, bridge_settings):
    embeddings, hidden, lengths = states
    train = np.arange(0, N, 2)
    frame, _ = fit(states, bridge_settings, train)
    held_out = np.arange(1, N, 2)
    other = embeddings.clone(), hidden.clone(), lengths
    other[0][held_out], other[1][held_out] = 9.0, 9.0
    again, _ = fit(other, bridge_settings, train)
    assert torch.equal(again.ridge.weight_FD, frame.ridge.weight_FD)
    assert torch.equal(again.target.mean_D, frame.target.mean_D)


def test_windows_with_different_first_states_are_refused(states, bridge_settings):
    embeddings, hidden, lengths = states
    hidden = hidden.clone()
    hidden[40, 0] = -5000.0
    with pytest.raises(NumericsError, match="layer 5: windows differ in their state at position 0"):
        fit((embeddings, hidden, lengths), bridge_settings)
