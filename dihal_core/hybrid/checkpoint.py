"""Saving and loading a hybrid: config.json, model.safetensors (the bridge), and the backbone by reference or copy.

    folder/config.json             layer, arm, settings, reference to the backbone, both digests
    folder/model.safetensors       weights and frozen statistics of the arm; nothing is pickled
    folder/generation_config.json  ids that start, end and pad a text
    folder/backbone/               merged copies only: the whole backbone, as transformers saves it
    folder/vae/                    merged copies of bridges with a VAE: the VAE, as diffusers saves it

A reference names source, identifier and revision; the SHA-256 of the loaded weights decides whether it is
the backbone the bridge was trained on.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from transformers import GenerationConfig

from dihal_core.backbones.backbone import Backbone
from dihal_core.backbones.digest import weights_digest
from dihal_core.backbones.loading import fresh_backbone
from dihal_core.backbones.threads import resolve_device
from dihal_core.bridges.arms import make_arm
from dihal_core.bridges.frame import Arm, Frame
from dihal_core.config import BackboneSettings, BridgeSettings
from dihal_core.errors import ArtifactError, AssetError, ConfigError, NetworkError, nearest
from dihal_core.files import dump_json, write_atomically
from dihal_core.hybrid.causal_lm import DiHALForCausalLM, require_hybrid_layer
from dihal_core.hybrid.configuration import DiHALConfig
from dihal_core.hybrid.sources import asset_records, homes_near
from dihal_core.hybrid.structure import VAE, save_structure, stored_structure
from dihal_core.profiles import explain_validation

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
MERGED = "backbone"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
PASSED_BY_AUTO = frozenset(
    {
        "_from_auto",
        "trust_remote_code",
        "adapter_kwargs",
        "use_safetensors",
        "low_cpu_mem_usage",
        "proxies",
        "subfolder",
    }
)
"""What `AutoModelForCausalLM` adds, or what asks for what is done anyway."""


def save_hybrid(model: DiHALForCausalLM, folder: Path, merged: bool = False) -> None:
    """Write `model` into `folder`, config last.

    Parameters
    ----------
    merged
        Also write the backbone, and the bridge's VAE, so that the folder loads anywhere by itself.

    Raises
    ------
    ConfigError
        If the hybrid does not say where its arm and backbone came from.
    """
    config, reference = model.config, model.config.backbone_reference
    if config.bridge_settings is None or reference is None:
        raise ConfigError("this hybrid does not say where arm and backbone came from; make it with hybrid.assemble")
    merged = merged or _lies_inside(reference)  # a copy of a merged copy cannot refer to a folder it left behind
    weights = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in model.arm.state_dict().items()}, {"format": "pt"}
    )
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / GENERATION, dump_json(model.generation_config.to_diff_dict()))
    data = {**json.loads(config.to_json_string()), "layer": config.layer, "arm": config.arm}
    data["bridge_structure"] = save_structure(model.arm, folder, merged)
    data["bridge_sha256"] = hashlib.sha256(weights).hexdigest()
    if merged:
        model.blocks.save_pretrained(folder / MERGED)
        data["backbone_reference"] = {**reference, "source": "folder", "identifier": MERGED, "revision": None}
    write_atomically(folder / CONFIG, dump_json(data))


def load_hybrid(
    place: str | os.PathLike[str],
    *,
    config: DiHALConfig | None = None,
    home: str | os.PathLike[str] | None = None,
    device_map: str | torch.device | Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> DiHALForCausalLM:
    """Return the hybrid saved in a folder or hub repository.

    Parameters
    ----------
    home
        DIHAL_HOME whose assets hold the backbone; by default the one the folder lies in, then $DIHAL_HOME
        or ./runs.
    device_map : str, optional
        One device: cpu, cuda, cuda:1 or auto; cpu by default.
    dtype : optional
        Cast of the backbone after its digest was checked; its own dtype by default.

    Raises
    ------
    ArtifactError
        If a file is missing, unreadable or damaged, or if the backbone found is not the one named.
    AssetError
        If there is no such folder, the backbone or the bridge's VAE is nowhere to be found, or the VAE found is not
        the one the bridge was trained with.
    ConfigError
        For an unknown option or settings that do not fit.
    NetworkError
        If the hub cannot be reached.
    """
    dtype = options.pop("torch_dtype", None) if dtype is None else dtype
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    refuse_options(options, "from_pretrained", PASSED_BY_AUTO)
    device, wanted = _device(device_map), _dtype(dtype)
    folder = _folder(place, hub)
    config = _config(folder) if config is None else config
    reference, bridge = _settings(config, folder)
    backbone = _backbone(config, reference, folder, home)
    arm = _arm(config, bridge, backbone, folder)
    if wanted is not None:
        backbone.model.to(wanted)
    model = DiHALForCausalLM(config, backbone=backbone, arm=arm)
    if (folder / GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.name_or_path = str(place)
    return model.to(device)  # type: ignore[return-value]


def refuse_options(options: Mapping[str, Any], call: str, ignored: Collection[str]) -> None:
    """Raise `ConfigError` for the first option with a value that would have no effect."""
    for name, value in options.items():
        if name not in ignored and value is not None:
            known = ("home", "config", "device_map", "dtype", *HUB_OPTIONS)
            raise ConfigError(f"{call} of a hybrid does not know {name}={value!r}{nearest(name, known)}; leave it out")


def _folder(place: str | os.PathLike[str], hub: dict[str, Any]) -> Path:
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    text = str(place)
    if text.count("/") != 1 or text.startswith((".", "~", "/")):
        raise AssetError(f"there is no folder {text!r}; give the folder of a saved hybrid, or a hub id owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(text, allow_patterns=["*.json", "*.safetensors", f"{MERGED}/*", f"{VAE}/*"], **hub)
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no details"]
        raise NetworkError(
            f"{text!r} is no local folder and could not be fetched from the hub ({type(error).__name__}: "
            f"{lines[0][:160]}); check name, network and `hf auth login`"
        ) from error


def _config(folder: Path) -> DiHALConfig:
    try:
        json.loads((folder / CONFIG).read_bytes())  # transformers makes a default config where there is none
        config = DiHALConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises OSError, ValueError and validation errors of its own
        raise ArtifactError(
            f"{folder / CONFIG} is missing or unreadable ({type(error).__name__}: {_first_line(error)}); "
            "save the hybrid again: `dihal study` writes one, `dihal export` copies it"
        ) from error
    return config


def _settings(config: DiHALConfig, folder: Path) -> tuple[BackboneSettings, BridgeSettings]:
    try:
        reference = BackboneSettings.model_validate(config.backbone_reference)
        bridge = TypeAdapter(BridgeSettings).validate_python(config.bridge_settings)
    except ValidationError as error:
        raise ArtifactError(
            f"{folder / CONFIG} does not describe a hybrid of this version: {explain_validation(error)}; "
            "save it again with the installed version"
        ) from error
    bounds = {"sampling_steps": (1, 1000), "noise_seed": (0, 2**31 - 1), "backbone_seed": (0, 2**31 - 1)}
    bounds["separator_token_id"] = (0, reference.vocab_size - 1)
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if type(value) is not int or not low <= value <= high:
            raise ArtifactError(
                f"{folder / CONFIG} says {name} = {value!r}, not a whole number {low}..{high}; correct it"
            )
    return reference, bridge


def _backbone(
    config: DiHALConfig, reference: BackboneSettings, folder: Path, home: str | os.PathLike[str] | None
) -> Backbone:
    if _lies_inside(reference.model_dump()):
        reference = reference.model_copy(update={"identifier": str(folder / MERGED)})
    assets = asset_records(reference, homes_near(folder, home)) if reference.source == "asset" else {}
    backbone = fresh_backbone(reference, assets, "cpu", config.backbone_seed)
    found = weights_digest(backbone.model)
    if found != config.backbone_sha256:
        raise ArtifactError(
            f"the backbone {reference.name!r} from {reference.source} {reference.identifier} has weights with digest "
            f"{found[:12]}, this hybrid was trained on {str(config.backbone_sha256)[:12]}: its bridge would feed "
            "another model. Give it that backbone (same source, revision, quantisation and dtype), or a merged copy"
        )
    require_hybrid_layer(config.layer, backbone)
    return backbone


def _arm(config: DiHALConfig, bridge: BridgeSettings, backbone: Backbone, folder: Path) -> Arm:
    path = folder / WEIGHTS
    structure = stored_structure(config.bridge_structure, folder)
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != config.bridge_sha256:
            raise ValueError(f"its digest is {found[:12]}, config.json names {str(config.bridge_sha256)[:12]}")
        tensors = safetensors.torch.load(data)
        arm = make_arm(config.arm, bridge, Frame(backbone.hidden_size, bridge.ridge_tokens), 0, structure)
        arm.load_state_dict(tensors)
    except (ConfigError, AssetError):
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"bridge weights {path} cannot be used ({type(error).__name__}: {_first_line(error)}); the file is missing, "
            "incomplete or was changed: copy or save the hybrid again"
        ) from error
    return arm.eval().requires_grad_(False)


def _lies_inside(reference: Mapping[str, Any]) -> bool:
    return reference["source"] == "folder" and reference["identifier"] == MERGED


def _device(device_map: str | torch.device | Mapping[str, Any] | None) -> str:
    if isinstance(device_map, Mapping):
        if set(device_map) != {""}:
            raise ConfigError(
                f"device_map {dict(device_map)} spreads a hybrid over devices; give one device, e.g. 'cuda'"
            )
        device_map = device_map[""]
    if device_map is None:
        return "cpu"
    if isinstance(device_map, int):
        return f"cuda:{device_map}"
    return resolve_device("auto") if str(device_map) == "auto" else str(device_map)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype if isinstance(dtype, torch.dtype) else None
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known{nearest(dtype, DTYPES)}; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0][:200]
