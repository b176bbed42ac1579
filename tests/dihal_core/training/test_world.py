"""Processes that share a batch: each takes its windows, gradients add up, and a failure ends all of them with its reason."""

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError

from dihal_core.config import TrainingSettings
from dihal_core.errors import ConfigError, NumericsError, ResourceError
from dihal_core.requests import find
from dihal_core.runner import ensure
from dihal_core.training.batches import noise_generator
from dihal_core.training.microbatches import MicroBatches, StepLoss
from dihal_core.training.processes import _raise, train_together
from dihal_core.training.suffix import SuffixObjective
from dihal_core.training.world import ALONE, World

INDICES = np.arange(7)


class Rank(World):
    """Where a process stands, without the others."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize(("rows", "size"), [(7, 1), (7, 2), (8, 3), (5, 5), (64, 8)])
def test_shares_cover_a_batch_once_and_differ_by_one_window_at_most(rows, size):
    shares = [Rank(rank, size).share(rows) for rank in range(size)]
    taken = [index for share in shares for index in range(share.start, share.stop)]
    assert taken == list(range(rows))
    lengths = {share.stop - share.start for share in shares}
    assert max(lengths) - min(lengths) <= 1


def test_one_process_takes_everything_and_leaves_it_alone():
    assert ALONE.share(5) == slice(0, 5)
    assert ALONE.main
    assert ALONE.sum(1.5) == 1.5


def test_more_processes_than_windows_are_refused():
    with pytest.raises(ConfigError, match="a batch of 2 windows has no share for 3 processes"):
        Rank(0, 3).share(2)
    with pytest.raises(ValidationError, match="processes 9 exceeds batch_sequences 8"):
        TrainingSettings(epochs=1.0, processes=9)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("micro", [None, 2])
def test_gradients_of_all_shares_sum_to_that_of_the_whole_batch(source, make_arms, size, micro):
    arm = make_arms("bridge")["bridge"].requires_grad_(True)
    suffix = SuffixObjective(source, 2, 0.3, 0.7, windows=5)

    def backward(share):
        arm.zero_grad(set_to_none=True)
        mask_BT = source.mask(INDICES)
        generator = noise_generator(0, 3, mask_BT.device)
        draws = arm.draw(mask_BT, generator)
        through = suffix.draw(arm, mask_BT, generator)
        loss = StepLoss(
            arm, source.load(INDICES[share]), INDICES, share, draws, int(mask_BT.sum()), None, suffix, through
        )
        value = MicroBatches(micro).backward(loss, "x", lambda value: None, lambda tried, now: None)
        return value, torch.cat([parameter.grad.flatten() for parameter in arm.parameters()])

    whole, expected = backward(slice(0, 7))
    parts = [backward(Rank(rank, size).share(7)) for rank in range(size)]
    assert sum(value for value, _ in parts) == pytest.approx(whole, rel=1e-6)
    found = sum(gradient for _, gradient in parts)
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


def test_the_failure_that_explains_the_others_is_raised():
    lost = ResourceError("RuntimeError: Connection closed by peer")
    with pytest.raises(NumericsError, match="loss is nan"):
        _raise([lost, NumericsError("layer 2: loss is nan")])
    with pytest.raises(ResourceError, match=r"several processes stopped .*Connection closed.*training\.processes=1"):
        _raise([lost])


def with_training(smoke, stage, **changes):
    section = getattr(smoke, stage)
    training = section.training.model_copy(update={"autocast": "float32", **changes})
    return smoke.model_copy(update={stage: section.model_copy(update={"training": training})})


@pytest.mark.slow
def test_a_sweep_in_two_processes_ends_where_one_process_ends(request_in, smoke):
    """Losses agree to 1e-4: sums in another order, four steps of AdamW behind them."""
    results = []
    for processes in (1, 2):
        settings = with_training(smoke, "sweep", processes=processes, micro_batch_sequences=1)
        bridge = smoke.bridge.model_copy(update={"distillation_weight": 0.5, "suffix_windows": 3})
        settings = settings.model_copy(update={"bridge": bridge})
        seen = []
        record = ensure(request_in("sweep", settings, 1), lambda done, total, unit, seen=seen: seen.append(done))
        results.append(json.loads((record.path / "sweep.json").read_bytes()))
        assert seen == sorted(seen)
        assert len(seen) > 4
        assert not list(record.path.rglob("checkpoint*"))
    one, two = results
    assert [p["loss"] for p in two["curve"]] == pytest.approx([p["loss"] for p in one["curve"]], rel=1e-4)
    for name, row in one["arms"].items():
        assert two["arms"][name]["fvu"] == pytest.approx(row["fvu"], rel=1e-4)
        assert [two["arms"][name][key] for key in ("steps", "tokens", "flops")] == [
            row[key] for key in ("steps", "tokens", "flops")
        ]


@pytest.mark.slow
def test_a_replacement_in_two_processes_goes_on_from_its_checkpoint(request_in, smoke, stop_at):
    Stopped, listener = stop_at
    one = ensure(request_in("replace", with_training(smoke, "replace"), values={"layer": 2}))
    request = request_in("replace", with_training(smoke, "replace", processes=2), values={"layer": 2})
    with pytest.raises(Stopped):
        ensure(request, listener(8))
    assert find(request).state == "partial"
    two = ensure(request)
    curves = [json.loads((record.path / "replace.json").read_bytes()) for record in (one, two)]
    for name in ("bridge", "regressor"):
        losses = [[point["loss"] for point in curve["curve"][name]] for curve in curves]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        assert [p["step"] for p in curves[1]["validation_curve"][name]] == [2, 4, 6]


@pytest.mark.slow
def test_a_loss_that_diverges_in_several_processes_is_named_once_and_hangs_nothing(request_in, smoke):
    settings = with_training(smoke, "sweep", processes=2, learning_rate=1e30, max_steps=4)
    with pytest.raises(NumericsError, match="layer 1, .*(loss|gradient norm) is (nan|inf) at step|is not finite"):
        ensure(request_in("sweep", settings, 1))


ENDLESS = """
import sys
from pathlib import Path

if __name__ == "__main__":
    from dihal_core.profiles import load_study
    from dihal_core.runner import ensure
    from dihal_core.study import request_for

    changes = {"processes": 2, "epochs": 1e6, "max_steps": 10**6, "checkpoint_steps": 5}
    settings = load_study("smoke", overrides={f"sweep.training.{name}": value for name, value in changes.items()})
    home, records = Path(sys.argv[1]), {"assets": {}}
    for stage in ("corpus", "activations", "ridge"):
        records[stage] = ensure(request_for(stage, settings, home, records))
    ensure(request_for("sweep", settings, home, records, 1))
"""


@pytest.mark.slow
def test_no_process_outlives_a_killed_parent(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "home")])
    try:
        assert wait_until(lambda: list((tmp_path / "home").glob("sweep/*/checkpoint.safetensors")), parent)
        helpers = psutil.Process(parent.pid).children(recursive=True)
        assert len(helpers) >= 2
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(helpers, timeout=60)
    assert alive == []


def wait_until(found, process, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if found():
            return True
        time.sleep(0.5)
    return False


def test_more_processes_than_gpus_are_refused_before_anything_starts():
    if torch.cuda.device_count() >= 4:
        pytest.skip("this machine has as many GPUs")
    with pytest.raises(ResourceError, match=r"training\.processes 4 needs as many GPUs"):
        train_together(None, None, 0, 4, "cuda", lambda *_: None)
