"""Continuing texts with a hybrid: what `dihal generate` does, in one call."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dihal_core.backbones.tokenizers import load_tokenizer, quiet_transformers
from dihal_core.errors import ArtifactError, ConfigError
from dihal_core.hybrid.assemble import hybrid_of_store
from dihal_core.hybrid.causal_lm import DiHALForCausalLM
from dihal_core.hybrid.checkpoint import load_hybrid
from dihal_core.hybrid.published import sweep_arms
from dihal_core.hybrid.sources import asset_records
from dihal_core.hybrid.tokenizer import hybrid_tokenizer, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_SAMPLING_STEPS = 1000


def open_hybrid(folder: Path, home: Path | None = None) -> tuple[DiHALForCausalLM, "PreTrainedTokenizerFast"]:
    """Return model and tokenizer of a saved hybrid.

    Raises
    ------
    ArtifactError
        If either is unreadable.
    """
    from transformers import PreTrainedTokenizerFast

    with quiet_transformers():
        model = load_hybrid(folder, home=home)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except Exception as error:
            raise ArtifactError(
                f"the tokenizer in {folder} is missing or unreadable ({type(error).__name__}: {str(error)[:160]}); copy "
                "it from the study's hybrid folder"
            ) from error
    return model, tokenizer


def open_layer(study: Path, layer: int) -> tuple[DiHALForCausalLM, "PreTrainedTokenizerFast"]:
    """Return the hybrid of the bridge that a study's sweep trained at `layer`, with its tokenizer."""
    settings, arms = sweep_arms(study, layer)
    backbone = settings.backbone
    assets = asset_records(backbone, (study.parent.parent,)) if backbone.source == "asset" else {}
    with quiet_transformers():
        tokenizer = load_tokenizer(backbone, assets)
        model = hybrid_of_store(arms, layer, settings, assets, tokens_of(tokenizer, backbone))
    return model, hybrid_tokenizer(tokenizer, backbone)


def continue_texts(
    model: DiHALForCausalLM,
    tokenizer: "PreTrainedTokenizerFast",
    prompts: Sequence[str],
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    sampling_steps: int | None = None,
) -> list[str]:
    """Return prompt and continuation of each text.

    Parameters
    ----------
    temperature
        0 takes the most likely token; above, tokens are drawn.
    seed
        Of the drawn tokens.
    sampling_steps
        Of the bridge; the model's own by default.

    Raises
    ------
    ConfigError
        If a number is out of bounds or a prompt leaves no room.
    """
    check_request(max_new_tokens, temperature, sampling_steps)
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, split_special_tokens=True)
    room = model.config.max_position_embeddings
    longest = int(encoded["attention_mask"].sum(dim=1).max())
    if room is not None and longest + max_new_tokens > room:
        raise ConfigError(
            f"the longest prompt has {longest} tokens and {max_new_tokens} are to follow, but the model's context holds "
            f"{room}; shorten the prompt or lower max_new_tokens"
        )
    options: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    torch.manual_seed(seed)
    generator: Any = model  # the mixin's own protocol does not admit its classes
    with quiet_transformers():
        tokens_BT = generator.generate(
            **encoded.to(model.device),
            max_new_tokens=max_new_tokens,
            sampling_steps=sampling_steps,
            **{"do_sample": False, **options},
        )
    return tokenizer.batch_decode(tokens_BT, skip_special_tokens=True)


def beyond_training(
    model: DiHALForCausalLM, tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], max_new_tokens: int
) -> str | None:
    """Return a line that says how far a continuation would leave the positions the bridge was trained on, or None.

    Tokens are counted with the separator in front; the last new one is never an input, so it takes no position.
    """
    trained = model.config.window_tokens
    encoded = tokenizer(list(prompts), split_special_tokens=True)
    longest = max(map(len, encoded["input_ids"]))
    if trained is None or longest + max_new_tokens - 1 <= trained:
        return None
    within = f"; max_new_tokens {trained + 1 - longest} stays within them" if longest <= trained else ""
    return (
        f"note: a prompt of {longest} tokens and up to {max_new_tokens} new ones reach position "
        f"{longest + max_new_tokens - 1}; the bridge was trained on the first {trained} (corpus.window_tokens), and its "
        f"quality beyond them was not measured{within}"
    )


def check_request(max_new_tokens: int, temperature: float, sampling_steps: int | None) -> None:
    """Raise `ConfigError` for a number out of bounds."""
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens {max_new_tokens} is below 1; ask for at least one token")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature {temperature} is not a number from 0 (most likely token) upwards")
    if sampling_steps is not None and not 1 <= sampling_steps <= MAX_SAMPLING_STEPS:
        raise ConfigError(
            f"sampling_steps {sampling_steps} is outside 1..{MAX_SAMPLING_STEPS}; 1 is the deterministic call"
        )
