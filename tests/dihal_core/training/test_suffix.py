import dataclasses

import numpy as np
import pytest
import torch

from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.unet import UnetBridge
from dihal_core.config import UnetBridgeSettings
from dihal_core.evaluation.likelihood import suffix_metrics
from dihal_core.training.loop import train
from dihal_core.training.losses import objective_loss
from dihal_core.training.suffix import SuffixObjective

LAYER = 2
WINDOWS = np.arange(6)


def objective(source, next_token=1.0, distillation=1.0, windows=6):
    return SuffixObjective(source, LAYER, next_token, distillation, windows)


def test_the_terms_are_those_of_the_evaluation(source, make_arms):
    arm = make_arms("bridge")["bridge"]
    batch = source.load(WINDOWS)
    next_token, distillation = objective(source).terms(arm, batch, WINDOWS, torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(source.windows.tokens_NT[WINDOWS]).long()
    lengths = torch.from_numpy(source.windows.lengths_N[WINDOWS]).long()
    hidden = arm.predict(source.embed(WINDOWS))
    measured = suffix_metrics(source.backbone, LAYER, hidden, tokens, lengths, source.backbone.final(tokens))
    assert float(next_token.detach()) == pytest.approx(measured.mean("nll"), rel=1e-3)
    assert float(distillation.detach()) == pytest.approx(measured.mean("kl"), rel=1e-2, abs=1e-6)


def test_gradients_reach_the_arm_and_nothing_of_the_teacher(source, make_arms):
    arm = make_arms("regressor")["regressor"].requires_grad_(True)
    batch = source.load(WINDOWS)
    objective(source).loss(arm, batch, WINDOWS, torch.Generator().manual_seed(0)).backward()
    assert float(arm.denoiser.out.weight.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in source.backbone.model.parameters())


def test_training_on_distillation_lowers_the_divergence(source, make_arms, training):
    settings = training.model_copy(update={"epochs": 6.0})
    arms = {name: make_arms("bridge")["bridge"] for name in ("plain", "distilled")}
    strong = objective(source, next_token=0.0, distillation=200.0, windows=4)
    before = _divergence(arms["distilled"], source)
    train({"bridge": arms["plain"]}, source, np.arange(30), settings, 0, "layer 2")
    train({"bridge": arms["distilled"]}, source, np.arange(30), settings, 0, "layer 2", suffix=strong)
    assert _divergence(arms["distilled"], source) < before
    assert _divergence(arms["distilled"], source) < _divergence(arms["plain"], source)


def _divergence(arm, source):
    with torch.no_grad():
        batch = source.load(WINDOWS)
        return float(objective(source).terms(arm, batch, WINDOWS, torch.Generator().manual_seed(0))[1])


UNET = {
    "latent_channels": 2, "latent_side": 4, "block_channels": (8,), "layers_per_block": 1, "attention_heads": 2,
    "norm_groups": 4, "cross_attention_width": 16, "context_width": 32, "context_heads": 4,
}  # fmt: skip


@pytest.mark.parametrize("positions", [1, 3, None])
def test_the_losses_are_means_over_the_tokens_that_drawn_states_reach_with_true_states_elsewhere(source, positions):
    source = dataclasses.replace(source, clip_sd=0.2)  # a clipped target is no state of the model
    arm = make_arm(
        "bridge", UnetBridgeSettings(**UNET, start="ridge", positions_per_sequence=positions), source.frame, 0
    )
    batch, tokens = source.load(WINDOWS), torch.from_numpy(source.windows.tokens_NT[WINDOWS]).long()
    lengths = torch.from_numpy(source.windows.lengths_N[WINDOWS]).long()
    terms = objective(source).terms(arm, batch, WINDOWS, torch.Generator().manual_seed(0))
    drawn = ~arm.draw_once(batch.mask_BT, torch.Generator().manual_seed(0)).t_BT.isnan()
    predicted = arm.predict(source.embed(WINDOWS))
    hidden = torch.where(drawn[..., None], predicted, source.targets.states(WINDOWS).float())
    hidden[:, 0] = source.frame.sink_D
    measured = suffix_metrics(source.backbone, LAYER, hidden, tokens, lengths, source.backbone.final(tokens))
    position = np.arange(tokens.shape[1])
    reached = measured.mask_BT & (position >= drawn.int().argmax(dim=1).numpy()[:, None])
    assert reached.sum() < measured.tokens or positions is None
    for found, columns in zip(terms, (measured.nll_BT, measured.kl_BT), strict=True):
        assert float(found.detach()) == pytest.approx(columns[reached].sum() / reached.sum(), rel=2e-3, abs=1e-6)
    assert np.abs(measured.kl_BT[measured.mask_BT & ~reached]).max(initial=0) < 1e-5


def test_a_state_that_no_scored_token_follows_adds_nothing(source):
    class Last(UnetBridge):
        def choose(self, mask_BT, generator):
            last_B1 = mask_BT.int().cumsum(dim=1).argmax(dim=1, keepdim=True)
            return torch.zeros_like(mask_BT).scatter(1, last_B1, True)

    arm = Last(UnetBridgeSettings(**UNET, positions_per_sequence=1), source.frame).requires_grad_(True)
    loss = objective(source).loss(arm, source.load(WINDOWS), WINDOWS, torch.Generator().manual_seed(0))
    assert float(loss.detach()) == 0.0
    loss.backward()


def test_positions_that_were_not_drawn_keep_the_true_state(source):
    arm = make_arm("bridge", UnetBridgeSettings(**UNET, positions_per_sequence=1), source.frame, seed=0)
    batch = source.load(WINDOWS)
    draws = arm.draw_once(batch.mask_BT, torch.Generator().manual_seed(0))
    estimate = arm.estimate_once(batch, draws)
    differs = (estimate != batch.target_BTD).any(dim=-1)
    assert differs.sum(dim=1).tolist() == [1] * len(WINDOWS)
    assert not (differs & ~batch.mask_BT).any()


def test_the_reported_objective_holds_the_terms_through_the_suffix(source, make_arms):
    arm = make_arms("bridge")["bridge"]
    plain = objective_loss(arm, source, WINDOWS, 0, None)
    whole = objective_loss(arm, source, WINDOWS, 0, None, objective(source, 0.5, 0.0))
    tokens_loss = float(
        objective(source).terms(arm, source.load(WINDOWS), WINDOWS, torch.Generator().manual_seed(0))[0]
    )
    assert whole == pytest.approx(plain + 0.5 * tokens_loss, rel=1e-4)


def test_without_weights_there_is_no_such_objective(source, smoke):
    assert SuffixObjective.of(source, LAYER, smoke.bridge) is None
    weighted = smoke.bridge.model_copy(update={"distillation_weight": 0.5})
    assert SuffixObjective.of(source, LAYER, weighted).distillation == 0.5
