"""Split batches give the gradient of the whole one; where memory runs out the same step is repeated in smaller pieces."""

import logging

import numpy as np
import pytest
import torch

from dihal_core.bridges.arms import make_arm, own_state
from dihal_core.bridges.regressor import Regressor
from dihal_core.config import UnetBridgeSettings
from dihal_core.errors import ResourceError
from dihal_core.training.batches import noise_generator
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.loop import train
from dihal_core.training.microbatches import MicroBatches, StepLoss, pieces
from dihal_core.training.suffix import SuffixObjective

TRAIN = np.arange(30)
INDICES = np.arange(7)
UNET = UnetBridgeSettings(
    latent_channels=2, latent_side=4, block_channels=(8,), layers_per_block=1, attention_heads=2, norm_groups=4,
    cross_attention_width=16, context_width=32, context_heads=4, positions_per_sequence=5,
)  # fmt: skip
ROUNDING = 2e-6
"""Largest difference of a gradient, relative to the largest gradient: sums in another order, float32."""


def gradient(source, arm, size, suffix=None, autocast=None):
    arm.requires_grad_(True).zero_grad(set_to_none=True)
    batch = source.load(INDICES)
    generator = noise_generator(0, 3, batch.mask_BT.device)
    draws = arm.draw(batch.mask_BT, generator)
    through = None if suffix is None else suffix.draw(arm, batch.mask_BT, generator)
    total = int((batch.mask_BT & ~draws.t_BT.isnan()).sum())
    loss = StepLoss(arm, batch, INDICES, slice(0, len(INDICES)), draws, total, autocast, suffix, through)
    value = MicroBatches(size).backward(loss, "x", lambda value: None, lambda tried, now: None)
    return value, {name: parameter.grad.clone() for name, parameter in arm.named_parameters()}


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "regressor", "unet"])
def test_the_sum_over_micro_batches_is_the_gradient_of_the_whole_batch(source, smoke, kind, through, size):
    settings = UNET if kind == "unet" else smoke.bridge
    arm = make_arm("regressor" if kind == "regressor" else "bridge", settings, source.frame, seed=0)
    with torch.no_grad():
        for parameter in arm.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    suffix = SuffixObjective(source, 2, 0.3, 0.7, windows=5) if through else None
    whole, expected = gradient(source, arm, None, suffix)
    split, found = gradient(source, arm, size, suffix)
    assert split == pytest.approx(whole, rel=1e-6)
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= ROUNDING * largest, name


@pytest.mark.parametrize("kind", ["mlp", "regressor", "unet"])
def test_diffusion_and_reconstruction_weigh_what_their_settings_say(source, smoke, kind):
    settings = UNET if kind == "unet" else smoke.bridge
    arm = make_arm("regressor" if kind == "regressor" else "bridge", settings, source.frame, seed=0)

    def loss(diffusion, reconstruction):
        weights = {"diffusion_weight": diffusion, "reconstruction_weight": reconstruction}
        arm.settings = settings.model_copy(update=weights)
        return gradient(source, arm, 3)[0]

    terms = loss(1.0, 0.0), loss(0.0, 1.0)
    assert min(terms) > 0
    assert loss(3.0, 0.5) == pytest.approx(3 * terms[0] + 0.5 * terms[1], rel=1e-6)
    if kind == "regressor":  # one term, which weighs what both terms of the bridge weigh together
        assert loss(3.0, 0.5) == pytest.approx(1.75 * loss(1.0, 1.0), rel=1e-6)


def test_pieces_cover_the_share_once():
    assert pieces(slice(0, 7), 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert pieces(slice(4, 8), None) == [slice(4, 8)]
    assert pieces(slice(4, 8), 100) == [slice(4, 8)]


@pytest.mark.parametrize("autocast", ["float32", "bfloat16"])
def test_a_run_in_micro_batches_ends_where_the_whole_batches_end(make_arms, source, training, autocast):
    ends = []
    for size in (None, 3):
        arms = make_arms("bridge", "regressor")
        settings = training.model_copy(
            update={"micro_batch_sequences": size, "autocast": autocast, "optimizer": "muon"}
        )
        runs = train(arms, source, TRAIN, settings, 0, "layer 2")
        ends.append([runs[name].curve[-1]["loss"] for name in runs])
        assert all("out_of_memory" not in run.ledger.to_json() for run in runs.values())
    assert ends[0] == pytest.approx(ends[1], rel=1e-5 if autocast == "float32" else 5e-3)


class Hungry(Regressor):
    """A bridge on a device with room for `room` sequences, which fails as the device would."""

    room, seen = 4, ()

    def errors(self, batch, draws):
        self.seen = (*self.seen, len(batch.mask_BT))
        if len(batch.mask_BT) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().errors(batch, draws)


class Greedy(Regressor):
    """A bridge that asks the CPU for far more than there is while it sees more than two sequences."""

    def errors(self, batch, draws):
        if len(batch.mask_BT) > 2:
            torch.empty(2**55)
        return super().errors(batch, draws)


def make(kind, source, smoke, **facts):
    arm = kind(smoke.bridge, source.frame).eval()
    arm.load_state_dict(make_arm("regressor", smoke.bridge, source.frame, seed=0).state_dict())
    for name, value in facts.items():
        setattr(arm, name, value)
    return arm


@pytest.fixture
def eight(training):
    return training.model_copy(update={"batch_sequences": 8, "epochs": 1.0, "checkpoint_steps": 2})


def test_out_of_memory_halves_the_pieces_and_repeats_the_same_step(source, smoke, eight, caplog):
    plain, hungry = make(Regressor, source, smoke), make(Hungry, source, smoke, room=2)
    expected = train({"bridge": plain}, source, TRAIN, eight, 0, "layer 2")["bridge"]
    with caplog.at_level(logging.WARNING):
        found = train({"bridge": hungry}, source, TRAIN, eight, 0, "layer 2")["bridge"]
    assert hungry.seen[:7] == (8, 4, 2, 2, 2, 2, 2)
    assert 8 not in hungry.seen[1:]
    assert found.ledger.halvings == [{"step": 1, "from": 8, "to": 4}, {"step": 1, "from": 4, "to": 2}]
    assert found.ledger.to_json()["out_of_memory"] == found.ledger.halvings
    assert [point["loss"] for point in found.curve] == pytest.approx([p["loss"] for p in expected.curve], rel=1e-5)
    assert found.ledger.tokens == expected.ledger.tokens
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "layer 2, bridge at step 1 of 4: out of memory with 8 sequences at a time; the step is repeated with 4",
        "layer 2, bridge at step 1 of 4: out of memory with 4 sequences at a time; the step is repeated with 2",
    ]


def test_a_failure_of_the_cpu_allocator_is_met_the_same_way(source, smoke, eight):
    run = train({"bridge": make(Greedy, source, smoke)}, source, TRAIN, eight, 0, "layer 2")["bridge"]
    assert run.ledger.halvings[-1]["to"] == 2
    assert run.ledger.steps == 4


def test_one_sequence_that_does_not_fit_names_layer_step_and_what_to_lower(source, smoke, eight):
    arm = make(Hungry, source, smoke, room=0)
    with pytest.raises(
        ResourceError, match=r"layer 2, bridge at step 1 of 4: out of memory.*lower corpus\.window_tokens"
    ):
        train({"bridge": arm}, source, TRAIN, eight, 0, "layer 2")
    assert arm.seen == (8, 4, 2, 1)


def test_a_resumed_run_goes_on_with_the_pieces_that_fitted(source, smoke, eight, tmp_path, stop_at):
    Stopped, listener = stop_at

    def run(folder, **more):
        arm = make(Hungry, source, smoke, room=2)
        runs = train({"bridge": arm}, source, TRAIN, eight, 0, "layer 2", Checkpoints(tmp_path / folder), **more)
        return arm, runs["bridge"].ledger

    straight = run("straight")
    with pytest.raises(Stopped):
        run("stopped", progress=listener(4))
    resumed = run("stopped")
    assert max(resumed[0].seen) == 2
    assert resumed[1] == straight[1]
    for name, value in own_state(straight[0]).items():
        assert torch.equal(value, own_state(resumed[0])[name]), name


def test_other_errors_of_a_bridge_pass_through(source, smoke, eight):
    class Broken(Regressor):
        def errors(self, batch, draws):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train({"bridge": make(Broken, source, smoke)}, source, TRAIN, eight, 0, "layer 2")


def test_targets_that_do_not_fit_say_to_lower_the_batch(source, make_arms, training):
    class Full:
        def states(self, windows):
            return torch.empty(2**55)

        reading_ahead = source.targets.reading_ahead

    import dataclasses

    full = dataclasses.replace(source, targets=Full())
    with pytest.raises(ResourceError, match=r"layer 2: out of memory at step 1 of 9.*lower training\.batch_sequences"):
        train(make_arms("bridge"), full, TRAIN, training, 0, "layer 2")
