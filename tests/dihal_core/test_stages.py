import pytest

from dihal_core.errors import ConfigError
from dihal_core.stages import STAGES, check_stages


def test_every_input_of_a_stage_is_an_earlier_stage():
    names = list(STAGES)
    for position, stage in enumerate(STAGES.values()):
        assert set(stage.inputs) | set(stage.after) <= set(names[:position])


def test_the_sealed_score_is_no_input_of_the_sweep_and_the_sweep_none_of_the_score():
    assert "sweep" not in STAGES["score"].inputs
    assert "score" not in STAGES["sweep"].inputs
    assert "sweep" not in STAGES["replace"].inputs


def test_an_unknown_stage_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"unknown stage 'swep' \(did you mean 'sweep'\?\)"):
        check_stages(["corpus", "swep"])
