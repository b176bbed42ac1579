"""What a saved hybrid says about itself: `config.json`. Imports transformers' configuration base alone.

Weights of the bridge lie beside it; the backbone is named here by source, identifier, revision and the
digest of its weights, or lies in the subfolder `backbone` of a merged copy.
"""

from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig


class DiHALConfig(PreTrainedConfig):
    """Configuration of `DiHALForCausalLM`.

    Attributes
    ----------
    layer : int
        Blocks 1..layer of the backbone are replaced.
    arm : str
        What replaces them: bridge, or a control (regressor, ridge, skip).
    bridge_settings : dict
        `BridgeSettings` as JSON.
    bridge_structure : dict or None
        Of a `unet` bridge: source and configuration of its UNet; source, configuration and digest of its VAE, and
        whether a copy lies in the saved folder.
    backbone_reference : dict
        `BackboneSettings` as JSON; a relative `identifier` of source folder lies inside the saved folder.
    backbone_seed : int
        Root seed of random weights (source random; tests).
    backbone_sha256, bridge_sha256 : str
        Digest of the backbone's weights, and of `model.safetensors`; both are checked on loading.
    sampling_steps : int
        Sampler steps of the bridge unless a call says otherwise.
    noise_seed : int
        Root of the bridge's noise; with one step there is none.
    window_tokens : int
        Positions the bridge was trained on; beyond them its quality is unmeasured.
    separator_token_id : int
        Token in front of every input: the state of position 0 is a stored constant that belongs to it.
    """

    model_type = "dihal"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    layer: int = 1
    arm: str = "bridge"
    bridge_settings: dict[str, Any] | None = None
    bridge_structure: dict[str, Any] | None = None
    backbone_reference: dict[str, Any] | None = None
    backbone_seed: int = 0
    backbone_sha256: str | None = None
    bridge_sha256: str | None = None
    sampling_steps: int = 1
    noise_seed: int = 0
    window_tokens: int | None = None
    separator_token_id: int = 0
    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
