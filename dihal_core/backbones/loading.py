"""Loading a backbone: asset or local GGUF (dequantised), folder or hub (safetensors), or random weights."""

import contextlib
import functools
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import GgufConfig

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.placement import place
from dihal_core.backbones.registry import family_of
from dihal_core.backbones.sources import Location, locate
from dihal_core.backbones.tokenizers import quiet_transformers
from dihal_core.config import BackboneSettings
from dihal_core.errors import AssetError, ConfigError, NetworkError
from dihal_core.seeding import torch_seed
from dihal_core.store import StageRecord

log = logging.getLogger(__name__)

_lock = threading.Lock()
_loaded: dict[str, Backbone] = {}


def load_backbone(
    backbone: BackboneSettings, assets: Mapping[str, StageRecord], device: str = "cpu", seed: int = 0
) -> Backbone:
    """Return the frozen backbone; the last one loaded is kept, so layers and stages of a process share it.

    Parameters
    ----------
    backbone
        What to load; its shapes are checked against the loaded config.
    assets
        Records of unpacked assets by name; used when `source="asset"`.
    device
        `cpu`, `cuda` or `cuda:<n>`; `backbone.device_map` goes before it.
    seed
        Root seed of random weights; used when `source="random"`.

    Raises
    ------
    AssetError
        If files are missing, corrupt, incomplete or only pickled.
    ConfigError
        If the model type is not registered, a shape differs from the settings, or the device map is wrong.
    ResourceError
        If `backbone.device_map` finds too little room on the GPUs.
    """
    digest = assets[backbone.identifier].digest if backbone.identifier in assets else None
    random_seed = seed if backbone.source == "random" else None
    key = json.dumps([backbone.model_dump(mode="json"), digest, device, random_seed], sort_keys=True)
    with _lock:
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = fresh_backbone(backbone, assets, device, seed)
        return _loaded[key]


def fresh_backbone(
    backbone: BackboneSettings, assets: Mapping[str, StageRecord], device: str = "cpu", seed: int = 0
) -> Backbone:
    """Return a backbone of one's own, to move or cast freely. Parameters and errors as `load_backbone`."""
    family = family_of(backbone.model_type)
    model = _random(backbone, seed) if backbone.source == "random" else _pretrained(backbone, assets)
    _check_shapes(model, backbone)
    return Backbone(place(model, device, backbone.device_map), family, backbone.name)


def forget_backbones() -> None:
    """Release the kept backbone, so that its memory can be freed."""
    with _lock:
        _loaded.clear()


def _random(backbone: BackboneSettings, seed: int) -> nn.Module:
    shapes = {
        "hidden_size": backbone.hidden_size,
        "num_hidden_layers": backbone.num_layers,
        "vocab_size": backbone.vocab_size,
    }
    try:
        config = AutoConfig.for_model(backbone.model_type, **{**backbone.config_overrides, **shapes})
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(torch_seed(seed, "backbone", backbone.identifier))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise ConfigError(
            f"a random {backbone.model_type} cannot be built from backbone.config_overrides "
            f"{backbone.config_overrides} ({_last_line(error)}); correct the overrides"
        ) from error
    return _cast_weights(model, _dtype(backbone))


def _pretrained(backbone: BackboneSettings, assets: Mapping[str, StageRecord]) -> nn.Module:
    source = locate(backbone, assets)
    _refuse_pickles(source, backbone)
    arguments: dict[str, Any] = {**source.arguments, "dtype": _dtype(backbone)}
    if source.gguf is not None:
        arguments["quantization_config"] = GgufConfig(dequantize=True)
    else:
        arguments["use_safetensors"] = True
    log.info("loading %s from %s", backbone.name, source.label)
    try:
        with quiet_transformers(), _quiet_gguf():
            loaded: Any = AutoModelForCausalLM.from_pretrained(source.where, output_loading_info=True, **arguments)
    except Exception as error:
        reason = f"{source.label} could not be loaded ({type(error).__name__}: {_last_line(error)})"
        if backbone.source == "hub" and "connect" in str(error):
            raise NetworkError(f"{reason}; check the network, or download the model beforehand") from error
        raise AssetError(
            f"{reason}; it may be incomplete or lack safetensors weights: fetch it again (assets: `dihal setup`)"
        ) from error
    model, facts = loaded
    for problem in ("missing_keys", "mismatched_keys"):
        if facts.get(problem):
            names = ", ".join(sorted(str(name) for name in facts[problem])[:3])
            raise AssetError(
                f"{source.label} lacks weights of {type(model).__name__}: {len(facts[problem])} {problem} "
                f"such as {names}; fetch the file again or correct backbone.model_type"
            )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return _cast_weights(model, _dtype(backbone))


@contextlib.contextmanager
def _quiet_gguf() -> Iterator[None]:
    """While a GGUF loads: its progress bar obeys transformers' switch, and nothing is parsed twice.

    transformers opens the file once for the config and once for the weights and builds the table of tensor
    names anew for every submodule; with both kept the load takes 6 s instead of 11.
    """
    reader: Any = modeling_gguf_pytorch_utils
    saved = reader.tqdm, gguf.GGUFReader, gguf.get_tensor_name_map
    reader.tqdm = transformers_logging.tqdm
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(saved[1]), functools.cache(saved[2])  # type: ignore[misc]
    try:
        yield
    finally:
        reader.tqdm, gguf.GGUFReader, gguf.get_tensor_name_map = saved  # type: ignore[misc]


def _refuse_pickles(source: Location, backbone: BackboneSettings) -> None:
    if backbone.source != "folder":
        return
    folder = Path(source.where)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only pickled weights ({', '.join(pickled[:3])})" if pickled else "no weights"
        raise AssetError(
            f"{folder} holds {found}; pickles can run code and are not read: "
            "save the model with save_pretrained, which writes model.safetensors"
        )


def _check_shapes(model: Any, backbone: BackboneSettings) -> None:
    config = model.config
    found = {
        "model_type": config.model_type,
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": model.get_input_embeddings().weight.shape[0],
    }
    wrong = {name: value for name, value in found.items() if value != getattr(backbone, name)}
    if wrong:
        said = ", ".join(
            f"backbone.{name} is {getattr(backbone, name)!r} but the model has {wrong[name]!r}" for name in wrong
        )
        raise ConfigError(f"{backbone.name}: {said}; correct the settings")


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[-1].strip()[:300]


def _cast_weights(model: Any, dtype: torch.dtype) -> Any:
    """Cast parameters and leave buffers alone: rotary frequencies stay float32, as transformers keeps them.

    Rounded to bfloat16 (2^-9) they would turn position 500 by up to a radian.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _dtype(backbone: BackboneSettings) -> torch.dtype:
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[backbone.dtype]
