import pytest
import torch

from dihal_core.bridges.ablation_arms import (
    ABLATION_ARMS,
    REFERENCE,
    RIDGE,
    ablation_units,
    chosen_arms,
    parse_unit,
    row_name,
)
from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.frame import Frame, TrainedArm
from dihal_core.config import AblationSettings, BridgeBase, MlpBridgeSettings, UnetBridgeSettings
from dihal_core.errors import ConfigError
from dihal_core.profiles import load_study


@pytest.mark.parametrize("name", ABLATION_ARMS)
def test_every_registered_arm_can_be_made_and_is_what_its_line_says(name):
    spec, study = ABLATION_ARMS[name], load_study("smoke")
    settings = spec.settings(study.bridge, study.ablation)
    arm = make_arm(spec.arm, settings, Frame(study.backbone.hidden_size, settings.ridge_tokens), seed=0)
    assert isinstance(arm, TrainedArm) == spec.trained
    embeddings = torch.randn(2, 6, study.backbone.hidden_size)
    walks = arm.predict(embeddings, steps=2) - arm.predict(embeddings, steps=1)
    assert spec.diffusion or not walks.any()
    assert parse_unit(f"{name}-s3") == (name, 3)


def test_what_all_rows_are_compared_with_is_registered():
    assert ABLATION_ARMS[REFERENCE].diffusion
    assert not ABLATION_ARMS[RIDGE].trained
    assert row_name(REFERENCE, 4) == f"{REFERENCE}@4"
    assert row_name(RIDGE, 1) == RIDGE


def test_trained_arms_have_a_unit_per_seed_and_a_seed_is_finished_before_the_next():
    units = ablation_units(AblationSettings(arms=("unet", "mlp", "ridge-3"), seeds=2))
    assert units == ("ridge-3-s0", "mlp-s0", "unet-s0", "mlp-s1", "unet-s1")


def test_arms_share_what_all_bridges_share_whatever_the_study_trains():
    ablation = AblationSettings()
    mlp = MlpBridgeSettings(clip_sd=7.0, context_width=64, distillation_weight=0.5)
    unet = ABLATION_ARMS["unet"].settings(mlp, ablation)
    assert isinstance(unet, UnetBridgeSettings)
    assert unet.block_channels == ablation.unet.block_channels
    assert all(getattr(unet, name) == getattr(mlp, name) for name in BridgeBase.model_fields)
    own = UnetBridgeSettings(clip_sd=5.0)
    assert ABLATION_ARMS["unet"].settings(own, ablation) is own
    assert ABLATION_ARMS["mlp"].settings(own, ablation) == MlpBridgeSettings(clip_sd=5.0)
    assert ABLATION_ARMS["ridge-1"].settings(own, ablation).ridge_tokens == 1


def test_unknown_arms_and_units_are_named():
    with pytest.raises(ConfigError, match=r"'unnet' \(did you mean 'unet'\?\)"):
        chosen_arms(AblationSettings(arms=("mlp", "unnet")))
    for unit in ("mlp", "mlp-sx", "what-s0"):
        with pytest.raises(ConfigError, match="is no unit of the comparison"):
            parse_unit(unit)


def test_one_value_of_the_budget_or_the_unet_can_be_set_alone():
    study = load_study(
        "quickstart", overrides={"ablation.training.max_steps": 7, "ablation.unet.block_channels": [16, 32]}
    )
    assert (study.ablation.training.max_steps, study.ablation.training.epochs) == (7, 1.0)
    assert (study.ablation.unet.block_channels, study.ablation.unet.latent_channels) == ((16, 32), 36)
    with pytest.raises(ConfigError, match=r"ablation\.layer 30 is outside 1\.\.29"):
        load_study("quickstart", overrides={"ablation.layer": 30})
    with pytest.raises(ConfigError, match=r"ablation\.num_sequences 9000 exceeds corpus\.num_sequences 6000"):
        load_study("quickstart", overrides={"ablation.num_sequences": 9000})
