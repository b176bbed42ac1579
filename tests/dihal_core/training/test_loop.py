import numpy as np
import pytest
import torch

from dihal_core.bridges.arms import make_arm, own_state
from dihal_core.errors import NumericsError
from dihal_core.progress import StopRequested
from dihal_core.training.checkpoints import Checkpoints
from dihal_core.training.loop import train
from dihal_core.training.losses import validation_errors

TRAIN = np.arange(30)


def weights(arms):
    return {f"{name}/{key}": value for name, arm in arms.items() for key, value in own_state(arm).items()}


def assert_equal_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("optimizer", "ema_decay"), [("muon", None), ("adamw", None), ("adamw", 0.9)])
@pytest.mark.parametrize("stop", [1, 3, 4, 7, 9])
def test_resumed_equals_uninterrupted(make_arms, source, training, tmp_path, stop_at, optimizer, ema_decay, stop):
    Stopped, listener = stop_at
    settings = training.model_copy(update={"optimizer": optimizer, "ema_decay": ema_decay})

    def run(folder, **more):
        arms = make_arms("bridge", "regressor")
        observe = lambda: {name: {"norm": float(arm.denoiser.out.weight.detach().norm())} for name, arm in arms.items()}  # noqa: E731
        runs = train(
            arms, source, TRAIN, settings, 0, "layer 2", Checkpoints(tmp_path / folder), observe=observe, **more
        )
        return weights(arms), {name: (r.ledger, r.curve, r.observations) for name, r in runs.items()}

    straight = run("straight")
    with pytest.raises(Stopped):
        run("stopped", progress=listener(stop))
    resumed = run("stopped")
    assert_equal_bits(straight[0], resumed[0])
    assert straight[1] == resumed[1]
    assert [point["step"] for point in straight[1]["bridge"][2]] == [3, 6, 9]


def test_a_stop_request_saves_the_finished_steps_and_a_resume_ends_in_the_same_bits(
    make_arms, source, training, tmp_path
):
    straight = make_arms("bridge")
    train(straight, source, TRAIN, training, 0, "layer 2")

    def ask(done, total, unit):
        if done == 5:
            raise StopRequested

    with pytest.raises(StopRequested):
        train(make_arms("bridge"), source, TRAIN, training, 0, "layer 2", Checkpoints(tmp_path), ask)
    assert Checkpoints(tmp_path).load()[1]["done"] == 5  # the last regular checkpoint was at 3
    visited = []
    resumed = make_arms("bridge")
    train(resumed, source, TRAIN, training, 0, "layer 2", Checkpoints(tmp_path), lambda done, *_: visited.append(done))
    assert visited == [5, 6, 7, 8]
    assert_equal_bits(weights(straight), weights(resumed))


def test_an_arm_trains_the_same_alone_and_beside_another(make_arms, source, training):
    together, alone = make_arms("bridge", "regressor"), make_arms("regressor")
    train(together, source, TRAIN, training, 0, "layer 2")
    train(alone, source, TRAIN, training, 0, "layer 2")
    assert_equal_bits(weights(alone), {k: v for k, v in weights(together).items() if k.startswith("regressor")})


def test_the_kept_weights_are_the_average_over_the_steps(make_arms, source, training):
    plain, averaged = make_arms("bridge"), make_arms("bridge")
    weight, visited = plain["bridge"].denoiser.out.weight, []
    train(plain, source, TRAIN, training, 0, "x", progress=lambda *_: visited.append(weight.detach().clone()))
    visited.append(weight.detach().clone())
    expected = visited[0]
    for step, after in enumerate(visited[1:]):
        share = min(0.15, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * after
    train(averaged, source, TRAIN, training.model_copy(update={"ema_decay": 0.15}), 0, "x")
    assert torch.allclose(averaged["bridge"].denoiser.out.weight, expected, atol=1e-7)
    assert not torch.allclose(averaged["bridge"].denoiser.out.weight, weight, atol=1e-7)


def test_the_curve_shows_the_weights_that_are_kept_and_looking_moves_none(make_arms, source, training):
    settings = training.model_copy(update={"ema_decay": 0.9})
    arms, blind = make_arms("bridge"), make_arms("bridge")
    train(blind, source, TRAIN, settings, 0, "layer 2")
    seen = []

    def observe():
        seen.append({name: value.clone() for name, value in weights(arms).items()})
        return {}

    train(arms, source, TRAIN, settings, 0, "layer 2", observe=observe)
    assert_equal_bits(weights(arms), weights(blind))
    assert_equal_bits(weights(arms), seen[-1])


def test_another_seed_trains_another_model(make_arms, source, training):
    made = []
    for seed in (0, 1):
        arms = make_arms("bridge")
        train(arms, source, TRAIN, training, seed, "layer 2")
        made.append(arms["bridge"].denoiser.out.weight)
    assert not torch.equal(*made)


def test_training_improves_on_the_ridge_and_leaves_the_frame_alone(make_arms, fitted, training):
    source, facts = fitted
    arms = make_arms("bridge", "regressor", "ridge")
    frame = {name: value.clone() for name, value in source.frame.state_dict().items()}
    settings = training.model_copy(update={"epochs": 8.0, "learning_rate": 5e-3})
    learning = {name: arms[name] for name in ("bridge", "regressor")}
    runs = train(learning, source, TRAIN, settings, 0, "layer 2")
    errors = validation_errors(arms, source, TRAIN, facts, 4.0)
    fvu = {name: errors.summary(name)["fvu"] for name in arms}
    assert fvu["bridge"] < fvu["ridge"]
    assert fvu["regressor"] < fvu["ridge"]
    assert len(runs["bridge"].curve) == 60
    for name, value in source.frame.state_dict().items():
        assert torch.equal(value, frame[name]), name
    assert not any(p.requires_grad for arm in arms.values() for p in arm.parameters())


def test_curve_and_ledger_count_the_states_that_entered_the_loss(make_arms, source, training):
    runs = train(make_arms("bridge"), source, TRAIN, training, 0, "layer 2")
    run = runs["bridge"]
    assert run.ledger.steps == 9
    assert [point["step"] for point in run.curve] == list(range(1, 10))
    assert run.curve[-1]["tokens"] == run.ledger.tokens
    one_pass = int((source.windows.lengths_N[:30] - 1).sum())
    assert one_pass < run.ledger.tokens < 1.4 * one_pass


def test_a_diverging_loss_names_layer_arm_and_step_and_keeps_the_checkpoint(make_arms, source, training, tmp_path):
    arms = make_arms("bridge")

    def poison(done, total, unit):
        if done == 4:
            with torch.no_grad():
                arms["bridge"].denoiser.out.bias[0] = float("nan")

    with pytest.raises(
        NumericsError, match="layer 2, bridge: loss is nan at step 5 of 9.*checkpoint of step 3 is kept"
    ):
        train(arms, source, TRAIN, training, 0, "layer 2", Checkpoints(tmp_path), poison)
    tensors, facts = Checkpoints(tmp_path).load()
    assert facts["done"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_bfloat16_autocast_trains_to_about_the_same_loss(make_arms, source, training):
    ends = []
    for autocast in ("float32", "bfloat16"):
        runs = train(
            make_arms("bridge"), source, TRAIN, training.model_copy(update={"autocast": autocast}), 0, "layer 2"
        )
        ends.append(runs["bridge"].curve[-1]["loss"])
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


@pytest.mark.parametrize(("autocast", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_autocast_is_of_the_products_alone(make_arms, source, training, autocast, dtype):
    arm, products = make_arms("bridge")["bridge"], set()
    arm.context.enter.register_forward_hook(lambda module, given, out: products.add(out.dtype))
    settings = training.model_copy(update={"autocast": autocast, "epochs": 0.2})
    runs = train({"bridge": arm}, source, TRAIN, settings, 0, "layer 2")
    assert products == {dtype}
    assert {parameter.dtype for parameter in arm.parameters()} == {torch.float32}
    state = runs["bridge"].optimizers.state()
    assert {value.dtype for name, value in state.items() if not name.endswith("|step")} == {torch.float32}


def test_weights_that_left_the_numbers_never_replace_the_last_good_checkpoint(make_arms, source, training, tmp_path):
    """The loss was finite, the update was not: observed at step 6, before that checkpoint is written."""
    arms, calls = make_arms("bridge"), []

    def observe():
        calls.append(1)
        if len(calls) == 2:
            arms["bridge"].denoiser.out.bias.data[0] = float("inf")
        return {}

    message = "layer 2, bridge: after step 6: weight denoiser.out.bias is not finite.*checkpoint of step 3 is kept"
    with pytest.raises(NumericsError, match=message):
        train(arms, source, TRAIN, training, 0, "layer 2", Checkpoints(tmp_path), observe=observe)
    assert Checkpoints(tmp_path).load()[1]["done"] == 3


def test_a_last_step_that_diverges_is_no_result(make_arms, source, training):
    arms, calls = make_arms("bridge"), []

    def observe():
        calls.append(1)
        if len(calls) == 3:
            arms["bridge"].denoiser.out.bias.data[0] = float("nan")
        return {}

    with pytest.raises(
        NumericsError, match="after step 9: weight denoiser.out.bias is not finite.*keeps no checkpoints"
    ):
        train(arms, source, TRAIN, training, 0, "layer 2", observe=observe)


@pytest.mark.parametrize("other", ["arms", "sizes", "fields"])
def test_a_checkpoint_that_does_not_fit_is_set_aside_and_said(
    make_arms, source, smoke, training, tmp_path, other, caplog
):
    settings = training.model_copy(update={"epochs": 0.8})
    fresh = make_arms("bridge")
    train(fresh, source, TRAIN, settings, 0, "layer 2")
    straight = weights(fresh)
    checkpoints = Checkpoints(tmp_path)
    if other == "arms":
        train(make_arms("regressor"), source, TRAIN, settings, 0, "layer 2", checkpoints)
    elif other == "sizes":
        wider = make_arm("bridge", smoke.bridge.model_copy(update={"width": 24}), source.frame, seed=0)
        train({"bridge": wider}, source, TRAIN, settings, 0, "layer 2", checkpoints)
    else:
        train(make_arms("bridge"), source, TRAIN, settings, 0, "layer 2", checkpoints)
        tensors, facts = checkpoints.load()
        del facts["runs"]["bridge"]["ledger"]["tokens"]
        checkpoints.save(tensors, facts)
    arms = make_arms("bridge")
    runs = train(arms, source, TRAIN, settings, 0, "layer 2", checkpoints)
    assert "does not fit" in caplog.text
    assert runs["bridge"].ledger.steps == 6
    assert_equal_bits(weights(arms), straight)
