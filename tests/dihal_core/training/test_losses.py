import numpy as np
import pytest
import torch

from dihal_core.bridges.standardise import state_mask
from dihal_core.training.losses import objective_loss, validation_errors

VALIDATION = np.arange(30, 40)


def truth(source):
    """Hidden states that count, float64, the slow way: window by window."""
    rows = []
    for window in VALIDATION:
        states = source.targets.states(np.array([window]))[0].double()
        rows.append(states[1 : int(source.windows.lengths_N[window])])
    return torch.cat(rows)


def test_the_ridge_has_the_losses_of_their_definitions(make_arms, fitted):
    source, facts = fitted
    arms = make_arms("ridge", "skip")
    errors = validation_errors(arms, source, VALIDATION, facts, 4.0)
    hidden = truth(source)
    predicted = arms["ridge"].predict(source.embed(VALIDATION))
    predicted = predicted[state_mask(torch.from_numpy(source.windows.lengths_N[VALIDATION]).long(), 20)].double()
    scale, mean = source.frame.target.scale_D.double(), source.frame.target.mean_D.double()
    summary = errors.summary("ridge")
    fvu = ((predicted - hidden) / scale).square().sum() / ((hidden - mean) / scale).square().sum()
    assert summary["fvu"] == pytest.approx(float(fvu), rel=1e-5)
    assert summary["raw_mse"] == pytest.approx(float((predicted - hidden).square().mean()), rel=1e-5)
    relative = (predicted - hidden).square().sum() / (hidden - mean).square().sum()
    assert summary["relative_mse"] == pytest.approx(float(relative), rel=1e-5)
    assert errors.summary("skip")["fvu"] > summary["fvu"]


def test_documents_add_up_to_the_whole(make_arms, fitted):
    source, facts = fitted
    errors = validation_errors(make_arms("ridge"), source, VALIDATION, facts, 4.0)
    rows = errors.per_document("ridge")
    assert rows["document"] == sorted(set(source.windows.document_N[VALIDATION].tolist()))
    assert sum(rows["sse"]) / sum(rows["sst"]) == pytest.approx(errors.summary("ridge")["fvu"], rel=1e-9)


def test_outlier_tokens_are_those_above_the_ratio_and_can_be_left_out(make_arms, fitted):
    source, facts = fitted
    norms = truth(source).norm(dim=-1).numpy() / facts.median_norm
    ratio = float(np.quantile(norms, 0.9))
    errors = validation_errors(make_arms("ridge"), source, VALIDATION, facts, ratio)
    assert errors.outlier_N.mean() == pytest.approx((norms > ratio).mean())
    kept = ~errors.outlier_N
    rows = errors.arms["ridge"].standardised_N
    assert errors.summary("ridge")["fvu_without_outliers"] == pytest.approx(
        rows[kept].sum() / errors.variance_N[kept].sum()
    )
    none = validation_errors(make_arms("ridge"), source, VALIDATION, facts, 1e9).summary("ridge")
    assert none["fvu_without_outliers"] == none["fvu"]


def test_scaling_one_dimension_of_the_states_leaves_fvu_alone(make_arms, fitted):
    """FVU does not see the unit a layer is written in."""
    source, facts = fitted
    before = validation_errors(make_arms("ridge"), source, VALIDATION, facts, 4.0).summary("ridge")

    class Scaled:
        def states(self, windows):
            scaled = source.targets.states(windows).clone()
            scaled[..., 3] *= 64
            return scaled

    frame = source.frame
    frame.target.scale_D[3] *= 64
    frame.target.mean_D[3] *= 64
    facts.mean_D[3] *= 64
    from dataclasses import replace

    after = validation_errors(make_arms("ridge"), replace(source, targets=Scaled()), VALIDATION, facts, 4.0).summary(
        "ridge"
    )
    assert after["fvu"] == pytest.approx(before["fvu"], rel=1e-5)
    assert after["raw_mse"] > 5 * before["raw_mse"]


def test_the_objective_is_the_training_loss_on_validation(make_arms, fitted, smoke):
    source, facts = fitted
    arm = make_arms("regressor")["regressor"]
    loss = objective_loss(arm, source, VALIDATION, 0, None)
    errors = validation_errors({"regressor": arm}, source, VALIDATION, facts, 4.0)
    per_value = errors.arms["regressor"].standardised_N.mean() / source.frame.width
    assert loss == pytest.approx(float(per_value), rel=1e-4)


def test_the_bridge_objective_weighs_diffusion_and_reconstruction(make_arms, source):
    arm = make_arms("bridge")["bridge"]
    loss = objective_loss(arm, source, VALIDATION, 0, None)
    assert loss == objective_loss(arm, source, VALIDATION, 0, None)
    assert loss != objective_loss(arm, source, VALIDATION, 1, None)
    arm.settings = arm.settings.model_copy(update={"endpoint_probability": 1.0})
    regressor_like = objective_loss(arm, source, VALIDATION, 0, None)
    assert regressor_like == pytest.approx(loss, rel=0.2)


def test_each_direct_term_has_a_weight_of_its_own_in_the_reported_objective(make_arms, source):
    arm = make_arms("bridge")["bridge"]
    plain = arm.settings

    def loss(diffusion, reconstruction):
        weights = {"diffusion_weight": diffusion, "reconstruction_weight": reconstruction}
        arm.settings = plain.model_copy(update=weights)
        return objective_loss(arm, source, VALIDATION, 0, None)

    assert loss(3.0, 0.0) == pytest.approx(3 * loss(1.0, 0.0), rel=1e-12)
    assert loss(2.0, 5.0) == pytest.approx(2 * loss(1.0, 0.0) + 5 * loss(0.0, 1.0), rel=1e-12)
    assert arm.objective() == {"diffusion": 0.0, "reconstruction": 0.5, "next_token": 0.0, "distillation": 0.0}
    assert loss(1.0, 1.0) != loss(2.0, 1.0)
