"""The science of DiHAL Studio: where should diffusion enter a language model? Knows no orchestrator.

After `import dihal_core`, `AutoModelForCausalLM.from_pretrained(folder)` loads a hybrid that a study saved,
and `dihal_core.DiHALForCausalLM` is the same class by name. Importing the package loads neither torch nor
transformers.
"""

from typing import Any

from dihal_core.hybrid.registration import register_when_imported

register_when_imported()


def __getattr__(name: str) -> Any:
    if name == "DiHALForCausalLM":
        from dihal_core.hybrid.causal_lm import DiHALForCausalLM

        return DiHALForCausalLM
    if name == "DiHALConfig":
        from dihal_core.hybrid.configuration import DiHALConfig

        return DiHALConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
