import numpy as np
import pytest
import torch

from dihal_core.config import TrainingSettings
from dihal_core.training.batches import batch_windows, noise_generator, total_steps


@pytest.mark.parametrize(
    ("epochs", "cap", "steps"), [(1.0, None, 8), (4.0, None, 30), (0.01, None, 1), (4.0, 5, 5), (1.0, 50, 8)]
)
def test_steps_are_the_epochs_capped(epochs, cap, steps):
    assert total_steps(TrainingSettings(epochs=epochs, max_steps=cap, batch_sequences=4), windows=30) == steps


def test_every_pass_shows_every_window_once_also_across_batches():
    windows = np.arange(100, 113)
    seen = np.concatenate([batch_windows(windows, 5, step, seed=0) for step in range(13)])
    assert len(seen) == 65
    for index in range(5):
        assert sorted(seen[index * 13 : (index + 1) * 13]) == windows.tolist()
    assert not np.array_equal(seen[:13], seen[13:26])


def test_a_batch_may_be_larger_than_the_data():
    counts = np.bincount(batch_windows(np.arange(3), 8, 1, seed=0))
    assert counts.sum() == 8
    assert set(counts) <= {2, 3}


def test_order_and_noise_follow_from_seed_and_step():
    windows = np.arange(50)
    assert np.array_equal(batch_windows(windows, 8, 3, 1), batch_windows(windows, 8, 3, 1))
    assert not np.array_equal(batch_windows(windows, 8, 3, 1), batch_windows(windows, 8, 3, 2))
    draws = [torch.randn(4, generator=noise_generator(s, k, torch.device("cpu"))) for s, k in ((0, 1), (0, 1), (0, 2))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_batch_is_standardised_and_clipped_for_training(source):
    batch = source.load(np.arange(30))
    assert batch.target_BTD.shape == batch.condition_BTD.shape == batch.base_BTD.shape
    rows = batch.target_BTD[batch.mask_BT]
    assert torch.allclose(rows.mean(0), torch.zeros(rows.shape[1]), atol=1e-4)
    assert torch.allclose(rows.std(0, correction=0), torch.ones(rows.shape[1]), atol=1e-3)
    assert float(batch.target_BTD.abs().max()) <= 10.0
    assert not batch.mask_BT[:, 0].any()
    assert batch.mask_BT.sum(1).tolist() == (source.windows.lengths_N[:30] - 1).tolist()
