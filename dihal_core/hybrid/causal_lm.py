"""`DiHALForCausalLM`: a Hugging Face causal LM whose first blocks are a bridge.

Letters: B rows, T columns of the call, D hidden size, V vocabulary, S columns with those in the cache.

tokens -> embedding of the backbone (state 0) -> bridge -> state `layer` -> untouched blocks after it ->
final norm -> head. The first token of every row is the separator: the state of position 0 is a stored
constant that belongs to it (`dihal_core.bridges.standardise`).

Noise. With one sampling step (the default) the bridge draws none. With more, its noise is a function of
(`config.noise_seed`, sampler step, position in the row) and of nothing else: the same in every row, in
every batch, with and without a cache, so that a continuation depends on its prompt alone. Sampling of
tokens (`do_sample`) is transformers' and follows torch's own seed.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from dihal_core.backbones.backbone import Backbone
from dihal_core.bridges.frame import Arm
from dihal_core.bridges.streams import open_stream
from dihal_core.errors import ConfigError
from dihal_core.hybrid.cache import HybridCache
from dihal_core.hybrid.configuration import DiHALConfig
from dihal_core.hybrid.entrance import Entrance

IGNORED_LABEL = -100


class DiHALForCausalLM(PreTrainedModel, GenerationMixin):
    """A backbone whose blocks 1..layer are replaced by an arm; frozen, for inference and evaluation.

    Parameters
    ----------
    config
        From `dihal_core.hybrid.assemble` or a saved hybrid.
    backbone, arm
        The frozen decoder, which the model owns from now on, and what replaces its first blocks.

    Raises
    ------
    ConfigError
        Without backbone or arm (there is no untrained hybrid), or if the layer lies outside 1..L-1.
    """

    config_class = DiHALConfig
    base_model_prefix = "blocks"
    main_input_name = "input_ids"

    def __init__(self, config: DiHALConfig, backbone: Backbone | None = None, arm: Arm | None = None):
        super().__init__(config)
        if backbone is None or arm is None:
            raise ConfigError(
                "a hybrid is made of a trained bridge and its backbone; use DiHALForCausalLM.from_pretrained(folder), "
                "or give both as backbone= and arm="
            )
        require_hybrid_layer(config.layer, backbone)
        self.blocks = backbone.model
        self.arm = arm.eval().requires_grad_(False)
        self.embedder, self.suffix = backbone.parts(config.layer)
        self._backbone = backbone
        self._entrance = Entrance(config, backbone, self.arm, self.embedder)
        self.generation_config = GenerationConfig(
            bos_token_id=config.separator_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        self.post_init()
        self.eval()

    def init_weights(self) -> None:
        """Draw nothing: all weights are given."""

    @property
    def backbone(self) -> Backbone:
        """The whole backbone, replaced blocks included: the teacher."""
        return self._backbone

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the backbone's token embedding."""
        return self.blocks.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the backbone's head."""
        return self.blocks.get_output_embeddings()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes its own cache, which also holds the bridge's state

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        sampling_steps: int | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits (B, T, V) in the backbone's dtype, and the loss if there are labels.

        Parameters
        ----------
        input_ids : LongTensor of shape (B, T)
            Rows that start with the separator (after padding); with a cache, the columns that follow it.
        attention_mask : Tensor of shape (B, S), optional
            1 for tokens, 0 for padding on the left, or on the right where no cache is used.
        past_key_values : HybridCache, optional
            From an earlier call.
        labels : LongTensor of shape (B, T), optional
            Shifted inside; -100 is not scored. The loss is the mean NLL in nats; nothing has a gradient.
        sampling_steps : int, optional
            Steps of the bridge's sampler; `config.sampling_steps` by default. A cache keeps its own.

        Raises
        ------
        ConfigError
            If a row does not start with the separator, the mask has gaps, or the cache is not a hybrid's.
        """
        T = self._check_input(input_ids, past_key_values, sampling_steps)
        steps = self.config.sampling_steps if sampling_steps is None else sampling_steps
        input_ids = input_ids.to(device=self._backbone.device, dtype=torch.long)
        attention_mask = None if attention_mask is None else attention_mask.to(self._backbone.device)
        if past_key_values is None and not use_cache:
            hidden_BTD, rows, mask_BS = self._entrance.whole(input_ids, attention_mask, steps)
            cache, positions_BT = None, rows.positions(T) if rows is not None else None
        else:
            cache = past_key_values
            if cache is None:
                cache = HybridCache(self.suffix.config, open_stream(self.arm, steps, self.config.noise_seed))
            hidden_BTD, mask_BS, positions_BT = self._entrance.following(input_ids, attention_mask, cache)
        final_BTD = self.suffix(
            inputs_embeds=hidden_BTD.to(device=self._backbone.device, dtype=self._backbone.dtype),
            attention_mask=mask_BS,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        kept = logits_to_keep if isinstance(logits_to_keep, Tensor) else kept
        logits_BTV = self._backbone.logits(final_BTD[:, kept])
        loss = None if labels is None else shifted_loss(logits_BTV, labels)
        output = CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=cache)
        return output.to_tuple() if return_dict is False else output

    def _check_input(self, input_ids: Tensor, past: HybridCache | None, sampling_steps: int | None) -> int:
        if input_ids is None or input_ids.ndim != 2 or 0 in input_ids.shape:
            shape = None if input_ids is None else tuple(input_ids.shape)
            raise ConfigError(f"input_ids has shape {shape}; give (rows, tokens), at least one of each")
        if sampling_steps is not None and type(sampling_steps) is not int:
            raise ConfigError(f"sampling_steps {sampling_steps!r} is no whole number; 1 is the deterministic call")
        if past is not None and not isinstance(past, HybridCache):
            raise ConfigError(
                f"past_key_values is a {type(past).__name__}, which has no room for the bridge's state; pass the object "
                "that the previous call returned, or None"
            )
        if past is not None and sampling_steps not in (None, past.stream.steps):
            raise ConfigError(
                f"sampling_steps {sampling_steps} differs from the {past.stream.steps} this cache was started with; "
                "start a new one"
            )
        return input_ids.shape[1]

    def save_pretrained(self, save_directory: str | os.PathLike[str], merged: bool = False, **options: Any) -> None:
        """Write config, bridge weights (safetensors) and the reference to the backbone, or a merged copy.

        See `dihal_core.hybrid.checkpoint.save_hybrid`.
        """
        from dihal_core.hybrid.checkpoint import refuse_options, save_hybrid

        refuse_options(options, "save_pretrained", SAVE_OPTIONS)
        save_hybrid(self, Path(save_directory), merged)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *_: Any, **options: Any
    ) -> "DiHALForCausalLM":
        """Load a saved hybrid from a folder or the hub. See `dihal_core.hybrid.checkpoint.load_hybrid`."""
        from dihal_core.hybrid.checkpoint import load_hybrid

        return load_hybrid(pretrained_model_name_or_path, **options)


SAVE_OPTIONS = frozenset({"max_shard_size", "safe_serialization", "is_main_process"})
"""Options of `save_pretrained` that change nothing here: one safetensors file is always written."""


def require_hybrid_layer(layer: Any, backbone: Backbone) -> None:
    """Raise `ConfigError` unless blocks 1..layer can be replaced."""
    if not isinstance(layer, int) or not 1 <= layer < backbone.num_layers:
        raise ConfigError(
            f"layer {layer!r} is outside 1..{backbone.num_layers - 1} of {backbone.name}; choose a block index: 0 is "
            f"the embedding output, {backbone.num_layers} the last block, neither can be replaced"
        )


def shifted_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the mean NLL in nats of labels 1..T-1 under logits 0..T-2, labels of -100 left out.

    Raises
    ------
    ConfigError
        If the shapes differ or no label is scored.
    """
    if logits_BTV.shape[:2] != labels_BT.shape:
        raise ConfigError(
            f"labels of shape {tuple(labels_BT.shape)} do not fit logits of {tuple(logits_BTV.shape[:2])}; "
            "give one label per token and leave logits_to_keep out"
        )
    target_N = labels_BT[:, 1:].to(logits_BTV.device).reshape(-1)
    if not bool((target_N != IGNORED_LABEL).any()):
        raise ConfigError("no label after the first is scored; give at least one that is not -100")
    return F.cross_entropy(logits_BTV[:, :-1].float().flatten(0, 1), target_N, ignore_index=IGNORED_LABEL)
