"""A backbone named by its hub id alone: its settings from config.json and tokenizer_config.json. Imports no torch itself.

Only these two files are fetched, into Hugging Face's cache; the weights come when the study needs them.
`$HF_ENDPOINT` names a mirror, `$HF_TOKEN` opens gated models.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from dihal_core.errors import ConfigError, NetworkError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
SEPARATOR = "<|endoftext|>"
"""The pretraining separator of most families; in a tokenizer that lacks it documents are parted by bos, or eos (ours)."""
TIMEOUT_S = 10.0
HOW_TO_ADD = (
    "a preset is a table in dihal_core/profiles/backbones.toml, a family one line in dihal_core/backbones/registry.py"
)


def is_hub_id(name: str) -> bool:
    """Say whether `name` has the form organisation/model."""
    return HUB_ID.fullmatch(name) is not None


def hub_config(identifier: str, presets: str) -> tuple[dict[str, Any], str]:
    """Return config.json of a hub model whose family is supported, and its pretraining separator.

    Parameters
    ----------
    identifier : str
        Hub id, organisation/model.
    presets : str
        What to offer instead, for messages.

    Raises
    ------
    ConfigError
        If the hub knows no such model, it has no config.json, or its family is not supported.
    NetworkError
        If the hub does not answer and the files were not downloaded before.
    """
    path = _fetched(identifier, "config.json", presets)
    if path is None:
        raise ConfigError(
            f"hub model {identifier!r} has no config.json (a GGUF or adapter repository?); give the id of a repository "
            f"with config.json and safetensors, or one of {presets}"
        )
    config = _json(path, identifier)
    family = str((config.get("text_config") or config).get("model_type"))
    from dihal_core.backbones.registry import FAMILIES  # torch, which only this case needs

    if family not in FAMILIES:
        raise ConfigError(
            f"hub model {identifier!r} is of family {family!r}, which is not supported; supported are "
            f"{', '.join(sorted(FAMILIES))}; choose such a model or a preset ({presets}); {HOW_TO_ADD}"
        )
    tokenizer = _fetched(identifier, "tokenizer_config.json", presets)
    return config, SEPARATOR if tokenizer is None else _separator(_json(tokenizer, identifier))


def _json(path: Path, identifier: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path.name} of hub model {identifier!r} is unreadable ({error}); give another model"
        ) from error
    return found


def _separator(tokenizer: dict[str, Any]) -> str:
    added = tokenizer.get("added_tokens_decoder") or {}
    if any((token or {}).get("content") == SEPARATOR for token in added.values()):
        return SEPARATOR
    for kind in ("bos_token", "eos_token"):
        token = tokenizer.get(kind)
        name = token.get("content") if isinstance(token, dict) else token
        if name:
            return str(name)
    return SEPARATOR


def _fetched(identifier: str, name: str, presets: str) -> Path | None:
    """Return a file of a hub model on this machine, None if the model has none of that name.

    What was downloaded before is taken, as for a preset (`pin_revision`).
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        cached = try_to_load_from_cache(identifier, name)
    except HFValidationError as error:
        raise ConfigError(
            f"{identifier!r} can be no hub id ({str(error).splitlines()[0]}); give organisation/model, or one of {presets}"
        ) from error
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None  # else it is known to have none
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        HfApi(endpoint=endpoint).model_info(identifier, timeout=TIMEOUT_S)  # fails at once; a download tries for long
        return Path(hf_hub_download(identifier, name, endpoint=endpoint, etag_timeout=TIMEOUT_S))
    except GatedRepoError as error:
        raise ConfigError(
            f"hub model {identifier!r} is gated; accept its terms on its page, then set HF_TOKEN where this runs, or "
            f"choose one of {presets}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{endpoint or 'the hub'} knows no model {identifier!r} (or hides it without HF_TOKEN), and no folder of "
            f"that name is here; correct it, or choose one of {presets}; {HOW_TO_ADD}"
        ) from error
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        reason: Exception = error
    except Exception as error:  # what the client raises for refused connections depends on its HTTP library
        reason = error
    raise NetworkError(
        f"{endpoint or 'the hub'} does not answer for {identifier!r} and {name} was not downloaded before "
        f"({_first_line(reason)}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or choose one of {presets}"
    ) from reason


def _first_line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines() or ["no details"]
    return f"{type(error.__cause__ or error).__name__}: {lines[0][:160]}"
