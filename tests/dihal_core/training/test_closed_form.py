import numpy as np

from dihal_core.config import TrainingSettings
from dihal_core.training.batches import batch_windows, total_steps
from dihal_core.training.closed_form import seen_windows

WINDOWS = np.arange(100, 200)


def test_the_windows_a_capped_training_visits_are_those_of_its_batches():
    training = TrainingSettings(epochs=1.0, max_steps=5, batch_sequences=8)
    seen = seen_windows(training, WINDOWS, 0, seed=3)
    visited = {int(w) for step in range(5) for w in batch_windows(WINDOWS, 8, step, 3)}
    assert seen.tolist() == sorted(visited)
    assert len(seen) == 40
    assert seen_windows(training, WINDOWS, 0, seed=4).tolist() != seen.tolist()


def test_a_whole_epoch_visits_every_window():
    training = TrainingSettings(epochs=1.0, batch_sequences=8)
    assert total_steps(training, 100) * 8 >= 100
    assert seen_windows(training, WINDOWS[::-1], 0, seed=0).tolist() == WINDOWS.tolist()


def test_the_windows_of_the_frozen_base_are_among_them():
    training = TrainingSettings(epochs=1.0, max_steps=2, batch_sequences=8)
    seen = seen_windows(training, WINDOWS, 30, seed=0)
    assert set(range(100, 130)) <= set(seen.tolist())
    assert 30 <= len(seen) <= 46
