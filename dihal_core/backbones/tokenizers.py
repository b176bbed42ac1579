"""Tokenizers: the backbone's own, or bytes for random models."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dihal_core.backbones.sources import locate
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError, ConfigError, nearest
from dihal_core.store import StageRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTE_VOCABULARY = 258
"""256 bytes, the separator (256) and the pad token (257)."""

PAD_TOKEN = "<|pad|>"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars and advice of transformers while it loads files."""
    from transformers.utils import logging as transformers_logging

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


_lock = threading.Lock()
_loaded: dict[str, "PreTrainedTokenizerFast"] = {}


def load_tokenizer(backbone: BackboneSettings, assets: Mapping[str, StageRecord]) -> "PreTrainedTokenizerFast":
    """Return the fast tokenizer of `backbone`; the last one read is kept (a GGUF takes seconds), so change a copy.

    Encode with `add_special_tokens=False`: windows get their separator from `separator_id`.

    Parameters
    ----------
    backbone
        `tokenizer="bytes"` gives `byte_tokenizer`; otherwise the files of the backbone are read.
    assets
        Records of unpacked assets by name; used when `source="asset"`.

    Raises
    ------
    AssetError
        If the files are missing, unreadable or corrupt.
    ConfigError
        If a random backbone asks for its "own" tokenizer, or the tokenizer is not a fast one.
    """
    if backbone.tokenizer == "bytes":
        return byte_tokenizer(backbone)
    if backbone.source == "random":
        raise ConfigError(
            f"backbone {backbone.name!r} has random weights and no tokenizer of its own; set backbone.tokenizer=bytes"
        )
    if backbone.source != "asset" or backbone.identifier not in assets:
        return _read(backbone, assets)
    record = assets[backbone.identifier]
    key = json.dumps([backbone.model_dump(mode="json"), record.uri, record.digest], sort_keys=True)
    with _lock:
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = _read(backbone, assets)
        return _loaded[key]


def _read(backbone: BackboneSettings, assets: Mapping[str, StageRecord]) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer

    place = locate(backbone, assets)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place.where, **place.arguments)
    except Exception as error:
        raise AssetError(
            f"tokenizer of {place.label} could not be read ({type(error).__name__}: {_first_line(error)}); "
            "the file may be incomplete: remove it and run `dihal setup`, or fetch it again"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{place.label} has only a slow tokenizer; add a tokenizer.json to it")
    return tokenizer


def byte_tokenizer(backbone: BackboneSettings) -> "PreTrainedTokenizerFast":
    """Return a tokenizer whose ids 0..255 are UTF-8 bytes, 256 the separator, 257 the pad token.

    Raises
    ------
    ConfigError
        If the backbone's embedding has fewer rows than the tokenizer has tokens.
    """
    if backbone.vocab_size < BYTE_VOCABULARY:
        raise ConfigError(
            f"backbone.vocab_size {backbone.vocab_size} is too small for the byte tokenizer; "
            f"set it to {BYTE_VOCABULARY} or more"
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (backbone.separator_token, PAD_TOKEN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=backbone.separator_token,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def separator_id(tokenizer: "PreTrainedTokenizerFast", backbone: BackboneSettings) -> int:
    """Return the id of the document separator that stands in front of every window.

    Raises
    ------
    ConfigError
        If `backbone.separator_token` is not one token of the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    if backbone.separator_token not in vocabulary:
        special = sorted(str(token) for token in tokenizer.all_special_tokens)
        raise ConfigError(
            f"backbone.separator_token {backbone.separator_token!r} is not in the vocabulary of {backbone.name!r}"
            f"{nearest(backbone.separator_token, special)}; its special tokens are {', '.join(special)}"
        )
    return int(vocabulary[backbone.separator_token])


def pad_id(tokenizer: "PreTrainedTokenizerFast", backbone: BackboneSettings) -> int:
    """Return the id written behind short windows: the pad token if there is one, else the separator."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else separator_id(tokenizer, backbone)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0][:200]


def _byte_symbols() -> list[str]:
    """Return the printable stand-in of every byte that byte-level BPE uses (GPT-2's table), in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = (byte for byte in range(256) if byte not in printable)
    stand_in = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [stand_in[byte] for byte in range(256)]
