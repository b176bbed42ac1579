import time

import pytest

from dihal_core.training.ablation_fit import Clock


def test_seconds_of_a_resumed_training_are_scaled_to_all_of_its_steps():
    seen = []
    clock = Clock(lambda done, total, unit: seen.append(done))
    clock.wall = time.monotonic() - 400.0
    for done in (6, 8, 10):  # steps 1 to 6 were another attempt's
        clock(done, 10, "steps")
    assert seen == [6, 8, 10]
    assert clock.seconds()["wall_seconds"] == pytest.approx(1000.0, rel=0.05)
