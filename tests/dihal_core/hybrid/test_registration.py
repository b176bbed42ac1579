"""`import dihal_core` is light, and transformers knows hybrids whichever of the two is imported first."""

import subprocess
import sys

import pytest

import dihal_core

CHECK = """
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("dihal", layer=3)
assert type(config).__name__ == "DiHALConfig" and config.layer == 3
assert type(config) in AutoModelForCausalLM._model_mapping
try:
    AutoModelForCausalLM.from_config(config)
except ValueError as error:
    assert "made of a trained bridge and its backbone" in str(error), error
else:
    raise AssertionError("an untrained hybrid was made")
import dihal_core
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
assert dihal_core.DiHALForCausalLM is DiHALForCausalLM
assert dihal_core.DiHALConfig is type(config)
print("known")
"""


@pytest.mark.parametrize(
    "first",
    [
        "from transformers import AutoConfig; import dihal_core",
        pytest.param("import dihal_core", marks=pytest.mark.slow),
        pytest.param("from transformers import AutoModelForCausalLM; import dihal_core", marks=pytest.mark.slow),
        pytest.param("from dihal_core.backbones.loading import load_backbone", marks=pytest.mark.slow),
        pytest.param("from dihal_core.hybrid.causal_lm import DiHALForCausalLM", marks=pytest.mark.slow),
    ],
)
def test_transformers_knows_hybrids_after_the_import(first):
    done = subprocess.run([sys.executable, "-c", f"{first}\n{CHECK}"], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "known", done.stderr[-2000:]


def test_commands_and_the_flows_import_no_torch():
    code = (
        "import sys, flows.cli, flows.cli_generate, dihal_core.study, dihal_core.hybrid.published\n"
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_names_are_missing_as_usual():
    with pytest.raises(AttributeError, match="no attribute 'DiHAL'"):
        dihal_core.DiHAL  # noqa: B018
